"""A worker has a line for its work and one for its leases: what happens when one of them breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.proxy import Proxy
from tests.support.waiting import until
from turnout import Client, JobState, Limit, RetryPolicy, Worker, activity, current_job
from turnout.testing import NatsServer
from turnout.worker import keeper

ONCE = RetryPolicy.none()
WORK, LEASES = "turnout-client", "turnout-leases"
ends: dict[str, asyncio.Event] = {}
stops: dict[str, str | None] = {}


@activity(retry=ONCE, lease=30)
async def short() -> str:
    await asyncio.sleep(0.05)
    return current_job().node


@activity(retry=ONCE, lease=30)
async def gated(gate: str) -> str:
    """Its first attempt waits for the test; a later one is done at once."""
    job = current_job()
    if job.attempt == 1:
        try:
            await ends.setdefault(gate, asyncio.Event()).wait()
        except asyncio.CancelledError:
            stops[gate] = job.cancel_reason
            raise
    return job.node


@activity(retry=ONCE, lease=30, limits=[Limit("line", concurrency=1)])
async def limited(gate: str) -> str:
    return await gated(gate)


@activity(retry=RetryPolicy(max_attempts=2, delay=0.3, jitter=0), lease=1.5)
async def fails_once(gate: str) -> str:
    if current_job().attempt == 1:
        await ends.setdefault(gate, asyncio.Event()).wait()
        raise ValueError("the first time")
    return current_job().node


@activity(retry=RetryPolicy(max_attempts=2, delay=1.5, jitter=0), lease=60)
async def due_later() -> int:
    if current_job().attempt == 1:
        raise ValueError("the first time")
    return current_job().attempt


@activity(retry=ONCE, heartbeat_timeout=1.0)
async def checkpointing(steps: int) -> int:
    job = current_job()
    for number in range(steps):
        await asyncio.sleep(0.1)
        job.progress(number + 1, steps)
        await job.checkpoint(number + 1)
    return steps


@pytest_asyncio.fixture
async def proxy(turnout_client: Client, nats_server: NatsServer) -> AsyncIterator[Proxy]:
    async with Proxy(nats_server.port) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def beyond(turnout_client: Client, proxy: Proxy) -> AsyncIterator[Client]:
    """A client of the same namespace whose lines go through the proxy, and those of its workers as well."""
    async with Client.connect(proxy.url, namespace=turnout_client.namespace) as client:
        yield client
        proxy.refuse.clear()


async def count(client: Client, state: JobState) -> int:
    return (await client.count())[state]


async def ready(worker: Worker) -> bool:
    return worker.ready


async def not_ready(worker: Worker) -> bool:
    return not worker.ready


async def test_a_node_that_cannot_keep_leases_takes_no_jobs(
    turnout_client: Client, turnout_worker: Any, beyond: Client, proxy: Proxy
) -> None:
    """Without its lease line a node is not ready, and each job runs once, elsewhere. With the line back it works on."""
    async with (
        turnout_worker(short, client=beyond, name="sick") as sick,
        turnout_worker(short, name="well") as well,
    ):
        proxy.lose(LEASES)
        await until(lambda: not_ready(sick))
        handles = await turnout_client.submit_many(short, [{}] * 30)
        nodes = await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
        assert set(nodes) == {well.id}
        infos = [await handle.info() for handle in handles]
        assert {(info.attempt, info.losses) for info in infos} == {(1, 0)}
        proxy.refuse.clear()
        await until(lambda: ready(sick))
        await well.stop(0)
        assert await (await turnout_client.submit(short)).result(timeout=30) == sick.id


async def test_a_settlement_goes_out_while_the_lease_line_is_away(
    turnout_client: Client, turnout_worker: Any, beyond: Client, proxy: Proxy
) -> None:
    """An attempt that ends while only the lease line is down is settled over the other line: the retry is in time."""
    gate = turnout_client.namespace
    async with turnout_worker(fails_once, client=beyond, name="sick"):
        handle = await turnout_client.submit(fails_once, gate)
        await until(lambda: running_for(turnout_client, handle.id, 1.0))  # its lease has been extended by then
        async with turnout_worker(fails_once, name="well") as well:
            proxy.lose(LEASES)
            ends[gate].set()
            at = time.monotonic()
            assert await handle.result(timeout=30) == well.id
            proxy.refuse.clear()
            assert time.monotonic() - at < 20
    info = await handle.info()
    assert (info.attempt, info.losses) == (2, 0)


async def running_for(client: Client, job_id: str, seconds: float) -> bool:
    info = await client.job(job_id).info()
    started = info.attempts[-1].started_at.timestamp() if info.attempts else None
    return started is not None and client.store.connection.now() - started > seconds


async def test_a_node_that_cannot_write_leaves_its_jobs_to_others(
    turnout_client: Client, turnout_worker: Any, beyond: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its work line gone for a liveness TTL a node stops what it runs, and others have it, whatever its lease."""
    monkeypatch.setattr(keeper, "RETURN_S", 0.0)
    running, ended = f"{turnout_client.namespace}-running", f"{turnout_client.namespace}-ended"
    async with turnout_worker(gated, client=beyond, name="sick", liveness_ttl=2):
        handles = [await turnout_client.submit(gated, gate) for gate in (running, ended)]

        async def both_run() -> bool:
            return await count(turnout_client, JobState.running) == 2

        await until(both_run)
        async with turnout_worker(gated, name="well") as well:
            proxy.lose(WORK)
            ends[ended].set()
            at = time.monotonic()
            assert [await handle.result(timeout=30) for handle in handles] == [well.id] * 2
            assert time.monotonic() - at < 20
            assert stops[running] == "lease_lost"
            assert [(await handle.info()).losses for handle in handles] == [1, 1]
            proxy.refuse.clear()


