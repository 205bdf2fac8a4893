"""Cancelling in every state, retrying what ended, deleting what is over."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.support.rawsocket import raw_publish
from tests.support.waiting import best_of_three, letters, listed, until
from turnout import (
    Client,
    InvalidState,
    JobCancelled,
    JobFaulted,
    JobHandle,
    JobInfo,
    JobNotFound,
    JobState,
    RetryPolicy,
    activity,
    current_job,
)
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory
from turnout.worker import attempt, runner

Seen = dict[str, Any]
seen: Seen = {}
"""What the activities saw, by job id; they run in this process."""


@activity
async def note() -> str:
    seen[current_job().id] = "ran"
    return "ran"


@activity
async def hold() -> None:
    """Runs until it is cancelled, and cleans up then."""
    job = current_job()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        seen[job.id] = {"at": time.monotonic(), "reason": job.cancel_reason}
        await asyncio.sleep(0.05)
        seen[job.id]["cleaned"] = True
        raise


@activity
async def finish_anyway() -> str:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "finished"
    return "never"


@activity
async def swallow_and_fail() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ValueError("cleaning up went wrong") from None


@activity
def hold_thread() -> str:
    job = current_job()
    assert job.wait_cancelled(30)
    assert job.cancelled()
    raise asyncio.CancelledError


@activity(retry=RetryPolicy(max_attempts=2, delay=600))
async def fail_slowly() -> None:
    raise ValueError("not yet")


@activity(retry=RetryPolicy(max_attempts=2, delay=0))
async def count_up(succeed_from: int) -> list[Any]:
    job = current_job()
    restored = job.restored()
    await job.checkpoint({"attempt": job.attempt})
    if job.attempt < succeed_from:
        raise ValueError(f"attempt {job.attempt}")
    return [job.attempt, restored]


async def reached(handle: JobHandle[Any], state: str) -> JobInfo:
    async def there() -> JobInfo | None:
        info = await handle.info()
        return info if info.state == state else None

    return await until(there)


async def never_ran(client: Client, workers: WorkerFactory, handle: JobHandle[Any]) -> JobInfo:
    """A worker that comes now runs other jobs, and not this one."""
    async with workers(note):
        await (await client.submit(note)).result(timeout=30)
        await (await client.submit(note)).result(timeout=30)
    assert handle.id not in seen
    return await handle.info()


async def messages(client: Client) -> int:
    """How many messages the work stream holds: jobs that wait or run, and timers."""
    import nats

    connection = await nats.connect(client.connect_options.servers[0])
    try:
        return (await connection.jetstream().stream_info(f"{client.namespace}_work")).state.messages
    finally:
        await connection.close()


# --- before it runs --------------------------------------------------------------------------------------------------


async def test_scheduled(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A scheduled job is cancelled when cancel returns, and its timer is gone."""
    handle = await turnout_client.submit(note.options(delay=600))
    await handle.cancel("changed my mind")
    info = await handle.info()
    assert (info.state, info.attempt, info.next_attempt_at) == ("cancelled", 0, None)
    assert "changed my mind" in (info.reason or "")
    assert info.finished_at is not None
    assert await messages(turnout_client) == 0


