"""Running: leases, timeouts, retries, progress, checkpoints, limits; all on a real server."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import logging
import sys
import threading
import time
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator

from tests.support.waiting import until
from turnout import (
    Client,
    Fatal,
    JobCancelled,
    JobFaulted,
    JobState,
    Outcome,
    RetryLater,
    RetryPolicy,
    Worker,
    activity,
    current_job,
)
from turnout.testing import ActivityEnvironment, NatsServer

ONCE = RetryPolicy.none()


@activity(lease=1)
async def nap(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return current_job().attempt


@activity(lease=1)
async def block(seconds: float) -> int:
    time.sleep(seconds)
    return current_job().attempt


@activity(retry=RetryPolicy(max_attempts=3, delay=0.1))
async def fail(times: int) -> int:
    attempt = current_job().attempt
    if attempt <= times:
        raise ValueError(f"failure {attempt}")
    return attempt


@activity(retry=RetryPolicy(max_attempts=5, delay=0.1))
async def raise_fatal() -> None:
    raise Fatal("no use")


@activity(retry=RetryPolicy(max_attempts=2, delay=60))
async def later(delay: float) -> int:
    if current_job().attempt == 1:
        raise RetryLater(delay, "rate limited")
    return current_job().attempt


@activity(timeout=0.3, retry=ONCE)
async def slow() -> None:
    await asyncio.sleep(60)


gaps: list[float] = []
"""Seconds between the beats of `silent`."""


@activity(heartbeat_timeout=0.4, retry=ONCE)
async def silent(beats: int) -> None:
    gaps.clear()
    for _ in range(beats):
        begun_at = time.monotonic()
        try:
            await asyncio.sleep(0.2)
        finally:
            gaps.append(time.monotonic() - begun_at)
        current_job().heartbeat()
    await asyncio.sleep(60)


@activity
async def chatty(count: int) -> None:
    for done in range(count):
        current_job().progress(done + 1, count, f"step {done + 1}")


@activity(retry=RetryPolicy(max_attempts=3, delay=0.05))
async def resume() -> list[int]:
    job = current_job()
    seen = job.restored(list[int]) or []
    seen.append(job.attempt)
    await job.checkpoint(seen)
    if job.attempt < 3:
        raise ValueError("again")
    return seen


@activity(retry=ONCE)
async def sys_exit() -> None:
    sys.exit(3)


@activity(retry=ONCE)
async def self_cancel() -> None:
    raise asyncio.CancelledError


@activity(retry=ONCE)
async def unsendable() -> Any:
    return object()


@activity
def in_thread(n: int) -> int:
    job = current_job()
    job.progress(n)
    job.checkpoint_sync({"n": n})
    return n * 2


@activity(retry=ONCE)
def thread_waits() -> str:
    return "stopped" if current_job().wait_cancelled(30) else "never"


async def test_a_job_of_five_times_its_lease_runs_in_one_attempt(turnout_client: Client, turnout_worker: Any) -> None:
    """The lease is kept for as long as the code runs."""
    async with turnout_worker(nap):
        handle = await turnout_client.submit(nap, 5.0)
        assert await handle.result(timeout=30) == 1
        assert len((await handle.info()).attempts) == 1


async def test_blocking_the_event_loop_costs_a_warning_with_the_stack_not_a_second_run(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """`time.sleep` of several leases inside an async activity is one attempt, and the log tells where it slept."""
    async with turnout_worker(block):
        handle = await turnout_client.submit(block, 4.0)
        with caplog.at_level(logging.WARNING, "turnout.worker"):
            assert await handle.result(timeout=30) == 1
        assert len((await handle.info()).attempts) == 1
    blocked = [r.getMessage() for r in caplog.records if "event loop has been blocked" in r.getMessage()]
    # A busy machine blocks it too, and is told of as rightly, but does not sleep there.
    assert len([told for told in blocked if "time.sleep(seconds)" in told]) == 1, blocked


async def test_a_process_that_stands_still_is_not_put_down_to_the_code_of_that_moment(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """While code in C keeps all threads from running, nobody sees where: what runs afterwards is not to blame."""

    async def told() -> list[str]:
        return [r.getMessage() for r in caplog.records if "event loop has been blocked" in r.getMessage()]

    async with turnout_worker(block):
        await asyncio.sleep(1.0)  # whoever watches has looked
        with caplog.at_level(logging.WARNING, "turnout.worker"):
            ctypes.PyDLL(None).sleep(4)  # as a garbage collection does, it keeps the interpreter
            assert await until(told)
    assert "all of the process" in (first := (await told())[0])
    assert "Stack" not in first


async def test_failures_are_retried_with_the_policys_delays(turnout_client: Client, turnout_worker: Any) -> None:
    """Each failure is an attempt of its own in the record, and the next one comes no earlier than the policy says."""
    async with turnout_worker(fail):
        handle = await turnout_client.submit(fail, times=2)
        assert await handle.result(timeout=30) == 3
    info = await handle.info()
    assert [a.outcome for a in info.attempts] == [Outcome.faulted, Outcome.faulted, Outcome.completed]
    assert info.failures == 2
    gaps = [(b.started_at - a.ended_at).total_seconds() for a, b in zip(info.attempts, info.attempts[1:], strict=False)
            if a.ended_at is not None]  # fmt: skip
    assert gaps[0] >= 0.08
    assert gaps[1] >= 0.17


async def test_the_last_failure_faults_the_job_and_writes_a_dead_letter(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """When the policy gives up, the job is faulted with its error and a letter tells all of it."""
    async with turnout_worker(fail):
        handle = await turnout_client.submit(fail.options(labels={"k": "v"}), times=9)
        with pytest.raises(JobFaulted, match="failure 3") as caught:
            await handle.result(timeout=30)
    assert caught.value.info.state == "faulted"
    letters = [letter async for letter in turnout_client.faults()]
    assert [(x.id, x.payload, x.labels, len(x.attempts)) for x in letters] == [(handle.id, {"times": 9}, {"k": "v"}, 3)]


async def test_a_submissions_policy_overrides_the_activitys(turnout_client: Client, turnout_worker: Any) -> None:
    """`options(retry=...)` decides for that one job."""
    async with turnout_worker(fail):
        handle = await turnout_client.submit(fail.options(retry=RetryPolicy(max_attempts=3, never_on=(ValueError,))), 1)
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
        assert (await handle.info()).attempt == 1


async def test_fatal_is_never_retried(turnout_client: Client, turnout_worker: Any) -> None:
    """`Fatal` ends the job at once."""
    async with turnout_worker(raise_fatal):
        handle = await turnout_client.submit(raise_fatal)
        with pytest.raises(JobFaulted, match="no use"):
            await handle.result(timeout=30)
        info = await handle.info()
        assert (info.attempt, info.reason) == (1, "fatal")


async def test_retry_later_sets_the_delay_itself(turnout_client: Client, turnout_worker: Any) -> None:
    """`RetryLater` is a failure whose delay the code chooses."""
    async with turnout_worker(later):
        handle = await turnout_client.submit(later, 0.3)
        assert await handle.result(timeout=30) == 2
        info = await handle.info()
        assert info.failures == 1


async def test_a_timed_out_attempt_is_a_failure(turnout_client: Client, turnout_worker: Any) -> None:
    """An attempt over its timeout is stopped and recorded as timed out."""
    async with turnout_worker(slow):
        handle = await turnout_client.submit(slow)
        with pytest.raises(JobFaulted, match=r"longer than 0.3 s"):
            await handle.result(timeout=30)
        info = await handle.info()
        assert [a.outcome for a in info.attempts] == ["timed_out"]
        assert info.error is not None
        assert info.error.type == "TimeoutError"


async def test_code_that_reports_nothing_for_its_heartbeat_timeout_is_stopped(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """Heartbeats keep the code alive; without them it is timed out."""
    async with turnout_worker(silent):
        handle = await turnout_client.submit(silent, beats=4)
        with pytest.raises(JobFaulted, match="no heartbeat"):
            await handle.result(timeout=30)
        [attempt] = (await handle.info()).attempts
        assert attempt.ended_at is not None
        lasted_s = (attempt.ended_at - attempt.started_at).total_seconds()
        assert lasted_s >= 1.1 or max(gaps) >= 0.35, gaps  # a machine that pauses between two beats is rightly told


async def test_progress_is_coalesced_and_the_last_is_always_written(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """Ten thousand reports cost a handful of writes, and the last one is in the record."""
    async with turnout_worker(chatty):
        handle = await turnout_client.submit(chatty, 10_000)
        await handle.result(timeout=30)
        info = await handle.info()
        assert info.progress is not None
        assert (info.progress.done, info.progress.total, info.progress.message) == (10_000, 10_000, "step 10000")
        state = await turnout_client.store.connection.api(f"STREAM.INFO.KV_{turnout_client.namespace}_jobs")
        assert state["state"]["last_seq"] < 10


async def test_a_checkpoint_is_given_to_the_next_attempt(turnout_client: Client, turnout_worker: Any) -> None:
    """After a failure the next attempt goes on from the last checkpoint."""
    async with turnout_worker(resume):
        handle = await turnout_client.submit(resume)
        assert await handle.result(timeout=30) == [1, 2, 3]
        assert (await handle.info()).checkpoint == [1, 2, 3]


@pytest.mark.parametrize(
    ("each", "error_type", "reason"),
    [(sys_exit, "CodeExit", "failed"), (self_cancel, "CancelledError", "failed"),
     (unsendable, "InvalidResult", "invalid_result")],
)  # fmt: skip
async def test_code_that_ends_oddly_faults_its_job_and_not_the_worker(
    turnout_client: Client, turnout_worker: Any, each: Any, error_type: str, reason: str
) -> None:
    """sys.exit, a cancellation nobody asked for and an unsendable result are faults; the worker goes on."""
    async with turnout_worker(each, nap):
        handle = await turnout_client.submit(each)
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
        info = await handle.info()
        assert info.error is not None
        assert (info.error.type, info.reason) == (error_type, reason)
        assert await (await turnout_client.submit(nap, 0)).result(timeout=30) == 1


decoded_in: list[str] = []


def note_thread(text: str) -> str:
    decoded_in.append(threading.current_thread().name)
    return text


@activity
async def measure(text: Annotated[str, AfterValidator(note_thread)]) -> int:
    return len(text)


async def test_a_large_payload_is_decoded_beside_the_loop(turnout_client: Client, turnout_worker: Any) -> None:
    """Parsing and validating it takes long: leases, other jobs and health do not wait for that."""
    async with turnout_worker(measure):
        for size in (10, 800_000):
            decoded_in.clear()
            handle = await turnout_client.submit("measure", {"text": "x" * size})  # by name: not validated here
            assert await handle.result(timeout=30) == size
            in_main = {name == threading.main_thread().name for name in decoded_in}
            assert in_main == {size == 10}


async def test_sync_activities_run_in_threads(turnout_client: Client, turnout_worker: Any) -> None:
    """A sync function has its job, reports progress and stores checkpoints."""
    async with turnout_worker(in_thread):
        handle = await turnout_client.submit(in_thread, 21)
        assert await handle.result(timeout=30) == 42
        info = await handle.info()
        assert info.checkpoint == {"n": 21}
        assert info.progress is not None
        assert info.progress.done == 21


async def test_sync_code_learns_of_a_cancel(turnout_client: Client, turnout_worker: Any) -> None:
    """A thread can't be cancelled but is told; what it returns then counts."""
    async with turnout_worker(thread_waits):
        handle = await turnout_client.submit(thread_waits)
        await until(lambda: _is(handle, JobState.running))
        await handle.cancel("enough")
        assert await handle.result(timeout=30) == "stopped"


