"""workers.audit on real histories: what it finds, and what attempts leave to each other."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.waiting import until
from turnout import Client, Fatal, JobCancelled, Worker
from turnout.testing import ActivityEnvironment
from workers.audit import Audited, audit_customer_history, examine
from workers.history import Account, Event, Finding, make_history, read_page

CUSTOMERS = 60
StartWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
def planted(history: Path) -> list[Finding]:
    """What is wrong in the history."""
    return make_history(history, CUSTOMERS, 600, flawed=0.5)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Where the history of a test is, once `planted` has made it."""
    return tmp_path / "history.db"


def audit(env: ActivityEnvironment, history: Path, **options: Any) -> Audited:
    """Run one attempt to its end, its thread included."""
    return asyncio.run(env.run(audit_customer_history, str(history), page_size=10, **options))


def audit_until(env: ActivityEnvironment, pages: int, history: Path, reason: str) -> None:
    """Run one attempt until so many pages are closed, then stop it; returns when its thread has ended."""

    async def far_enough() -> bool:
        return len(env.checkpoints) >= pages

    async def attempt() -> None:
        running = asyncio.create_task(env.run(audit_customer_history, str(history), page_size=10, pause=0.05))
        await until(far_enough)
        env.cancel(reason)
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(attempt())


def found_in(report: str | Path) -> list[Finding]:
    return [Finding(**json.loads(line)) for line in Path(report).read_text().splitlines()]


def left_over(history: Path) -> list[str]:
    """What is in the history's directory beside it."""
    return sorted(path.name for path in history.parent.iterdir() if path != history)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32), st.integers(1, 20), st.integers(0, 120), st.sampled_from([0.0, 0.3, 1.0]), st.integers(1, 9)
)
def test_it_finds_what_is_wrong_and_nothing_else(
    seed: int, customers: int, events: int, flawed: float, page_size: int
) -> None:
    """Every planted flaw is found once, at its event, and where nothing was planted nothing is found."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        planted = make_history(path, customers, events, seed=seed, flawed=flawed)
        found: list[Finding] = []
        seen, last = 0, 0
        with closing(sqlite3.connect(path)) as database:
            while page := read_page(database, last, page_size):
                found += [finding for account in page for finding in examine(account)]
                seen, last = seen + sum(len(account.events) for account in page), page[-1].customer
    assert found == planted
    assert seen == events


def test_several_flaws_of_one_account() -> None:
    """Each flaw is told with its event and in words; what follows one is judged by what stands there."""
    events = (Event(1, 100, "deposit", 50, 50), Event(3, 90, "fee", -5, 40), Event(4, 95, "fee", -5, 36))
    findings = list(examine(Account(7, "somebody", 35, events)))
    assert [(finding.flaw, finding.event, finding.detail) for finding in findings] == [
        ("missing_events", 3, "it follows on event 1"),
        ("back_in_time", 3, "10 s before event 1"),
        ("wrong_balance", 4, "36 should be 35"),
        ("wrong_closing_balance", 0, "35 should be 36"),
    ]


def test_the_report_holds_every_finding(history: Path, planted: list[Finding]) -> None:
    """The report lists the findings in order, the totals add up to them, and nothing else is left behind."""
    env = ActivityEnvironment()
    result = audit(env, history)
    assert found_in(result.report) == planted
    assert sum(result.totals.findings.values()) == len(planted) > 10
    assert (result.totals.customers, result.totals.events) == (CUSTOMERS, 600)
    with closing(sqlite3.connect(history)) as database:
        assert result.totals.money_in - result.totals.money_out == database.execute(
            "SELECT sum(amount) FROM events"
        ).fetchone()[0]  # fmt: skip
    assert (result.pages, result.restored_pages) == (6, 0)
    assert left_over(history) == ["history.db.findings.jsonl"]


def test_it_talks_about_every_customer(history: Path, planted: list[Finding]) -> None:
    """Progress counts the customers one by one up to all of them, by name."""
    env = ActivityEnvironment()
    audit(env, history)
    assert [report.done for report in env.progress] == list(range(1, CUSTOMERS + 1))
    assert {report.total for report in env.progress} == {CUSTOMERS}
    assert env.progress[11].message == "customer 00012: 10 events"


@pytest.mark.parametrize("reason", ["node_stopping", "timed_out", "lease_lost"])
def test_the_next_attempt_reads_no_page_again(history: Path, planted: list[Finding], reason: str) -> None:
    """Closed pages are taken over, and the report is that of an audit without an interruption."""
    first = ActivityEnvironment()
    audit_until(first, 3, history, reason)
    closed = len(first.checkpoints)
    second = ActivityEnvironment(attempt=2, checkpoint=first.checkpoints[-1])
    result = audit(second, history)
    assert (result.pages, result.restored_pages) == (6, closed)
    assert second.progress[0].done == 10 * closed + 1
    assert found_in(result.report) == planted
    assert left_over(history) == ["history.db.findings.jsonl"]


def test_a_history_that_has_changed_is_audited_anew(history: Path, planted: list[Finding]) -> None:
    """Pages of what the history was before are not mixed with what it is now."""
    first = ActivityEnvironment()
    audit_until(first, 3, history, "node_stopping")
    now = make_history(history, CUSTOMERS, 600, seed=1, flawed=0.5)
    result = audit(ActivityEnvironment(attempt=2, checkpoint=first.checkpoints[-1]), history)
    assert result.restored_pages == 0
    assert found_in(result.report) == now != planted


def test_a_lost_page_is_found_out(history: Path, planted: list[Finding]) -> None:
    """The checkpoint is believed as far as the disk confirms it."""
    first = ActivityEnvironment()
    audit_until(first, 3, history, "node_stopping")
    next(history.parent.glob("*.pages/000001.jsonl")).unlink()
    result = audit(ActivityEnvironment(attempt=2, checkpoint=first.checkpoints[-1]), history)
    assert result.restored_pages == 0
    assert found_in(result.report) == planted


def test_an_attempt_after_the_report_only_has_to_say_so(history: Path, planted: list[Finding]) -> None:
    """A crash between the report and the job's end costs nothing: no page is read, the result is the same."""
    first = ActivityEnvironment()
    result = audit(first, history)
    second = ActivityEnvironment(attempt=2, checkpoint=first.checkpoints[-1])
    assert audit(second, history) == result.model_copy(update={"restored_pages": 6})
    assert second.progress == []