async def test_a_cancel_reaches_code_whose_work_line_is_gone(
    turnout_client: Client, turnout_worker: Any, beyond: Client, proxy: Proxy
) -> None:
    """A pushed cancel acts at once, though the worker can't read the record over its own connection."""
    gate = turnout_client.namespace
    async with turnout_worker(gated, client=beyond):
        handle = await turnout_client.submit(gated, gate)

        async def runs() -> bool:
            return await count(turnout_client, JobState.running) == 1

        await until(runs)
        proxy.lose(WORK)
        await handle.cancel("enough")

        async def stopped() -> bool:
            return stops.get(gate) is not None

        await until(stopped)
        assert stops[gate] == "cancelled: enough"
        proxy.refuse.clear()

        async def cancelled() -> bool:
            return (await handle.info()).state is JobState.cancelled

        await until(cancelled)


async def test_a_redelivery_outwaits_a_broken_line(
    turnout_client: Client, turnout_worker: Any, beyond: Client, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Retries that are handed over just when the line fails are not dropped: they begin when it is back."""
    async with turnout_worker(due_later, client=beyond, concurrency=20):
        handles = await turnout_client.submit_many(due_later, [{}] * 10)

        async def all_wait() -> bool:
            return await count(turnout_client, JobState.retrying) == 10

        await until(all_wait)
        proxy.block(up=True, down=False)  # what the server hands over arrives, and no answer to it

        async def all_due() -> bool:
            infos = [await handle.info() for handle in handles]
            return all(info.state is JobState.retrying and due(info) < turnout_client.store.connection.now() - 0.3
                       for info in infos)  # fmt: skip

        await until(all_due)
        proxy.cut()
        proxy.unblock()
        assert await asyncio.gather(*(handle.result(timeout=30) for handle in handles)) == [2] * 10
    assert "could not be executed" not in caplog.text


def due(info: Any) -> float:
    return float(info.attempts[-1].ended_at.timestamp()) + 1.5


async def test_waiting_for_the_server_is_no_silence_of_the_code(
    turnout_client: Client, turnout_worker: Any, beyond: Client, proxy: Proxy
) -> None:
    """A checkpoint that takes longer than the heartbeat timeout, since the server is away, costs no attempt."""
    async with turnout_worker(checkpointing, client=beyond):
        handle = await turnout_client.submit(checkpointing, 12)

        async def reported() -> bool:
            return (await handle.info()).progress is not None

        await until(reported)
        at = time.monotonic()
        proxy.lose(WORK)

        async def long_enough() -> bool:
            return time.monotonic() - at > 2.5

        await until(long_enough)
        proxy.refuse.clear()
        assert await handle.result(timeout=30) == 12
        assert (await handle.info()).attempt == 1


async def test_a_node_that_is_cut_off_stops_what_holds_places(
    turnout_client: Client, turnout_worker: Any, beyond: Client, proxy: Proxy
) -> None:
    """After one liveness TTL, by itself: others may have been handed its places. Nothing of it counts as a failure.

    What is not limited goes on."""
    free, held = (f"{turnout_client.namespace}-{name}" for name in ("free", "held"))
    async with turnout_worker(gated, limited, client=beyond, name="far", liveness_ttl=2.0):
        handles = [await turnout_client.submit(gated, free), await turnout_client.submit(limited, held)]
        await until(lambda: running_for(turnout_client, handles[1].id, 0))
        proxy.block()

        async def stopped() -> bool:
            return held in stops

        await until(stopped)
        assert stops == {**stops, held: "lease_lost"}
        assert free not in stops
        ends[free].set()
        proxy.unblock()
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
    infos = [await handle.info() for handle in handles]
    assert [(info.attempt, info.failures, info.losses) for info in infos] == [(1, 0, 0), (2, 0, 0)]
