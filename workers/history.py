"""What a customers' history is: an SQLite database to read page by page, and how to make one with known flaws."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args

import attrs

from turnout import Fatal
from workers import files

Flaw = Literal["missing_events", "wrong_balance", "back_in_time", "wrong_closing_balance"]
FLAWS: tuple[Flaw, ...] = get_args(Flaw)

SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, balance INTEGER NOT NULL);
CREATE TABLE events (customer INTEGER NOT NULL, number INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
                     amount INTEGER NOT NULL, balance INTEGER NOT NULL, PRIMARY KEY (customer, number)) WITHOUT ROWID;
"""
"""Money is in cents, `at` in unix seconds. A customer's events are numbered from 1; each says the balance after it."""


@attrs.frozen
class Event:
    """One event on a customer's account."""

    number: int
    at: int
    kind: str
    amount: int
    balance: int


@attrs.frozen
class Account:
    """A customer with all of their events; `balance` is what the account is said to hold now."""

    customer: int
    name: str
    balance: int
    events: tuple[Event, ...]


@attrs.frozen
class Finding:
    """What does not add up: whose, at which event (0: the account as a whole), and in words."""

    customer: int
    flaw: Flaw
    event: int
    detail: str = attrs.field(default="", eq=False)


def open_history(path: Path) -> sqlite3.Connection:
    """The database, for reading alone. Raises Fatal if it is none, or not one of a history."""
    if not path.is_file():
        raise Fatal(f"{path}: there is no such file")
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        database.execute("SELECT customers.id, name, number, at, kind, amount FROM customers, events LIMIT 0")
    except sqlite3.DatabaseError as error:
        database.close()
        raise Fatal(f"{path} is not a customers' history: {error}") from error
    return database


def extent(database: sqlite3.Connection) -> list[int]:
    """What tells a history from what it was: its customers, their money, its events, their amounts."""
    customers = database.execute("SELECT count(*), coalesce(sum(balance), 0) FROM customers").fetchone()
    events = database.execute("SELECT count(*), coalesce(sum(amount), 0) FROM events").fetchone()
    return [*customers, *events]


def read_page(database: sqlite3.Connection, after: int, size: int) -> list[Account]:
    """The next customers after this one, with all of their events, in the order of their numbers."""
    rows = database.execute(
        "SELECT id, name, page.balance, number, at, kind, amount, events.balance"
        " FROM (SELECT * FROM customers WHERE id > ? ORDER BY id LIMIT ?) AS page LEFT JOIN events ON customer = id"
        " ORDER BY id, number",
        (after, size),
    )
    return [
        Account(customer, name, balance, tuple(Event(*row[3:]) for row in own if row[3] is not None))
        for (customer, name, balance), own in groupby(rows, key=lambda row: row[:3])
    ]


def make_history(path: str | Path, customers: int, events: int, seed: int = 0, flawed: float = 0.1) -> list[Finding]:
    """Write a history with one flaw in this share of the accounts, and return what an audit must find in it."""
    dice = random.Random(seed)
    planted: list[Finding] = []

    def accounts() -> Iterator[Account]:
        for customer in range(1, customers + 1):
            size = events // customers + (customer <= events % customers)
            account = _grow(dice, customer, size)
            if dice.random() < flawed:
                account, finding = _spoil(dice, account)
                planted.append(finding)
            yield account

    with files.whole(Path(path)) as part, closing(sqlite3.connect(part)) as database:
        database.executescript(SCHEMA)
        with database:
            for account in accounts():
                row = (account.customer, account.name, account.balance)
                database.execute("INSERT INTO customers VALUES (?, ?, ?)", row)
                rows: Iterable[tuple[object, ...]] = ((row[0], *attrs.astuple(event)) for event in account.events)
                database.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
    return planted


def _grow(dice: random.Random, customer: int, size: int) -> Account:
    """An account whose every event follows from the one before."""
    balance, at, events = 0, 1_600_000_000, []
    for number in range(1, size + 1):
        kind, amount = dice.choice((("deposit", 50_00), ("purchase", -30_00), ("refund", 10_00), ("fee", -1_50)))
        amount = amount * dice.randint(1, 20) // 10
        balance, at = balance + amount, at + dice.randint(60, 86_400)
        events.append(Event(number, at, kind, amount, balance))
    return Account(customer, f"customer {customer:05d}", balance, tuple(events))


def _spoil(dice: random.Random, account: Account) -> tuple[Account, Finding]:
    """The account with one flaw in it; what follows the flaw agrees with it, as it does in life."""
    flaw = dice.choice(FLAWS if len(account.events) > 2 else FLAWS[-1:])
    if flaw == "wrong_closing_balance":
        return attrs.evolve(account, balance=account.balance + dice.randint(1, 99)), Finding(account.customer, flaw, 0)
    events, off = list(account.events), dice.randint(1, 99)
    first = dice.randrange(1, len(events) - 1)
    for index in range(first, len(events)):
        event = events[index]
        if flaw == "missing_events":
            events[index] = attrs.evolve(event, number=event.number + off)
        elif flaw == "wrong_balance":
            events[index] = attrs.evolve(event, balance=event.balance + off)
        elif index == first:
            events[index] = attrs.evolve(event, at=events[index - 1].at - off)
    spoilt = attrs.evolve(account, events=tuple(events), balance=events[-1].balance)
    return spoilt, Finding(account.customer, flaw, events[first].number)
