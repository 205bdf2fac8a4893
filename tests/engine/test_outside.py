"""Completion from outside: the code is done, and somebody else says how the job ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.process_activities import approve_in_process
from tests.support.rawsocket import raw_publish
from tests.support.values import job_record
from tests.support.waiting import running, until
from turnout import (
    Client,
    CompleteLater,
    InvalidValue,
    JobCancelled,
    JobFaulted,
    JobHandle,
    JobInfo,
    JobNotFound,
    JobState,
    Limit,
    NotCompletable,
    RetryPolicy,
    activity,
    current_job,
    fastjson,
    wire,
)
from turnout.core.events import Stuck
from turnout.core.record import AttemptRecord, Outside, Token
from turnout.store.perform import Performer
from turnout.testing import NatsServer

gates: list[asyncio.Event] = []
SOON_S = 30.0
"""How long it may take on a busy machine until what somebody has said is heard."""


@activity(retry=RetryPolicy(max_attempts=2, delay=0.05), lease=1.0, concurrency=1)
async def approve(timeout: float | None = None) -> int:
    """Leaves it to somebody else; the second attempt gives its own number."""
    try:
        if current_job().attempt > 1:
            return -current_job().attempt
        raise CompleteLater(timeout)
    except Exception:
        return 0  # which a BaseException passes


@activity(retry=RetryPolicy.none(), limits=[Limit("signatures", concurrency=1)])
async def approve_alone() -> int:
    raise CompleteLater


@activity(retry=RetryPolicy.none())
def approve_in_thread() -> int:
    raise CompleteLater


@activity(retry=RetryPolicy.none())
async def approve_slowly() -> int:
    await gates[-1].wait()
    raise CompleteLater


@activity
async def returns_slowly() -> int:
    await gates[-1].wait()
    return 7


@activity
async def quick() -> str:
    return "done"


@pytest.fixture
async def gate() -> asyncio.Event:
    """What `approve_slowly` waits for."""
    gates.append(asyncio.Event())
    return gates[-1]


async def outside(handle: JobHandle[Any]) -> JobInfo:
    """The job, as soon as its code has left it to others."""

    async def left() -> JobInfo | None:
        info = await handle.info()
        return info if info.state is JobState.running and info.node is None else None

    return await until(left, within_s=60.0)


async def answers_kept(client: Client, count: int) -> None:
    """Return when so many bare answers are kept, and not dealt with yet."""
    store = client.store

    async def so_many() -> bool:
        info = await store.connection.api(f"STREAM.INFO.{store.names.completions}")
        return bool(info["state"]["messages"] == count)

    await until(so_many)


@pytest.fixture
async def worker(turnout_worker: Any) -> AsyncIterator[None]:
    activities = (approve, approve_in_thread, approve_in_process, approve_slowly)
    async with turnout_worker(*activities, concurrency=4):
        yield


@pytest.mark.parametrize("activity", [approve, approve_in_thread, approve_in_process], ids=lambda each: each.name)
async def test_a_job_is_completed_by_somebody_else(turnout_client: Client, worker: None, activity: Any) -> None:
    """It runs on without a node and is listed as running; the value is its result, and comes back as its type."""
    handle = await turnout_client.submit(activity)
    info = await outside(handle)
    assert (info.suspect, info.attempt, info.next_attempt_at) == (False, 1, None)
    assert [each.id async for each in turnout_client.jobs(state="running")] == [handle.id]
    await turnout_client.job(handle.id).complete(7, attempt=info.attempt)
    assert await handle.result(timeout=SOON_S) == 7
    ended = await handle.info()
    assert [(each.number, each.outcome) for each in ended.attempts] == [(1, "completed")]
    for late in (handle.complete(8), handle.fail("no"), handle.heartbeat(), handle.progress(1)):
        with pytest.raises(NotCompletable, match="completed"):
            await late
    found = await turnout_client.store.queue.find(activity.name, handle.id)
    assert found is None


async def test_it_holds_no_slot_and_no_lease(turnout_client: Client, worker: None) -> None:
    """Twenty at a concurrency of one, left alone for more than a lease: none is lost, or run again."""
    handles = await turnout_client.submit_many(approve, [{}] * 20)
    await asyncio.gather(*(outside(handle) for handle in handles))
    await asyncio.sleep(3.0)  # three leases
    infos = [await outside(handle) for handle in handles]
    assert {(info.attempt, info.losses, info.failures) for info in infos} == {(1, 0, 0)}
    await asyncio.gather(*(handle.complete(number) for number, handle in enumerate(handles)))
    assert [await handle.result(timeout=SOON_S) for handle in handles] == list(range(20))


async def test_it_holds_its_places_of_limits_until_it_has_ended(turnout_client: Client, turnout_worker: Any) -> None:
    """The next one of a limit of one begins when somebody has completed the first."""
    async with turnout_worker(approve_alone, concurrency=4):
        first = await turnout_client.submit(approve_alone)
        await outside(first)
        second = await turnout_client.submit(approve_alone)

        async def held_up() -> bool:
            waiting = (await second.info()).waiting_for
            return waiting is not None and waiting.kind == "limit"

        await until(held_up)
        await first.complete(1)
        await outside(second)
        await second.complete(2)
        assert [await first.result(timeout=SOON_S), await second.result(timeout=SOON_S)] == [1, 2]


async def test_a_failure_from_outside_is_retried_unless_it_is_fatal(turnout_client: Client, worker: None) -> None:
    """The policy decides: the second attempt ends by itself here. A fatal one is the last."""
    handle = await turnout_client.submit(approve)
    await outside(handle)
    await handle.fail("they said no")
    assert await handle.result(timeout=30) == -2
    info = await handle.info()
    assert [(each.outcome, each.error.message if each.error else "") for each in info.attempts] == [
        ("faulted", "they said no"),
        ("completed", ""),
    ]
    assert info.failures == 1
    handle = await turnout_client.submit(approve)
    await outside(handle)
    await handle.fail("never", fatal=True)
    with pytest.raises(JobFaulted, match="never") as caught:
        await handle.result(timeout=SOON_S)
    assert (caught.value.info.reason, caught.value.info.error.type) == ("fatal", "FailedOutside")


@pytest.mark.parametrize("fails", [False, True])
async def test_an_answer_before_the_code_is_done_counts(
    turnout_client: Client, worker: None, gate: asyncio.Event, fails: bool
) -> None:
    """It is kept until the code leaves the rest to others; the second one is refused."""
    handle = await turnout_client.submit(approve_slowly)
    await running(handle)
    await (handle.fail("too early, and bad") if fails else handle.complete(5))
    with pytest.raises(NotCompletable, match="has its answer already"):
        await handle.complete(6)
    assert (await handle.info()).state is JobState.running
    gate.set()
    if fails:
        with pytest.raises(JobFaulted, match="too early, and bad"):
            await handle.result(timeout=SOON_S)
    else:
        assert await handle.result(timeout=SOON_S) == 5


@pytest.mark.parametrize("fails", [False, True])
async def test_an_answer_to_code_that_ends_by_itself_is_told(
    turnout_client: Client, turnout_worker: Any, gate: asyncio.Event, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    """What the code returns counts; that somebody outside has said something else is in the job and in the log."""
    with caplog.at_level(logging.WARNING, "turnout.attempts"):
        async with turnout_worker(returns_slowly):
            handle = await turnout_client.submit(returns_slowly)
            await running(handle)
            await (handle.fail("too early") if fails else handle.complete(5))
            assert (await handle.info()).unused_answer is None
            gate.set()
            assert await handle.result(timeout=30) == 7
            assert (await handle.info()).unused_answer == ("failed: too early" if fails else "completed")
    assert "which did not count" in caplog.text


async def test_past_its_timeout_the_attempt_has_timed_out(turnout_client: Client, worker: None) -> None:
    """Which is a failure that is retried; a heartbeat begins the time anew, and progress does as well."""
    handle = await turnout_client.submit(approve, 3.0)
    began = (await outside(handle)).attempts[0].started_at
    await asyncio.sleep(1.6)
    await handle.heartbeat()
    await asyncio.sleep(1.6)
    await handle.progress(1, 2, "half")
    assert await handle.result(timeout=30) == -2
    first, second = (await handle.info()).attempts
    assert (first.outcome, second.outcome) == ("timed_out", "completed")
    assert first.ended_at is not None
    assert (first.ended_at - began).total_seconds() >= 6.1
    progress = (await handle.info()).progress
    assert progress is not None
    assert (progress.done, progress.message) == (1, "half")


async def test_a_cancel_ends_it_at_once(turnout_client: Client, worker: None) -> None:
    """Nobody has to be asked: it is cancelled when `cancel` returns."""
    handle = await turnout_client.submit(approve)
    await outside(handle)
    await handle.cancel("withdrawn")
    info = await handle.info()
    assert (info.state, info.reason, info.attempts[0].outcome) == ("cancelled", "withdrawn", "cancelled")
    with pytest.raises(JobCancelled):
        await handle.result(timeout=SOON_S)
    with pytest.raises(NotCompletable):
        await handle.complete(1)


async def test_an_expired_job_is_faulted_outside_too(turnout_client: Client, worker: None) -> None:
    """`expires_in` ends it with reason `expired`, its attempt timed out."""
    handle = await turnout_client.submit(approve.options(expires_in=1.0))
    with pytest.raises(JobFaulted, match="expired") as caught:
        await handle.result(timeout=30)
    assert [each.outcome for each in caught.value.info.attempts] == ["timed_out"]


async def test_what_does_not_fit_is_refused_before_anything_is_stored(turnout_client: Client, worker: None) -> None:
    """A value of another type, typed or by name; an attempt that is no number; an unknown job; another attempt."""
    handle = await turnout_client.submit(approve)
    await outside(handle)
    for same in (handle, turnout_client.job(handle.id)):
        with pytest.raises(InvalidValue, match="approve"):
            await same.complete("seven")
    with pytest.raises(InvalidValue, match="attempt"):
        await handle.complete(7, attempt=0)
    with pytest.raises(InvalidValue, match="message"):
        await handle.fail(7)  # type: ignore[arg-type]
    for unkeepable in (float("nan"), float("inf"), 10**400, "half", None):
        with pytest.raises(InvalidValue, match="progress done must be a finite number"):
            await handle.progress(unkeepable)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="progress total must be a finite number"):
        await handle.progress(1, float("nan"))
    with pytest.raises(NotCompletable, match="attempt 1 by now, not in 2"):
        await handle.complete(7, attempt=2)
    with pytest.raises(NotCompletable, match="attempt 1 by now, not in 2"):
        await handle.heartbeat(attempt=2)
    with pytest.raises(JobNotFound):
        await turnout_client.job("nobody").complete(7)
    waiting = await turnout_client.submit(quick)
    with pytest.raises(NotCompletable, match="queued"):
        await waiting.complete("x")
    assert (await handle.info()).state is JobState.running


async def test_bare_answers_are_kept_while_nobody_works(
    turnout_client: Client, turnout_worker: Any, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """`nats pub` completes a job, and lets one fail, over a restart of the server; what does not fit is dropped."""
    names = turnout_client.store.names
    async with turnout_worker(approve):
        good, bad, odd = await turnout_client.submit_many(approve, [{}] * 3, ids=["good", "bad", "odd"])
        await asyncio.gather(*(outside(handle) for handle in (good, bad, odd)))
    raw_publish(nats_server.url, f"{names.ns}.complete.good", b"42")
    raw_publish(nats_server.url, f"{names.ns}.fail.bad", b"the fax is broken")
    for nonsense in (b'"a word"', b"{"):
        raw_publish(nats_server.url, f"{names.ns}.complete.odd", nonsense)
    raw_publish(nats_server.url, f"{names.ns}.complete.nobody", b"1")

    await answers_kept(turnout_client, 5)
    await asyncio.to_thread(nats_server.stop)
    await asyncio.to_thread(nats_server.start)
    await turnout_client.store.connection.wait_up()
    with caplog.at_level(logging.WARNING, "turnout.supervisor"):
        async with turnout_worker(approve):
            assert await good.result(timeout=30) == 42
            assert await bad.result(timeout=30) == -2
            await answers_kept(turnout_client, 0)
    assert (await odd.info()).state is JobState.running
    for why in ("must be integer", "no JSON", "no such job"):
        assert why in caplog.text


async def test_what_is_odd_about_one_answer_stops_no_other(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A contract that nobody can check a value against, a record of a job that runs in no attempt: what came behind is
    dealt with. Those are kept, and count when what was odd is mended."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    odd = {"v": 1, "name": "odd", "result_schema": {"$defs": 5, "$ref": "#/$defs/x"}}
    await connection.store(names.activity("odd"), fastjson.dumps(odd))
    async with turnout_worker(approve) as worker:
        for job_id, number, attempts in (("odd", 1, (AttemptRecord(1, 1, worker.id, 1.0),)), ("none", 2, ())):
            left: dict[str, Any] = {"token": Token("", 1, number, "x"), "outside": Outside()}
            record = job_record(job_id, job_id, JobState.running, attempt=number, attempts=attempts, **left)
            await connection.store(names.record(job_id, job_id), wire.dump_record(record))
        handle = await turnout_client.submit(approve)
        await outside(handle)
        for job_id in ("odd", "none", handle.id):
            await connection.store(f"{names.ns}.complete.{job_id}", b"42", {})
        assert await handle.result(timeout=50) == 42
        await answers_kept(turnout_client, 2)
        assert "can't be dealt with yet" in caplog.text
        await connection.store(names.activity("odd"), fastjson.dumps({**odd, "result_schema": {"type": "integer"}}))
        await answers_kept(turnout_client, 1)
        mended = (await turnout_client.store.registry.load("odd", "odd")).record
        assert mended is not None
        assert mended.state is JobState.completed


async def test_an_answer_by_a_clock_that_is_behind(turnout_client: Client, turnout_worker: Any) -> None:
    """What is said of the first attempt counts, also where its node's clock says that this begins later. Of a later
    attempt it was meant for the one before."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    async with turnout_worker(approve) as worker:
        now = connection.now()
        for number, job_id in enumerate(("first", "second"), 1):
            attempts = tuple(AttemptRecord(each, each, worker.id, now + 30) for each in range(1, number + 1))
            left: dict[str, Any] = {
                "token": Token("", number, number, "x"),
                "outside": Outside(),
                "submitted_at": now - 1,
            }
            record = job_record(job_id, "approve", JobState.running, attempt=number, attempts=attempts, **left)
            await connection.store(names.record("approve", job_id), wire.dump_record(record))
            await connection.store(f"{names.ns}.complete.{job_id}", b"42", {})
        first: JobHandle[int] = turnout_client.job("first")
        assert await first.result(timeout=50) == 42
        await answers_kept(turnout_client, 0)
        assert (await turnout_client.job("second").info()).state is JobState.running


async def test_a_lost_message_is_put_back_and_nothing_runs_twice(turnout_client: Client, worker: None) -> None:
    """The job's message is delivered before its time, or is gone: it goes on waiting, in the same attempt."""
    handle = await turnout_client.submit(approve)
    await outside(handle)
    found = await turnout_client.store.queue.find("approve", handle.id)
    assert found is not None
    record = (await turnout_client.store.registry.load("approve", handle.id)).record
    assert record is not None
    assert record.message is not None
    turnout_client.store.connection.send(record.message.ack, b"-NAK")
    await turnout_client.store.connection.flush()
    await turnout_client.store.queue.remove(record.message)
    stuck = Stuck(now=turnout_client.store.connection.now(), delivery=None)
    await Performer(turnout_client.store).apply("approve", handle.id, stuck)
    again = await turnout_client.store.queue.find("approve", handle.id)
    assert again is not None
    assert not again.message.same(record.message)
    info = await outside(handle)
    assert (info.attempt, info.losses) == (1, 0)
    await handle.complete(3)
    assert await handle.result(timeout=SOON_S) == 3