def test_what_cannot_be_audited_faults_for_good(history: Path, planted: list[Finding]) -> None:
    """A missing file, something else than a history, a report where none can be: Fatal, and nothing left behind."""
    noise, other = history.with_name("noise.db"), history.with_name("other.db")
    noise.write_bytes(b"not a database" * 100)
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE customers (name TEXT)")
    before = left_over(history)
    for path, options, message in (
        (history.with_name("gone.db"), {}, "there is no such file"),
        (noise, {}, "is not a customers' history: file is not a database"),
        (other, {}, "is not a customers' history: no such table: events"),
        (history, {"report": str(history)}, "can't be the report"),
        (history, {"report": str(history.with_name("nowhere") / "report")}, "can't be the report"),
    ):
        with pytest.raises(Fatal, match=message):
            audit(ActivityEnvironment(), path, **options)
    assert left_over(history) == before


async def test_as_a_job_whose_node_is_stopped(
    turnout_client: Client, turnout_worker: StartWorker, history: Path, planted: list[Finding]
) -> None:
    """A stopped node hands the audit over: another goes on with the next page, in a second attempt."""
    first = await turnout_worker(audit_customer_history, name="first")
    handle = await turnout_client.submit(audit_customer_history, str(history), page_size=5, pause=0.1)
    async for info in handle.watch():
        if info.checkpoint and info.checkpoint["pages"] >= 2:
            break
    await first.stop(grace=0)
    await turnout_worker(audit_customer_history, name="second")
    result = await handle.result(timeout=30)
    assert result.restored_pages >= 2
    assert found_in(result.report) == planted
    assert [attempt.outcome for attempt in (await handle.info()).attempts] == ["aborted", "completed"]


async def test_as_a_job_that_is_cancelled(
    turnout_client: Client, turnout_worker: StartWorker, history: Path, planted: list[Finding]
) -> None:
    """A cancel ends the thread within a page's rest, and leaves an earlier report as it was and nothing else."""
    report = history.with_name("history.db.findings.jsonl")
    report.write_text("an earlier report")
    await turnout_worker(audit_customer_history)
    handle = await turnout_client.submit(audit_customer_history, str(history), page_size=5, pause=30)
    async for info in handle.watch():
        if info.checkpoint:
            break
    await handle.cancel("not needed any more")
    with pytest.raises(JobCancelled, match="not needed any more"):
        await handle.result(timeout=30)
    assert left_over(history) == [report.name]
    assert report.read_text() == "an earlier report"