async def _is(handle: Any, state: JobState) -> bool:
    return bool((await handle.info()).state is state)


async def test_concurrency_limits_hold(turnout_client: Client, turnout_worker: Any) -> None:
    """Never more at once than the node's slots, nor than the activity's own limit; yet as many as allowed."""
    running: dict[str, int] = {"a": 0, "b": 0}
    most: dict[str, int] = {"a": 0, "b": 0, "all": 0}
    full, two = asyncio.Event(), asyncio.Event()

    async def work(name: str) -> None:
        running[name] += 1
        most[name] = max(most[name], running[name])
        most["all"] = max(most["all"], sum(running.values()))
        if most["all"] >= 4:
            full.set()
        if most["a"] >= 2:
            two.set()
        await full.wait()  # until as many run as may, however slow the machine is
        if name == "a":
            await two.wait()
        await asyncio.sleep(0.02)
        running[name] -= 1

    @activity(concurrency=2)
    async def a() -> None:
        await work("a")

    @activity
    async def b() -> None:
        await work("b")

    async with turnout_worker(a, b, concurrency=4):
        handles = [*await turnout_client.submit_many(a, [{}] * 10), *await turnout_client.submit_many(b, [{}] * 20)]
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
    assert most["a"] == 2
    assert most["all"] == 4


