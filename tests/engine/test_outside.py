"""Completion from outside: the code is done, and somebody else says how the job ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.process_activities import approve_in_process
from tests.support.rawsocket import raw_publish
from tests.support.waiting import until
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
)
from turnout.core.events import Stuck
from turnout.store.perform import Performer
from turnout.testing import NatsServer

gates: list[asyncio.Event] = []
SOON_S = 2.0


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


async def running(handle: JobHandle[Any]) -> JobInfo:
    async def runs() -> JobInfo | None:
        info = await handle.info()
        return info if info.state is JobState.running else None

    return await until(runs)


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
    assert await handle.result(timeout=10) == -2
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


async def test_past_its_timeout_the_attempt_has_timed_out(turnout_client: Client, worker: None) -> None:
    """Which is a failure that is retried; a heartbeat begins the time anew, and progress does as well."""
    handle = await turnout_client.submit(approve, 1.5)
    began = (await outside(handle)).attempts[0].started_at
    await asyncio.sleep(1.0)
    await handle.heartbeat()
    await asyncio.sleep(1.0)
    await handle.progress(1, 2, "half")
    assert await handle.result(timeout=10) == -2
    first, second = (await handle.info()).attempts
    assert (first.outcome, second.outcome) == ("timed_out", "completed")
    assert first.ended_at is not None
    assert 3.4 <= (first.ended_at - began).total_seconds() <= 3.5 + 2.0
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
        await handle.result(timeout=10)
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

    async def kept() -> bool:
        info = await turnout_client.store.connection.api(f"STREAM.INFO.{names.completions}")
        return bool(info["state"]["messages"] == 5)

    await until(kept)
    await asyncio.to_thread(nats_server.stop)
    await asyncio.to_thread(nats_server.start)
    await turnout_client.store.connection.wait_up()
    with caplog.at_level(logging.WARNING, "turnout.supervisor"):
        async with turnout_worker(approve):
            assert await good.result(timeout=30) == 42
            assert await bad.result(timeout=10) == -2

            async def dealt_with() -> bool:
                info = await turnout_client.store.connection.api(f"STREAM.INFO.{names.completions}")
                return bool(info["state"]["messages"] == 0)

            await until(dealt_with)
    assert (await odd.info()).state is JobState.running
    for why in ("must be integer", "no JSON", "no such job"):
        assert why in caplog.text


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
