"""Handles: typed results, time limits, errors that tell, watching."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import attrs
import pytest

from tests.support.waiting import until
from turnout import (
    Client,
    Fatal,
    JobCancelled,
    JobFaulted,
    JobHandle,
    JobInfo,
    JobNotFound,
    RetryPolicy,
    TurnoutError,
    activity,
    current_job,
)
from turnout.client import reader
from turnout.nats.messages import NoResponders
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory


@attrs.frozen
class Converted:
    path: str
    frames: int


@activity
async def convert(path: str) -> Converted:
    return Converted(f"{path}.webm", 24)


@activity
async def nothing() -> None:
    return None


@activity
async def hold() -> None:
    await asyncio.Event().wait()


@activity(retry=RetryPolicy(max_attempts=2, delay=0))
async def fail(message: str) -> None:
    raise ValueError(message)


@activity
async def give_up() -> None:
    raise Fatal("no such codec")


@activity
async def steps(count: int) -> int:
    for done in range(count):
        current_job().progress(done + 1, count, f"step {done + 1}")
    return count


async def is_state(client: Client, job_id: str, state: str) -> JobInfo | None:
    info = await client.job(job_id).info()
    return info if info.state == state else None


async def test_results_are_typed_by_the_activity(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A typed handle gives the annotated type, also when made from an id; one by name gives plain JSON."""
    async with turnout_worker(convert, nothing):
        handle = await turnout_client.submit(convert, path="a")
        assert await handle.result(timeout=30) == Converted("a.webm", 24)
        assert await turnout_client.job(handle.id, convert).result() == Converted("a.webm", 24)
        plain = {"path": "a.webm", "frames": 24}
        assert await turnout_client.job(handle.id).result() == plain
        assert await turnout_client.job(handle.id, "convert").result() == plain
        assert (await handle.info()).result == plain
        assert await (await turnout_client.submit("convert", path="b")).result(timeout=30) == {
            **plain,
            "path": "b.webm",
        }
        done: JobHandle[Any] = await turnout_client.submit(nothing)
        assert await done.result(timeout=30) is None
    assert handle.activity == "convert"
    assert handle.id in repr(handle)


async def test_results_come_at_once_and_to_everybody(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Many may wait for one result, before it is there and after; the wait ends with the job, not with some poll."""
    async with turnout_worker(convert):
        early = [asyncio.create_task((await turnout_client.submit(convert, "warm")).result(timeout=30))]
        await asyncio.gather(*early)
        took = []
        for _ in range(10):
            began = time.perf_counter()
            await (await turnout_client.submit(convert, "a")).result(timeout=30)
            took.append(time.perf_counter() - began)
        handle = await turnout_client.submit(convert, "a")
        results = await asyncio.gather(*(turnout_client.job(handle.id, convert).result(timeout=30) for _ in range(20)))
    assert set(results) == {Converted("a.webm", 24)}
    assert sorted(took)[5] < 0.25, "the first poll comes after half a second"


@pytest.mark.parametrize("timeout", [0, 0.1, timedelta(milliseconds=50)])
async def test_a_result_that_takes_too_long(
    turnout_client: Client, turnout_worker: WorkerFactory, timeout: float | timedelta
) -> None:
    """The builtin TimeoutError, which is no TurnoutError; the job goes on, and its result may be asked for again."""
    handle = await turnout_client.submit(convert, "a")
    with pytest.raises(TimeoutError, match=handle.id) as caught:
        await handle.result(timeout=timeout)
    assert type(caught.value) is TimeoutError
    assert not isinstance(caught.value, TurnoutError)
    assert (await handle.info()).state == "queued"
    async with turnout_worker(convert):
        assert await handle.result(timeout=30) == Converted("a.webm", 24)
        assert await handle.result(timeout=30) == Converted("a.webm", 24)


async def test_a_result_that_is_there_needs_no_time(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """With timeout=0 a job that has ended gives its result: the limit is on waiting."""
    async with turnout_worker(convert):
        handle = await turnout_client.submit(convert, "a")
        await handle.result(timeout=30)
        assert await handle.result(timeout=0) == Converted("a.webm", 24)


@pytest.mark.parametrize("timeout", [-1, "soon", float("nan")])
async def test_a_bad_timeout(turnout_client: Client, timeout: Any) -> None:
    """A timeout that is none is a ValueError that names it."""
    handle = await turnout_client.submit(convert, "a")
    with pytest.raises(ValueError, match="timeout"):
        await handle.result(timeout=timeout)


async def test_a_wait_can_be_given_up(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Cancelling the task that waits, or wait_for around it, leaves the job alone."""
    handle = await turnout_client.submit(convert, "a")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handle.result(), 0.05)
    waiting = asyncio.create_task(handle.result(timeout=30))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with turnout_worker(convert):
        await handle.result(timeout=30)