async def test_a_job_never_waits_behind_a_busy_node(turnout_client: Client, turnout_worker: Any) -> None:
    """What a node was handed beyond its slots is given back, and another node runs it."""
    release = asyncio.Event()

    @activity
    async def long() -> None:
        await release.wait()

    async with turnout_worker(long, chatty, concurrency=1, name="one") as one:
        busy = await turnout_client.submit(long)
        await until(lambda: _is(busy, JobState.running))
        async with turnout_worker(long, chatty, concurrency=1, name="two") as two:
            handles = await turnout_client.submit_many(chatty, [{"count": 1}] * 3)
            await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
            nodes = {(await handle.info()).attempts[0].node for handle in handles}
            release.set()
    assert one.id != two.id
    assert nodes == {two.id}


async def test_a_running_job_survives_a_server_that_is_away_for_several_leases() -> None:
    """The code goes on while NATS is away, and its result is written when it is back: one attempt."""
    with NatsServer() as server:
        async with Client.connect(server.url) as client, Worker(client, activities=[nap]):
            handle = await client.submit(nap, 4)
            await until(lambda: _is(handle, JobState.running))
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(2.5)
            await asyncio.to_thread(server.start)
            assert await handle.result(timeout=30) == 1
            assert [a.outcome for a in (await handle.info()).attempts] == ["completed"]