async def test_queued_by_client(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A queued job is cancelled when cancel returns, its message is gone, and it never runs."""
    handle = await turnout_client.submit(note)
    await handle.cancel("changed my mind")
    assert await messages(turnout_client) == 0
    assert (await handle.info()).state == "cancelled"
    info = await never_ran(turnout_client, turnout_worker, handle)
    assert (info.state, info.attempt, info.attempts) == ("cancelled", 0, [])
    with pytest.raises(JobCancelled, match="changed my mind") as caught:
        await handle.result(timeout=30)
    assert caught.value.info == info


@pytest.mark.parametrize("message_id", [None, "by-hand"])
async def test_queued_bare(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory, message_id: str | None
) -> None:
    """A bare job is cancelled like any other, under either kind of id, and its neighbours on the subject are not."""
    subject = f"{turnout_client.namespace}.jobs.note"
    raw_publish(nats_server.url, subject, "", {"Nats-Msg-Id": "before"})
    raw_publish(nats_server.url, subject, "", {"Nats-Msg-Id": message_id} if message_id else None)
    raw_publish(nats_server.url, subject, "", {"Nats-Msg-Id": "after"})
    (job_id,) = set(await listed(turnout_client, 3, state="queued")) - {"before", "after"}
    assert message_id in (None, job_id)
    handle = turnout_client.job(job_id)
    await handle.cancel("wrong number")
    assert (await handle.info()).state == "cancelled"
    assert await messages(turnout_client) == 2
    info = await never_ran(turnout_client, turnout_worker, handle)
    assert (info.state, info.attempt) == ("cancelled", 0)
    for neighbour in ("before", "after"):
        assert await turnout_client.job(neighbour).result(timeout=30) == "ran"


async def test_retrying(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A job that waits for its next attempt is cancelled when cancel returns; its failures are kept."""
    async with turnout_worker(fail_slowly):
        handle = await turnout_client.submit(fail_slowly)
        waiting = await reached(handle, "retrying")
        assert waiting.next_attempt_at is not None
        await handle.cancel("no more")
        info = await handle.info()
    assert (info.state, info.attempt, info.failures, info.next_attempt_at) == ("cancelled", 1, 1, None)
    assert [attempt.outcome for attempt in info.attempts] == ["faulted"]
    assert await messages(turnout_client) == 0


# --- while it runs ---------------------------------------------------------------------------------------------------


async def test_running(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """The running code hears of it within a second, with the reason, may clean up, and the job ends as cancelled."""
    async with turnout_worker(hold):
        for heard_after in best_of_three(1.0):
            handle = await turnout_client.submit(hold)
            await reached(handle, "running")
            began = time.monotonic()
            await handle.cancel("tea time")
            with pytest.raises(JobCancelled, match="tea time"):
                await handle.result(timeout=30)
            heard = seen[handle.id]
            assert heard["reason"] == "cancelled: tea time"
            assert heard["cleaned"]
            heard_after.append(heard["at"] - began)
            info = await handle.info()
            assert (info.state, info.attempt, info.failures) == ("cancelled", 1, 0)
            assert [attempt.outcome for attempt in info.attempts] == ["cancelled"]
            assert info.reason == "tea time"


async def test_running_without_a_reason(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A reason is optional: the code still sees that somebody asked."""
    async with turnout_worker(hold):
        handle = await turnout_client.submit(hold)
        await reached(handle, "running")
        await handle.cancel()
        with pytest.raises(JobCancelled):
            await handle.result(timeout=30)
    assert seen[handle.id]["reason"].startswith("cancelled")


@pytest.mark.parametrize(
    "reason", ["timed_out", "lease_lost", "node_stopping", "cancelled", "ü\udcff", "x" * 3_000_000]
)
async def test_any_reason_is_a_cancel(turnout_client: Client, turnout_worker: WorkerFactory, reason: str) -> None:
    """Whatever words somebody uses, the job ends as cancelled by request."""
    async with turnout_worker(hold):
        handle = await turnout_client.submit(hold)
        await reached(handle, "running")
        await handle.cancel(reason)
        with pytest.raises(JobCancelled):
            await handle.result(timeout=30)
        assert (await handle.info()).attempts[0].outcome == "cancelled"
    assert seen[handle.id]["reason"].startswith("cancelled")


async def test_running_in_a_thread(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Sync code hears of it through cancelled() and wait_cancelled()."""
    async with turnout_worker(hold_thread):
        handle = await turnout_client.submit(hold_thread)
        await reached(handle, "running")
        await handle.cancel("thread")
        assert (await reached(handle, "cancelled")).reason == "thread"


async def test_a_result_after_the_request_counts(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Code that returns normally after a cancel request has completed."""
    async with turnout_worker(finish_anyway):
        handle = await turnout_client.submit(finish_anyway)
        await reached(handle, "running")
        await handle.cancel("too late")
        assert await handle.result(timeout=30) == "finished"
        info = await handle.info()
    assert (info.state, info.attempts[0].outcome) == ("completed", "completed")


async def test_an_error_after_the_request_is_a_cancel(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Code that fails while it cleans up is not retried: the job was cancelled."""
    async with turnout_worker(swallow_and_fail):
        handle = await turnout_client.submit(swallow_and_fail)
        await reached(handle, "running")
        await handle.cancel("stop")
        info = await reached(handle, "cancelled")
    assert (info.attempt, info.reason) == (1, "stop")


async def test_twice(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A second cancel changes nothing, while it is under way and afterwards: the first reason is kept."""
    async with turnout_worker(hold):
        running = await turnout_client.submit(hold)
        await reached(running, "running")
        await asyncio.gather(running.cancel("first"), running.cancel("first"))
        await running.cancel("second")
        info = await reached(running, "cancelled")
        await running.cancel("third")
    assert info.reason == "first"
    assert await running.info() == info
    queued = await turnout_client.submit(note)
    await asyncio.gather(queued.cancel("a"), queued.cancel("b"))
    before = await queued.info()
    assert before.reason in ("a", "b")
    await queued.cancel("c")
    assert await queued.info() == before


async def test_an_ended_job(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Cancelling what has completed or faulted does nothing."""
    async with turnout_worker(note, count_up):
        completed = await turnout_client.submit(note)
        await completed.result(timeout=30)
        faulted = await turnout_client.submit(count_up, 99)
        await reached(faulted, "faulted")
        for handle in (completed, faulted):
            before = await handle.info()
            await handle.cancel("too late")
            assert await handle.info() == before


async def test_cancel_against_start(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A cancel that races with the start leaves each job in exactly one final state, and its message gone."""
    async with turnout_worker(hold, concurrency=50):
        handles = await asyncio.gather(*(turnout_client.submit(hold) for _ in range(40)))
        await asyncio.gather(*(handle.cancel("race") for handle in handles))
        infos = [await reached(handle, "cancelled") for handle in handles]

        async def all_gone() -> bool:
            return await messages(turnout_client) == 0

        await until(all_gone)
    assert {info.reason for info in infos} == {"race"}
    assert {info.generation for info in infos} == {1}
    assert all(len(info.attempts) == info.attempt <= 1 for info in infos)


# --- retry -----------------------------------------------------------------------------------------------------------


async def test_retry_of_a_faulted_job(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A retry is the same job with fresh budgets: attempts count on, its checkpoint is there, its generation is 2."""
    async with turnout_worker(count_up):
        handle = await turnout_client.submit(count_up.options(id="again", labels={"k": "v"}), 4)
        first = await reached(handle, "faulted")
        assert (first.attempt, first.failures, first.generation) == (2, 2, 1)
        await handle.retry()
        assert not (await handle.info()).state.final or (await handle.info()).generation == 2
        assert await handle.result(timeout=30) == [4, {"attempt": 3}]
        info = await handle.info()
    assert (info.id, info.state, info.attempt, info.generation, info.failures) == ("again", "completed", 4, 2, 1)
    assert [(attempt.number, attempt.outcome) for attempt in info.attempts] == [
        (1, "faulted"),
        (2, "faulted"),
        (3, "faulted"),
        (4, "completed"),
    ]
    assert (info.error, info.reason, info.labels) == (None, None, {"k": "v"})
    assert info.payload == {"succeed_from": 4}
    assert info.trace_id == first.trace_id
    assert info.submitted_at == first.submitted_at


async def test_retry_leaves_the_final_state(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """With nobody there to run it, a retried job is queued when retry returns, and watchable to its next end."""
    async with turnout_worker(count_up):
        handle = await turnout_client.submit(count_up, 3)
        await reached(handle, "faulted")
    await handle.retry()
    info = await handle.info()
    assert (info.state, info.generation, info.attempt, info.failures, info.error) == ("queued", 2, 2, 0, None)
    assert (info.finished_at, info.reason, info.checkpoint) == (None, None, {"attempt": 2})
    counts = await turnout_client.count()
    assert (counts[JobState.queued], counts[JobState.faulted]) == (1, 0)
    async with turnout_worker(count_up):
        assert [info.state async for info in handle.watch()][-1] == "completed"


async def test_retry_of_cancelled_jobs(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """What was cancelled while scheduled, queued, running or waiting runs again after a retry, at once."""
    scheduled = await turnout_client.submit(note.options(delay=600))
    queued = await turnout_client.submit(note)
    for handle in (scheduled, queued):
        await handle.cancel("first")
        await handle.retry()
        info = await handle.info()
        assert (info.state, info.generation, info.reason) == ("queued", 2, None)
    async with turnout_worker(note, hold):
        assert await scheduled.result(timeout=30) == "ran"
        assert await queued.result(timeout=30) == "ran"
        running = await turnout_client.submit(hold)
        await reached(running, "running")
        await running.cancel("second")
        await reached(running, "cancelled")
        seen.pop(running.id)
        await running.retry()
        info = await reached(running, "running")
        assert (info.attempt, info.generation) == (2, 2)
        await running.cancel("third")
        info = await reached(running, "cancelled")
    assert info.reason == "third"
    assert [attempt.outcome for attempt in info.attempts] == ["cancelled", "cancelled"]


@pytest.mark.parametrize("message_id", [None, "by-hand"])
async def test_retry_of_bare_jobs(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory, message_id: str | None
) -> None:
    """A bare job is retried under its id, whether it faulted or was cancelled before it ran; its neighbours stay."""
    headers = {"Nats-Msg-Id": message_id} if message_id else None
    raw_publish(nats_server.url, f"{turnout_client.namespace}.jobs.count_up", '{"succeed_from": 3}', headers)
    (job_id,) = await listed(turnout_client, 1)
    raw_publish(nats_server.url, f"{turnout_client.namespace}.jobs.count_up", '{"succeed_from": 1}')
    await listed(turnout_client, 2)
    handle = turnout_client.job(job_id)
    await handle.cancel("not yet")
    await handle.retry()
    assert (await handle.info()).state == "queued"
    assert sum((await turnout_client.count()).values()) == 2
    async with turnout_worker(count_up):
        assert (await reached(handle, "faulted")).generation == 2
        await handle.retry()
        assert await handle.result(timeout=30) == [3, {"attempt": 2}]
        info = await handle.info()
    assert (info.id, info.generation, info.attempt) == (job_id, 3, 3)
    assert (await turnout_client.count())[JobState.completed] == 2


async def test_retry_of_what_has_not_failed(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Only a faulted or cancelled job is retried; others stay as they are, and the error names their state."""
    queued = await turnout_client.submit(note)
    with pytest.raises(InvalidState, match="queued"):
        await queued.retry()
    async with turnout_worker(note, hold):
        await queued.result(timeout=30)
        before = await queued.info()
        with pytest.raises(InvalidState, match="completed"):
            await queued.retry()
        assert await queued.info() == before
        running = await turnout_client.submit(hold)
        await reached(running, "running")
        with pytest.raises(InvalidState, match="running"):
            await running.retry()


async def test_retries_at_once(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Of many retries at once the job runs once more, not many times; the other calls may be told that it is queued."""
    async with turnout_worker(count_up):
        handle = await turnout_client.submit(count_up, 3)
        await reached(handle, "faulted")
    outcomes = await asyncio.gather(*(handle.retry() for _ in range(8)), return_exceptions=True)
    assert None in outcomes
    assert {type(outcome) for outcome in outcomes} <= {type(None), InvalidState}
    assert await messages(turnout_client) == 1
    async with turnout_worker(count_up):
        await handle.result(timeout=30)
        info = await handle.info()
        assert (info.generation, info.attempt, info.state) == (2, 3, "completed")


async def test_a_retried_job_can_be_cancelled_and_fault_again(
    turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """A later generation is a job like any other: cancelled while it is queued, faulted with a letter of its own."""
    async with turnout_worker(count_up):
        handle = await turnout_client.submit(count_up, 99)
        await reached(handle, "faulted")
    await handle.retry()
    await handle.cancel("leave it")
    info = await handle.info()
    assert (info.state, info.generation, info.reason, info.attempt) == ("cancelled", 2, "leave it", 2)
    assert await messages(turnout_client) == 0
    await handle.retry()
    async with turnout_worker(count_up):
        info = await reached(handle, "faulted")
    assert (info.generation, info.attempt, info.failures) == (3, 4, 2)
    assert [letter.generation async for letter in turnout_client.faults()] == [1, 3]


# --- delete ----------------------------------------------------------------------------------------------------------


async def test_delete(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A deleted job is unknown; only an ended one can be deleted."""
    handle = await turnout_client.submit(note.options(id="gone"))
    with pytest.raises(InvalidState, match="queued"):
        await handle.delete()
    async with turnout_worker(note):
        await handle.result(timeout=30)
        await handle.delete()
    for ask in (handle.info, handle.result, handle.delete, turnout_client.job("gone").info):
        with pytest.raises(JobNotFound):
            await ask()
    assert [info async for info in turnout_client.jobs()] == []
    assert sum((await turnout_client.count()).values()) == 0


@pytest.mark.parametrize("end", ["completed", "cancelled", "faulted"])
async def test_delete_then_submit_again_at_once(
    turnout_client: Client, turnout_worker: WorkerFactory, end: str
) -> None:
    """The id of a deleted job is free at once, and the new job begins from nothing."""
    async with turnout_worker(count_up, note):
        for round_ in range(3):
            handle = await turnout_client.submit(count_up.options(id="phoenix"), 1 if end == "completed" else 99)
            if end == "cancelled":
                await handle.cancel(f"round {round_}")
            info = await until(lambda handle=handle: ended(handle))  # type: ignore[misc]
            assert info.generation == 1
            assert info.attempt <= (1 if end == "completed" else 2)
            assert info.failures <= 2
            await handle.delete()
        delayed = await turnout_client.submit(note.options(id="phoenix", delay=0.1))
        assert await delayed.result(timeout=30) == "ran"


async def ended(handle: JobHandle[Any]) -> JobInfo | None:
    info = await handle.info()
    return info if info.state.final else None


async def test_each_life_of_an_id_has_its_letter(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A job that faults under the id of a deleted one leaves a dead letter, though that one left one too."""
    async with turnout_worker(count_up):
        for succeed_from in (98, 99):
            handle = await turnout_client.submit(count_up.options(id="phoenix"), succeed_from)
            with pytest.raises(JobFaulted):
                await handle.result(timeout=30)
            await handle.delete()
        told = await letters(turnout_client, 2)
    assert sorted(letter.payload["succeed_from"] for letter in told) == [98, 99]


# --- a node that stops -----------------------------------------------------------------------------------------------


async def test_a_node_that_stops_aborts_what_is_just_starting(
    turnout_client: Client, turnout_worker: WorkerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without grace a stop ends at once, also for jobs whose start is only being recorded; they run elsewhere."""
    monkeypatch.setattr(attempt, "CLEANUP_S", 60.0)
    monkeypatch.setattr(runner, "CLEANUP_S", 60.0)
    worker = await turnout_worker(hold, concurrency=30)
    handles = await turnout_client.submit_many(hold, [{}] * 30)
    await asyncio.wait_for(worker.stop(grace=0), 30)  # and not after the time that there is for cleaning up
    infos = [await handle.info() for handle in handles]
    assert {info.state for info in infos} == {"queued"}
    assert all(info.aborts == info.attempt <= 1 for info in infos)
