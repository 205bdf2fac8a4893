"""Audit the history of every customer: long, talkative, and able to go on where it stopped.

    python -c "from workers.history import make_history; make_history('/tmp/history.db', customers=500, events=50_000)"
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
import functools
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import attrs
from pydantic import BaseModel, Field

from turnout import Fatal, RetryPolicy, activity, current_job
from workers import files
from workers.history import Account, Event, Finding, Flaw, extent, open_history, read_page


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


@activity(timeout=86_400, lease=5, concurrency=4, retry=RetryPolicy(max_attempts=3, delay=2))
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
    if place.is_dir() or not place.parent.is_dir() or place.resolve() == Path(path).resolve():
        raise Fatal(f"{place} can't be the report: it is a directory, or in one that does not exist, or the history")

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
    found = functools.partial(Finding, account.customer)
    last = Event(number=0, at=0, kind="", amount=0, balance=0)
    for event in account.events:
        if event.number != last.number + 1:
            yield found("missing_events", event.number, f"it follows on event {last.number}")
        elif event.balance != last.balance + event.amount:
            yield found("wrong_balance", event.number, f"{event.balance} should be {last.balance + event.amount}")
        if event.at < last.at:
            yield found("back_in_time", event.number, f"{last.at - event.at} s before event {last.number}")
        last = event
    if account.balance != last.balance:
        yield found("wrong_closing_balance", 0, f"{account.balance} should be {last.balance}")


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
