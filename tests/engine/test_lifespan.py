"""The user's code around a worker's life, and the client that jobs have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.waiting import until
from turnout import Client, DefinitionError, JobFaulted, NotInJob, RetryPolicy, Worker, activity, current_job
from turnout.testing import ActivityEnvironment

happened: list[object] = []


@activity
async def note(what: str = "job") -> str:
    happened.append(what)
    return what


@activity
async def ask_for_another() -> str:
    handle = await current_job().client.submit(note, what="asked for")
    return handle.id


@activity
def ask_from_a_thread() -> str:
    job = current_job()
    return job.run_sync(job.client.submit(note, what="asked for")).id


@activity(run_in="process", retry=RetryPolicy.none())
def ask_from_a_process() -> str:
    return str(current_job().client)


@activity(retry=RetryPolicy.none())
async def block_the_loop() -> None:
    job = current_job()
    job.run_sync(job.client.submit(note))


async def test_code_runs_around_the_life_of_a_worker(turnout_client: Client) -> None:
    """The start comes before any job, the end after the last one, and the lifespan is around both, in one task."""
    happened.clear()
    handle = await turnout_client.submit(note)

    @asynccontextmanager
    async def lifespan(worker: Worker) -> AsyncIterator[None]:
        happened.append(worker.id)
        async with asyncio.timeout(60):  # a scope that only the task that entered it may leave
            yield
        happened.append("left")

    async def on_startup() -> None:
        happened.append("startup")

    async def on_shutdown(worker: Worker) -> None:
        happened.append(("shutdown", worker.ready))

    worker = Worker(
        turnout_client, activities=[note], on_startup=on_startup, on_shutdown=on_shutdown, lifespan=lifespan
    )
    await asyncio.create_task(worker.start())
    assert await handle.result(timeout=30) == "job"
    await asyncio.create_task(worker.stop())
    assert happened == [worker.id, "startup", "job", ("shutdown", False), "left"]


async def test_a_start_that_fails_takes_no_job(turnout_client: Client) -> None:
    """What the start raises is raised by the worker's start; no job is taken, and the lifespan is left."""
    happened.clear()
    handle = await turnout_client.submit(note)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            yield
        finally:
            happened.append("left")

    def on_startup() -> None:
        raise ConnectionRefusedError("no database")

    worker = Worker(turnout_client, activities=[note], on_startup=on_startup, lifespan=lifespan)
    with pytest.raises(ConnectionRefusedError, match="no database"):
        await worker.start()
    assert happened == ["left"]
    assert (await handle.info()).state == "queued"


async def test_an_end_that_fails_is_logged(turnout_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """What the end raises is in the log with its traceback, the lifespan is left, and the worker stops."""
    happened.clear()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        happened.append("left")

    async def on_shutdown() -> None:
        raise ValueError("not this time")

    with caplog.at_level(logging.ERROR, "turnout.worker"):
        async with Worker(turnout_client, activities=[note], on_shutdown=on_shutdown):
            pass
    assert "the code at the end of the worker has failed" in caplog.text
    assert "not this time" in caplog.text
    async with Worker(turnout_client, activities=[note], lifespan=lifespan):
        pass
    assert happened == ["left"]


async def _generator() -> AsyncIterator[None]:
    yield


async def _two(one: Any, two: Any) -> None: ...


async def _coroutine() -> None: ...


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_startup": 3}, "on_startup must be a function, not 3"),
        ({"on_shutdown": _two}, "on_shutdown must take nothing, or the worker"),
        ({"on_startup": _generator}, "on_startup must not be a generator"),
        ({"lifespan": _generator}, "contextlib.asynccontextmanager"),
        ({"lifespan": _coroutine}, "lifespan must give an async context manager"),
    ],
    ids=["number", "two", "generator", "undecorated", "coroutine"],
)
async def test_what_cannot_be_called_is_refused(turnout_client: Client, options: dict[str, Any], said: str) -> None:
    """A mistake shows when the worker is made, in a sentence that says what to write."""
    with pytest.raises(DefinitionError, match=said):
        Worker(turnout_client, activities=[note], **options)


@pytest.mark.parametrize("asking", [ask_for_another, ask_from_a_thread], ids=lambda each: each.name)
async def test_a_job_submits_another(turnout_client: Client, asking: Any) -> None:
    """`current_job().client` submits from async code and from threads, in the trace of the job that asks."""
    async with Worker(turnout_client, activities=[note, asking]):
        handle = await turnout_client.submit(asking)
        asked_for = turnout_client.job(await handle.result(timeout=30))
        assert await asked_for.result(timeout=30) == "asked for"


@pytest.mark.parametrize(
    ("asking", "said"),
    [(ask_from_a_process, "connect with Client.connect"), (block_the_loop, "would block the event loop")],
    ids=["process", "loop"],
)
async def test_where_there_is_no_client_that_is_said(turnout_client: Client, asking: Any, said: str) -> None:
    """A child process has no client, and nobody waits for the loop on the loop: both are said in a sentence."""
    async with Worker(turnout_client, activities=[note, asking]):
        with pytest.raises(JobFaulted, match=said):
            await (await turnout_client.submit(asking)).result(timeout=30)


async def test_the_environment_gives_the_client_that_it_was_given(turnout_client: Client) -> None:
    """A test of one activity decides what its client is."""
    job_id = await ActivityEnvironment(client=turnout_client).run(ask_for_another)
    assert (await turnout_client.job(job_id).info()).state == "queued"
    with pytest.raises(NotInJob, match="ActivityEnvironment"):
        await ActivityEnvironment().run(ask_for_another)


@activity(retry=RetryPolicy.none())
async def checkpoint_on_the_loop() -> None:
    current_job().checkpoint_sync(1)


async def test_a_checkpoint_for_threads_is_refused_on_the_loop(turnout_client: Client) -> None:
    """`checkpoint_sync()` in async code is a failure that says what to write, and blocks nothing."""
    async with Worker(turnout_client, activities=[checkpoint_on_the_loop]):
        with pytest.raises(JobFaulted, match="would block the event loop"):
            await (await turnout_client.submit(checkpoint_on_the_loop)).result(timeout=30)


@activity
async def wait_for_another() -> str:
    return await (await current_job().client.submit(note)).result()


async def test_slots_that_all_wait_for_jobs_are_told_of(
    turnout_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """When every slot is held by code that waits for jobs a warning says so, and what to do instead."""
    async with Worker(turnout_client, activities=[note, wait_for_another], concurrency=2) as worker:
        await (await turnout_client.submit(wait_for_another)).result(timeout=30)
        assert "are held by jobs that wait" not in caplog.text
        await turnout_client.submit_many(wait_for_another, [{}, {}])

        async def warned() -> bool:
            return "all 2 slots of this node are held by jobs that wait for other jobs" in caplog.text

        await until(warned)
        await worker.stop(grace=0)