async def test_a_faulted_job_tells_why(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """JobFaulted has the JobInfo, and says error, class and id in its text."""
    async with turnout_worker(fail, give_up):
        handle = await turnout_client.submit(fail, "disk full")
        with pytest.raises(JobFaulted) as caught:
            await handle.result(timeout=30)
        assert caught.value.info == await handle.info()
        assert (caught.value.info.state, caught.value.info.attempt, caught.value.info.error.message) == (
            "faulted",
            2,
            "disk full",
        )
        for part in ("disk full", "ValueError", handle.id):
            assert part in str(caught.value)
        with pytest.raises(JobFaulted, match="no such codec") as caught:
            await (await turnout_client.submit(give_up)).result(timeout=30)
        assert caught.value.info.attempt == 1
        assert caught.value.info.error.type == "Fatal"


async def test_a_cancelled_job_tells_why(turnout_client: Client) -> None:
    """JobCancelled has the JobInfo, and says the reason in its text."""
    handle = await turnout_client.submit(convert, "a")
    await handle.cancel("wrong file")
    with pytest.raises(JobCancelled) as caught:
        await handle.result(timeout=30)
    assert caught.value.info == await handle.info()
    assert "wrong file" in str(caught.value)
    assert handle.id in str(caught.value)


async def test_watch_shows_progress_and_ends(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A watch sees progress grow, never go back, and ends with the last report and the result in its last info."""
    async with turnout_worker(steps):
        handle = await turnout_client.submit(steps, 50)
        seen = [info async for info in handle.watch()]
    assert (seen[-1].state, seen[-1].result) == ("completed", 50)
    done = [info.progress.done for info in seen if info.progress is not None]
    assert done == sorted(done)
    assert seen[-1].progress is not None
    assert (seen[-1].progress.done, seen[-1].progress.message) == (50, "step 50")
    assert [info.state.final for info in seen].count(True) == 1


async def test_watch_of_a_retried_job_goes_on_to_its_next_end(
    turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """A watch that begins after a retry sees the new life, not the old end."""
    async with turnout_worker(fail):
        handle = await turnout_client.submit(fail, "x")
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
    await handle.retry()
    watching = asyncio.create_task(last(handle.watch()))
    waiting = asyncio.create_task(handle.result(timeout=30))
    await asyncio.sleep(0)
    async with turnout_worker(fail):
        info = await asyncio.wait_for(watching, 30)
        with pytest.raises(JobFaulted) as caught:
            await waiting
    assert (info.state, info.generation, info.attempt) == ("faulted", 2, 4)
    assert caught.value.info.generation == 2


async def last(infos: AsyncIterator[JobInfo]) -> JobInfo:
    return [info async for info in infos][-1]


async def test_a_watch_that_is_left_leaves_nothing_behind(turnout_client: Client) -> None:
    """Breaking out of a watch is fine, and another watch begins with the state as it is."""
    handle = await turnout_client.submit(convert, "a")
    for _ in range(3):
        async for info in handle.watch():
            assert info.state == "queued"
            break


async def is_away(client: Client) -> bool:
    """Whether the client has noticed that its server is away."""
    return not client.store.connection.up


async def cancelled(handle: JobHandle[Any]) -> bool:
    """Whether the server could be asked to cancel the job: it may only just be back."""
    try:
        await handle.cancel("seen enough")
    except (ConnectionError, TimeoutError, NoResponders):
        return False
    return True


async def test_waiting_survives_the_server(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Who waits for a result doesn't notice that the server is killed and comes back."""
    with NatsServer() as server:
        async with Client.connect(server.url) as client, turnout_worker(convert, hold, client=client):
            handle = await client.submit(hold)
            await until(lambda: is_state(client, handle.id, "running"))
            waiting = asyncio.create_task(handle.result(timeout=60))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

            await until(lambda: cancelled(handle))
            with pytest.raises(JobCancelled, match="seen enough"):
                await waiting


async def test_a_job_that_is_deleted_while_somebody_waits(
    turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """A watch of a job that is deleted ends, with the job's end or by being told that it is gone."""
    handle = await turnout_client.submit(convert, "a")
    watch = handle.watch()
    assert (await anext(watch)).state == "queued"
    await handle.cancel()
    await handle.delete()
    with contextlib.suppress(JobNotFound):  # unless it was quick enough to see the end
        assert [info.state async for info in watch] == ["cancelled"]
    with pytest.raises(JobNotFound):
        await handle.info()


async def test_clients_are_closed_once_and_for_all(nats_server: NatsServer, turnout_client: Client) -> None:
    """Closing twice is fine; a closed client says so instead of waiting; `await` connects like `async with`."""
    client = await Client.connect(nats_server.url, namespace=turnout_client.namespace)
    handle = await client.submit(convert, "a")
    await client.close()
    await client.close()
    for ask in (handle.info, handle.result, lambda: client.submit(convert, "b")):
        with pytest.raises((TurnoutError, ConnectionError)):
            await asyncio.wait_for(ask(), 30)
    async with Client.connect([nats_server.url, "nats://127.0.0.1:1"], namespace=client.namespace) as again:
        assert (await again.job(handle.id).info()).state == "queued"


@pytest.mark.parametrize("away", [False, True], ids=["connected", "while the server is away"])
async def test_whoever_waits_is_told_that_the_client_is_closed(monkeypatch: pytest.MonkeyPatch, away: bool) -> None:
    """Nobody waits for a result or a change that can't come any more, not even for the next poll."""
    monkeypatch.setattr(reader, "_POLL_S", (120.0, 120.0))
    with NatsServer() as server:
        client = await Client.connect(server.url)
        handle = await client.submit(convert, "a")
        watch = handle.watch()
        assert (await anext(watch)).state == "queued"
        waiting: list[asyncio.Future[Any]] = [asyncio.ensure_future(each) for each in (handle.result(), anext(watch))]
        await asyncio.sleep(0.5)
        if away:
            await asyncio.to_thread(server.kill)
            await until(lambda: is_away(client))
            await asyncio.sleep(0.5)
        assert not any(task.done() for task in waiting)
        await client.close()
        for task in waiting:
            with pytest.raises(ConnectionError, match="closed"):
                await asyncio.wait_for(task, 60)


async def test_a_watch_survives_the_server(turnout_worker: WorkerFactory) -> None:
    """Who watches a job sees its end, though the server was killed and came back meanwhile."""
    with NatsServer() as server:
        async with Client.connect(server.url) as client, turnout_worker(hold, client=client):
            handle = await client.submit(hold)
            states: list[str] = []

            async def watch() -> None:
                async for info in handle.watch():
                    states.append(info.state)

            watching = asyncio.create_task(watch())
            await until(lambda: is_state(client, handle.id, "running"))
            await asyncio.to_thread(server.kill)
            await until(lambda: is_away(client))
            await asyncio.sleep(1)  # it is asked in vain meanwhile
            await asyncio.to_thread(server.start)
            await client.store.connection.wait_up(timeout_s=60)
            await until(lambda: cancelled(handle))
            await asyncio.wait_for(watching, 60)
            assert states[-1] == "cancelled"


async def test_enter_and_leave_in_different_tasks(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Client and Worker may be entered in one task and left in another."""
    from turnout import Worker

    client = await asyncio.create_task(Client.connect(nats_server.url, namespace=turnout_client.namespace).__aenter__())
    worker = Worker(client, activities=[convert])
    await asyncio.create_task(worker.__aenter__())
    handle = await client.submit(convert, "a")
    assert await asyncio.create_task(handle.result(timeout=30)) == Converted("a.webm", 24)
    await asyncio.create_task(worker.__aexit__(None, None, None))
    await asyncio.create_task(client.__aexit__(None, None, None))
