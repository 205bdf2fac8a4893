"""Hooks: who is told of what, and that nothing a hook does matters to a job; on a real server."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.values import job_record
from tests.support.waiting import until
from turnout import Client, DefinitionError, Hooks, JobFaulted, JobInfo, RetryPolicy, Worker, activity, current_job
from turnout.core.changes import Change, changes
from turnout.core.events import Received
from turnout.core.evolve import evolve
from turnout.core.record import JobState, Policy
from turnout.store.perform import Performer
from turnout.worker import hooks as caller

NAMES = ["on_lost", "on_start", "on_failure", "on_success", "on_fault"]


class Heard:
    """What hooks were told: (hook, job id, its state, attempt, failures)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, JobInfo]] = []

    def hook(self, name: str) -> Callable[[JobInfo], None]:
        return lambda job: self.calls.append((name, job))

    def hooks(self, *names: str) -> dict[str, Any]:
        return {name: self.hook(name) for name in names or NAMES}

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    async def settled(self, *names: str) -> list[str]:
        async def complete() -> bool:
            return len(self.calls) >= len(names)

        await until(complete)
        return self.names


async def test_a_job_that_fails_once_tells_each_attempt_and_its_end(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """Start and failure of every attempt, then the success: in this order, each once, with the job as it was then."""
    heard = Heard()

    @activity(retry=RetryPolicy(max_attempts=2, delay=0.05), **heard.hooks())
    async def second_time() -> str:
        if current_job().attempt == 1:
            raise ValueError("first")
        return "well"

    async with turnout_worker(second_time):
        handle = await turnout_client.submit(second_time.options(labels={"a": "b"}))
        await handle.result(timeout=30)
        expected = ["on_start", "on_failure", "on_start", "on_success"]
        assert await heard.settled(*expected) == expected
    jobs = [job for _, job in heard.calls]
    assert [job.state for job in jobs] == ["running", "retrying", "running", "completed"]
    assert {(job.id, job.labels["a"]) for job in jobs} == {(handle.id, "b")}
    assert jobs[1].error is not None
    assert jobs[1].error.message == "first"
    assert jobs[3].result == "well"


async def test_a_fault_is_told_after_the_last_failure(turnout_client: Client, turnout_worker: Any) -> None:
    """A job that gives up tells its failure and its fault, to the activity's hooks and to the worker's."""
    heard, workers = Heard(), Heard()

    @activity(retry=RetryPolicy.none(), **heard.hooks("on_failure", "on_fault"))
    async def hopeless() -> None:
        raise ValueError("no")

    async with turnout_worker(hopeless, hooks=Hooks(**workers.hooks("on_fault", "on_success"))):
        handle = await turnout_client.submit(hopeless)
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
        assert await heard.settled("on_failure", "on_fault") == ["on_failure", "on_fault"]
        assert await workers.settled("on_fault") == ["on_fault"]


async def test_a_job_that_cannot_start_tells_its_fault_alone(turnout_client: Client, turnout_worker: Any) -> None:
    """An expired job never starts: no start and no failure is told, but its fault is."""
    heard = Heard()

    @activity(**heard.hooks())
    async def never() -> None:
        raise AssertionError("it ran")

    handle = await turnout_client.submit(never.options(expires_in=0.2))
    await asyncio.sleep(0.4)
    async with turnout_worker(never):
        # A client that looks at the job would say so first, and has no hooks.
        assert await heard.settled("on_fault") == ["on_fault"]
    assert [job.reason for _, job in heard.calls] == ["expired"]
    assert (await handle.info()).attempt == 0


async def test_a_lost_attempt_is_told_by_whoever_counts_it(turnout_client: Client, turnout_worker: Any) -> None:
    """The worker that takes over from a node that is gone tells the loss, then its own start."""
    heard = Heard()

    @activity(lease=1, **heard.hooks())
    async def work() -> int:
        return current_job().attempt

    handle = await turnout_client.submit(work)
    store = turnout_client.store
    found = await store.queue.find("work", handle.id)
    assert found is not None
    started = Received(delivery=found, node="ghost-1", nonce="n", now=store.connection.now(), rules=Policy(lease=1))
    await Performer(store).apply("work", handle.id, started)
    async with turnout_worker(work, liveness_ttl=2.0):
        assert await handle.result(timeout=30) == 2
        expected = ["on_lost", "on_start", "on_success"]
        assert await heard.settled(*expected) == expected
    assert heard.calls[0][1].losses == 1


@pytest.mark.parametrize("kind", ["raises", "exits", "async raises", "async exits", "hangs", "async hangs", "deaf"])
async def test_nothing_that_a_hook_does_matters_to_the_job(
    turnout_client: Client,
    turnout_worker: Any,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hook that raises, exits, hangs or won't be cancelled delays no job and loses none; the log tells of it."""
    monkeypatch.setattr(caller, "_CLOSING_S", 2.0)
    monkeypatch.setattr(caller, "TIMEOUT_S", 0.5)
    release = threading.Event()

    def raises(_: JobInfo) -> None:
        raise RuntimeError("the hook is broken")

    def exits(_: JobInfo) -> None:
        raise SystemExit(3)

    async def async_raises(_: JobInfo) -> None:
        raise RuntimeError("the hook is broken")

    async def async_exits(_: JobInfo) -> None:
        raise SystemExit(3)

    def hangs(_: JobInfo) -> None:
        release.wait(60)

    async def async_hangs(_: JobInfo) -> None:
        await asyncio.Event().wait()

    async def deaf(_: JobInfo) -> None:
        for _attempt in range(20):
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                continue

    bad = {"raises": raises, "exits": exits, "async raises": async_raises, "async exits": async_exits,
           "hangs": hangs, "async hangs": async_hangs, "deaf": deaf}[kind]  # fmt: skip

    @activity(on_start=bad, on_success=bad)
    async def quick(n: int) -> int:
        return n

    began = time.monotonic()
    with caplog.at_level(logging.ERROR, "turnout.worker.hooks"):
        async with turnout_worker(quick):
            handles = [await turnout_client.submit(quick, n) for n in range(5)]
            assert [await handle.result(timeout=30) for handle in handles] == list(range(5))
            took_s = time.monotonic() - began

            async def told() -> bool:
                return "of job" in caplog.text

            await until(told)
    release.set()
    assert took_s < 20
    assert [(await handle.info()).state for handle in handles] == ["completed"] * 5


async def test_hooks_run_to_their_end_when_the_worker_stops(turnout_client: Client, turnout_worker: Any) -> None:
    """Stopping a worker waits for hooks that are under way, for a while."""
    done = []

    async def slow(job: JobInfo) -> None:
        await asyncio.sleep(0.3)
        done.append(job.state)

    @activity(on_success=slow)
    async def quick() -> None:
        pass

    async with turnout_worker(quick):
        await (await turnout_client.submit(quick)).result(timeout=30)
    assert done == ["completed"]


async def test_hooks_are_not_declared(turnout_client: Client, turnout_worker: Any) -> None:
    """What a worker tells others of an activity has no functions in it."""

    @activity(on_fault=print, timeout=5)
    async def work() -> None:
        pass

    async with turnout_worker(work):
        (declared,) = await turnout_client.activities()
    assert declared.options["timeout"] == 5
    assert not [name for name in declared.options if name.startswith("on_")]


async def test_what_is_no_hook_is_refused(turnout_client: Client) -> None:
    """A hook that can't be called, and hooks that are none, are told at definition."""
    with pytest.raises(DefinitionError, match="on_fault"):
        activity(on_fault=3)  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match="on_start"):
        Hooks(on_start="x")  # type: ignore[arg-type]

    @activity
    async def work() -> None:
        pass

    with pytest.raises(DefinitionError, match="Hooks"):
        Worker(turnout_client, activities=[work], hooks=print)  # type: ignore[arg-type]


def test_writing_a_record_twice_tells_once() -> None:
    """A second write of the same state tells nothing; a new generation begins to count again."""
    faulted = job_record("a", "act", JobState.faulted, attempt=2, failures=2, losses=1)
    assert changes(faulted, faulted).all == ()
    again = job_record("a", "act", JobState.running, generation=2, attempt=3)
    assert changes(faulted, again).all == (Change.started,)
    ended = evolve(faulted, state=JobState.running, attempt=0, failures=0, losses=0)
    assert changes(ended, faulted).all == (Change.lost, Change.started, Change.failed, Change.faulted)
