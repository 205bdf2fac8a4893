"""Sync activities in child processes, as jobs."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.engine.process_activities import dies, polite, spins, square, third_time
from tests.support.processes import alive
from tests.support.waiting import until
from turnout import Client, DefinitionError, JobFaulted, JobHandle, Progress, Worker, activity


async def reported(handle: JobHandle[Any]) -> Progress | None:
    return (await handle.info()).progress


async def test_a_child_process_computes_reports_and_checkpoints(turnout_client: Client, turnout_worker: Any) -> None:
    """The result comes from another process; progress and checkpoint are in the record."""
    async with turnout_worker(square):
        handle = await turnout_client.submit(square, 7)
        result = await handle.result(timeout=30)
        assert result["square"] == 49
        assert result["pid"] != os.getpid()
        info = await handle.info()
        assert info.checkpoint == {"n": 7}
        assert info.progress is not None
        assert info.progress.done == 7


async def test_retries_and_checkpoints_go_on_from_child_to_child(turnout_client: Client, turnout_worker: Any) -> None:
    """Every attempt is a fresh process, which gets the last one's checkpoint."""
    async with turnout_worker(third_time):
        handle = await turnout_client.submit(third_time)
        assert await handle.result(timeout=30) == 3
        assert (await handle.info()).failures == 2


async def test_fatal_in_a_child_is_final(turnout_client: Client, turnout_worker: Any) -> None:
    """`Fatal` means the same in a child process."""
    async with turnout_worker(third_time):
        handle = await turnout_client.submit(third_time, fatal=True)
        with pytest.raises(JobFaulted, match="no use"):
            await handle.result(timeout=30)
        assert (await handle.info()).attempt == 1


async def test_a_child_that_dies_is_a_failure_that_says_how(turnout_client: Client, turnout_worker: Any) -> None:
    """`os._exit` in a child costs its attempt, not the worker."""
    async with turnout_worker(dies, square):
        handle = await turnout_client.submit(dies)
        with pytest.raises(JobFaulted, match="7"):
            await handle.result(timeout=30)
        assert (await (await turnout_client.submit(square, 2)).result(timeout=30))["square"] == 4


async def test_a_timeout_really_kills_the_child_and_what_it_started(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """Code that never stops by itself is gone after its timeout, and so is the process that it had started."""
    async with turnout_worker(spins) as worker:
        handle = await turnout_client.submit(spins)
        progress = await until(lambda: reported(handle))
        # The timer's own call, made here: how long the start of an interpreter takes is the machine's affair.
        [attempt] = worker._runner.attempts
        attempt._time_out("the attempt took longer than its timeout")
        with pytest.raises(JobFaulted, match="longer than its timeout"):
            await handle.result(timeout=30)
        assert [each.outcome for each in (await handle.info()).attempts] == ["timed_out"]
        assert progress is not None
        grandchild = int(progress.done)

        async def gone() -> bool:
            return not alive(grandchild)

        assert await until(gone)


async def test_a_cancelled_child_may_answer(turnout_client: Client, turnout_worker: Any) -> None:
    """A child is asked to stop first; what it returns then counts."""
    async with turnout_worker(polite):
        handle = await turnout_client.submit(polite)
        await until(lambda: reported(handle))
        await handle.cancel("enough")
        assert await handle.result(timeout=30) == "stopped"


async def test_a_function_that_no_child_could_find_is_refused_at_construction(turnout_client: Client) -> None:
    """A local function can't be imported by another process: the worker says so before any job runs into it."""

    @activity(run_in="process")
    def local() -> None:
        """Nothing."""

    with pytest.raises(DefinitionError, match="local"):
        Worker(turnout_client, activities=[local])
