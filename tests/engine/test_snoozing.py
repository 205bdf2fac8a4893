"""Waiting on purpose: code that has nothing to do yet, and jobs that are of no use when they begin late."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.support.waiting import best_of_three, until
from turnout import (
    Client,
    InvalidValue,
    JobCancelled,
    JobFaulted,
    JobInfo,
    JobState,
    RetryPolicy,
    Snooze,
    activity,
    current_job,
)

asked: Counter[str] = Counter()
LATE_S = 2.0


@activity(retry=RetryPolicy.none(), max_lost=0)
async def upload(times: int, delay: float = 0.05) -> int:
    """Not complete until it was asked so many times."""
    job = current_job()
    asked[job.id] += 1
    if asked[job.id] <= times:
        raise Snooze(delay, f"asked {asked[job.id]} times")
    return job.attempt


@activity(retry=RetryPolicy.none())
def upload_in_thread(times: int) -> int:
    return asyncio.run(upload.fn(times))


@activity(retry=RetryPolicy(delays=[0.05]))
async def fails_then_snoozes() -> list[int]:
    job = current_job()
    seen = [*(job.restored() or []), job.attempt]
    await job.checkpoint(seen)
    match len(seen):
        case 1:
            raise ValueError("no luck")
        case 2 | 3:
            raise Snooze(0.05)
    return seen


@activity
async def quick() -> str:
    return "done"


async def waits(client: Client, job_id: str) -> JobInfo:
    async def retrying() -> JobInfo | None:
        info = await client.job(job_id).info()
        return info if info.state is JobState.retrying else None

    return await until(retrying)


async def test_a_snooze_is_no_attempt_and_costs_no_budget(turnout_client: Client, turnout_worker: Any) -> None:
    """Thirty snoozes of a job without any retry, more than a message has deliveries: it completes in attempt 1."""
    async with turnout_worker(upload, upload_in_thread):
        handle = await turnout_client.submit(upload, 30, delay=0.01)
        assert await handle.result(timeout=30) == 1
        info = await handle.info()
        assert (info.snoozes, info.attempt, info.failures, info.losses) == (30, 1, 0, 0)
        assert [(each.number, each.outcome) for each in info.attempts] == [(1, "completed")]
        assert info.reason is None

        threaded = await turnout_client.submit(upload_in_thread, 1)
        assert await threaded.result(timeout=30) == 1
        assert (await threaded.info()).snoozes == 1


async def test_numbers_and_checkpoint_go_on_over_snoozes(turnout_client: Client, turnout_worker: Any) -> None:
    """After a failure it is attempt 2 that snoozes, begins again and completes; its checkpoint is there."""
    async with turnout_worker(fails_then_snoozes):
        handle = await turnout_client.submit(fails_then_snoozes)
        assert await handle.result(timeout=30) == [1, 2, 2, 2]
        info = await handle.info()
    assert (info.snoozes, info.attempt, info.failures) == (2, 2, 1)
    assert [(each.number, each.outcome) for each in info.attempts] == [(1, "faulted"), (2, "completed")]


async def test_a_snoozed_job_says_what_it_waits_for_and_can_be_cancelled(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """It is `retrying` until its time, with the message as its reason; a cancel ends it at once."""
    async with turnout_worker(upload):
        handle = await turnout_client.submit(upload, 1, delay=3600)
        info = await waits(turnout_client, handle.id)
        assert (info.reason, info.snoozes, info.attempt, info.error) == ("asked 1 times", 1, 0, None)
        assert info.next_attempt_at is not None
        assert 3500 < (info.next_attempt_at - info.attempts[-1].started_at).total_seconds() < 3700
        assert info.attempts[-1].outcome == "snoozed"
        await handle.cancel("enough")
        with pytest.raises(JobCancelled, match="enough"):
            await handle.result(timeout=30)


async def test_a_snooze_beyond_the_deadline_is_the_end(turnout_client: Client, turnout_worker: Any) -> None:
    """`expires_in` holds: a job that would begin again after it has expired."""
    async with turnout_worker(upload):
        handle = await turnout_client.submit(upload.options(expires_in=60), 1, delay=3600)
        with pytest.raises(JobFaulted, match="expired"):
            await handle.result(timeout=30)


@pytest.mark.parametrize("delay", [-1, float("nan"), 1e12])
def test_a_snooze_that_cannot_be_is_refused(delay: float) -> None:
    """Where it is raised: the code's mistake is a failure like another."""
    with pytest.raises(InvalidValue, match="Snooze: delay"):
        raise Snooze(delay)


@pytest.mark.parametrize("delay", [None, 0.1])
async def test_a_job_that_has_not_begun_in_time_is_faulted(
    turnout_client: Client, turnout_worker: Any, delay: float | None
) -> None:
    """With nobody to work on it, by the supervisor of any worker, within two seconds; no attempt begins after it."""
    async with turnout_worker(upload):
        for late in best_of_three(LATE_S):
            handle = await turnout_client.submit(quick.options(start_within=0.5, delay=delay))
            with pytest.raises(JobFaulted, match=r"no attempt had begun within 0\.5 s") as caught:
                await handle.result(timeout=0.5 + 10)
            info: JobInfo = caught.value.info
            assert (info.reason, info.attempt) == ("not_started", 0)

            async def recorded(job_id: str = handle.id) -> bool:
                record = (await turnout_client.store.registry.load("quick", job_id)).record
                return record is not None and record.state is JobState.faulted

            await until(recorded)
            late.append(turnout_client.store.connection.now() - info.submitted_at.timestamp() - 0.5)
        faulted = [info.id async for info in turnout_client.jobs(activity=quick, state="faulted")]
        assert (await turnout_client.count(activity=quick))[JobState.faulted] == len(faulted) >= 1
    async with turnout_worker(quick):
        assert (await turnout_client.job(faulted[0]).info()).reason == "not_started"
        assert await (await turnout_client.submit(quick.options(start_within=60))).result(timeout=30) == "done"


async def test_what_has_begun_in_time_may_take_as_long_as_it_takes(turnout_client: Client, turnout_worker: Any) -> None:
    """A retry, or a snooze, after `start_within` begins all the same; a retry by hand has no such limit."""
    async with turnout_worker(upload):
        handle = await turnout_client.submit(upload.options(start_within=1.0), 1, delay=1.5)
        assert await handle.result(timeout=30) == 1
    late = await turnout_client.submit(quick.options(start_within=0.05))

    async def faulted() -> bool:
        return (await late.info()).state is JobState.faulted

    await until(faulted)
    async with turnout_worker(quick):
        await late.retry()
        assert await late.result(timeout=30) == "done"


@pytest.mark.parametrize("options", [{"start_within": 0}, {"start_within": "soon"}, {"start_within": 5, "delay": 5}])
def test_a_limit_that_cannot_be_met_is_refused(options: dict[str, Any]) -> None:
    """Where it is written, before anything is stored."""
    with pytest.raises(InvalidValue, match="start_within"):
        quick.options(**options)
