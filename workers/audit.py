"""Audit the history of every customer: long, talkative, and able to go on where it stopped.

    python -c "from workers.audit import make_history; make_history('/tmp/history.db', customers=500, events=50_000)"
    turnout worker workers.audit
    turnout job submit audit_customer_history '{"path": "/tmp/history.db"}' --follow

The history is an SQLite database of customers and of the events on their accounts. The audit reads it page by page,
a page being some customers with all of their events, and looks for what does not add up. What it finds on a page
becomes a file of its own; then the checkpoint says that the page is closed. In the end the pages become one report,
which is there whole or not at all.

A plain function: it runs in a thread, and asks whether it was cancelled instead of being interrupted.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import attrs
from pydantic import BaseModel, Field

from turnout import Fatal, RetryPolicy, activity, current_job
from workers import files

Flaw = Literal["missing_events", "wrong_balance", "back_in_time", "wrong_closing_balance"]

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


class Totals(BaseModel):
    """What was seen so far; money in cents."""

    customers: int = 0
    events: int = 0
    money_in: int = 0
    money_out: int = 0
    findings: dict[Flaw, int] = {}


class Progress(BaseModel):
    """The checkpoint. `basis` says of which history, cut into which pages: after a change the audit begins anew."""

    basis: list[int]
    last_customer: int = 0
    pages: int = 0
    totals: Totals = Totals()
    reported: bool = False


class Audited(BaseModel):
    """The report's place (JSON Lines, a finding each) and the totals; `restored_pages` are of earlier attempts."""

    report: str
    pages: int
    restored_pages: int
    totals: Totals


@activity(timeout=24 * 3600, lease=5, concurrency=4, retry=RetryPolicy(max_attempts=3, delay=2.0))
def audit_customer_history(
    path: str,
    report: str | None = None,
    page_size: Annotated[int, Field(ge=1, le=10_000)] = 50,
    pause: Annotated[float, Field(ge=0, le=60)] = 0.0,
) -> Audited:
    """Audit the history in the database `path` and write what is found to `report` (by default beside it).

    `pause` is how many seconds to rest after each page of `page_size` customers, for the sake of others who use the
    database. A file that is missing or not a history faults the job at once.
    """
    job = current_job()
    place = Path(report) if report else Path(f"{path}.findings.jsonl")
    work = place.with_name(f"{place.name}.{job.id}.pages")

    def stop_if_cancelled(wait: float = 0.0) -> None:
        if not job.wait_cancelled(wait):
            return
        if (job.cancel_reason or "").startswith("cancelled"):
            files.remove(work)  # an attempt that was merely stopped leaves its pages to the next
        raise asyncio.CancelledError(job.cancel_reason)

    with closing(open_history(Path(path))) as database:
        basis = [*extent(database), page_size]
        state = still_true(job.restored(Progress), basis, work, place)
        restored = state.pages
        while page := read_page(database, state.last_customer, page_size):
            for number, account in enumerate(page, state.totals.customers + 1):
                stop_if_cancelled()
                job.progress(number, basis[0], f"{account.name}: {len(account.events)} events")
            state = close_page(state, page, work)
            job.checkpoint_sync(state)
            stop_if_cancelled(pause)
    if not state.reported:
        join_pages(state.pages, work, place)
        job.checkpoint_sync(state.model_copy(update={"reported": True}))
    files.remove(work)
    return Audited(report=str(place), pages=state.pages, restored_pages=restored, totals=state.totals)


def examine(account: Account) -> Iterator[Finding]:
    """What does not add up in one account. Each flaw is found once: what follows it is judged by what stands there."""
    last = Event(number=0, at=0, kind="", amount=0, balance=0)
    for event in account.events:
        if event.number != last.number + 1:
            yield Finding(account.customer, "missing_events", event.number, f"it follows on event {last.number}")
        elif event.balance != last.balance + event.amount:
            expected = last.balance + event.amount
            yield Finding(account.customer, "wrong_balance", event.number, f"{event.balance} should be {expected}")
        if event.at < last.at:
            yield Finding(
                account.customer, "back_in_time", event.number, f"{last.at - event.at} s before event {last.number}"
            )
        last = event
    if account.balance != last.balance:
        yield Finding(account.customer, "wrong_closing_balance", 0, f"{account.balance} should be {last.balance}")


def close_page(state: Progress, page: list[Account], work: Path) -> Progress:
    """Write what is wrong on a page into its file, and count it in."""
    found = [finding for account in page for finding in examine(account)]
    with files.whole(page_path(work, state.pages)) as part:
        part.write_text("".join(f"{json.dumps(attrs.asdict(finding))}\n" for finding in found))
    amounts = [event.amount for account in page for event in account.events]
    totals = state.totals
    flaws = Counter(totals.findings)
    flaws.update(finding.flaw for finding in found)
    counted = Totals(
        customers=totals.customers + len(page),
        events=totals.events + len(amounts),
        money_in=totals.money_in + sum(amount for amount in amounts if amount > 0),
        money_out=totals.money_out - sum(amount for amount in amounts if amount < 0),
        findings=dict(flaws),
    )
    return Progress(basis=state.basis, last_customer=page[-1].customer, pages=state.pages + 1, totals=counted)


def still_true(state: Progress | None, basis: list[int], work: Path, place: Path) -> Progress:
    """An earlier attempt's state if the history and the disk still agree with it, else the beginning."""
    if state is not None and state.basis == basis:
        if state.reported and place.exists():
            return state
        pages = [page_path(work, number) for number in range(state.pages)]
        if all(page.exists() for page in pages):
            files.keep_only(work, {page.name for page in pages})
            return state.model_copy(update={"reported": False})
    files.keep_only(work, ())
    return Progress(basis=basis)


def page_path(work: Path, number: int) -> Path:
    return work / f"{number:06d}.jsonl"


def join_pages(pages: int, work: Path, place: Path) -> None:
    """Make one report of the findings of all pages."""
    with files.whole(place) as part, part.open("wb") as whole:
        for number in range(pages):
            with page_path(work, number).open("rb") as page:
                shutil.copyfileobj(page, whole)


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
        Account(*account, events=tuple(Event(*row[3:]) for row in own if row[3] is not None))
        for account, own in groupby(rows, key=lambda row: row[:3])
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
    flaws: list[Flaw] = ["wrong_closing_balance"]
    if len(account.events) > 2:
        flaws += ["missing_events", "wrong_balance", "back_in_time"]
    flaw = dice.choice(flaws)
    if flaw == "wrong_closing_balance":
        return attrs.evolve(account, balance=account.balance + dice.randint(1, 99)), Finding(account.customer, flaw, 0)
    index = dice.randrange(1, len(account.events) - 1)
    before, after = account.events[:index], account.events[index:]
    off = dice.randint(1, 99)
    if flaw == "missing_events":
        after = tuple(attrs.evolve(event, number=event.number + off) for event in after)
    elif flaw == "wrong_balance":
        after = tuple(attrs.evolve(event, balance=event.balance + off) for event in after)
    else:
        after = (attrs.evolve(after[0], at=before[-1].at - off), *after[1:])
    spoilt = attrs.evolve(account, events=before + after, balance=after[-1].balance)
    return spoilt, Finding(account.customer, flaw, after[0].number)