async def test_a_large_result_outwaits_a_server_that_is_away() -> None:
    """What is too large for the record is kept in hand as well until the server is back: no failure, one attempt."""
    with NatsServer() as server:

        @activity(lease=1)
        async def large() -> str:
            current_job().progress(1)
            await asyncio.to_thread(server.kill)
            return "x" * 300_000

        async with Client.connect(server.url) as client, Worker(client, activities=[large]):
            handle = await client.submit(large)

            async def dead() -> bool:
                return not server.running

            await until(dead)
            await asyncio.sleep(2)
            await asyncio.to_thread(server.start)
            assert len(await handle.result(timeout=30)) == 300_000
            assert [a.outcome for a in (await handle.info()).attempts] == ["completed"]


async def test_a_stopping_node_hands_its_jobs_over(turnout_client: Client, turnout_worker: Any) -> None:
    """Aborted is not cancelled: the attempt is recorded as aborted, and another node runs the job to its end."""
    release = asyncio.Event()

    @activity(lease=300)
    async def wait() -> int:
        current_job().progress(current_job().attempt)
        await release.wait()
        return current_job().attempt

    worker = await turnout_worker(wait, name="first")
    handle = await turnout_client.submit(wait)
    await until(lambda: _is(handle, JobState.running))
    async with turnout_worker(wait, name="second"):
        await worker.stop(grace=0)
        release.set()
        assert await handle.result(timeout=60) == 2  # and not only when the lease has run out
    info = await handle.info()
    assert [a.outcome for a in info.attempts] == ["aborted", "completed"]
    assert (info.aborts, info.failures, info.losses) == (1, 0, 0)


async def test_a_cancelled_job_stays_cancelled_when_its_node_stops(turnout_client: Client, turnout_worker: Any) -> None:
    """A cancel that was asked for is fulfilled by whoever ends the attempt."""
    async with turnout_worker(nap):
        handle = await turnout_client.submit(nap, 60)
        await until(lambda: _is(handle, JobState.running))
        await handle.cancel("enough")
        with pytest.raises(JobCancelled, match="enough"):
            await handle.result(timeout=30)


async def test_a_traceback_begins_in_the_users_code(turnout_client: Client, turnout_worker: Any) -> None:
    """Whoever reads why a job failed reads no frame of the worker's."""
    async with turnout_worker(fail):
        handle = await turnout_client.submit(fail.options(retry=ONCE), times=1)
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
    error = (await handle.info()).error
    assert error is not None
    assert "test_running.py" in error.traceback
    assert "turnout/worker" not in error.traceback


def plainly(fn: Any) -> Any:
    """A decorator that knows nothing of async code."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


@activity
@plainly
async def wrapped(n: int) -> int:
    current_job().progress(n)
    await asyncio.sleep(0)
    return n + 1


@activity(run_in="process")
@plainly
async def wrapped_in_process(n: int) -> int:
    await asyncio.sleep(0)
    return n + current_job().attempt


async def test_async_code_behind_a_plain_wrapper_runs(turnout_client: Client, turnout_worker: Any) -> None:
    """A decorator that returns what the async function gives it is no obstacle, in a thread and in a process."""
    async with turnout_worker(wrapped, wrapped_in_process):
        for each in (wrapped, wrapped_in_process):
            assert await (await turnout_client.submit(each, 1)).result(timeout=30) == 2
    assert await ActivityEnvironment().run(wrapped, 1) == 2
