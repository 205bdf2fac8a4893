"""Workflows that wait: the memory of each in its worker's cache, what they cost a worker that has nothing to do, and
how long the first page of their list takes.

As many as a drain has jobs (`--jobs`). They are begun by one worker, whose cache holds all of them; when it has gone,
another one is watched beside one of a namespace without any.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from bench.child import Child, measure
from bench.finished import PAGE
from bench.flows import asleep
from bench.processes import Process, server_pid, worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout import Client, Worker, WorkflowState
from turnout.bounded import each
from turnout.testing.server import NatsServer

SERVES = "bench.flows:served"
ROUNDS = 3
"""More would take long: each has to begin all of them."""

NOTHING = Aim(most=1.2)
"""Whoever idles costs so little that two of them differ by as much."""

WARM_UP = 100
SETTLE_S = 5.0
AT_ONCE = 64
STOP = "bench.stop"
_LOOK_S = 0.1


async def keep(url: str, namespace: str, cached: int) -> dict[str, Any]:
    """A worker that keeps so many workflows in memory, until it is told to stop."""
    async with Client.connect(url, namespace=namespace) as client:
        stop = asyncio.Event()
        subscription = await client.store.connection.subscribe(STOP, lambda _: stop.set())
        async with Worker(client, workflows=[asleep], max_cached_workflows=cached):
            print("working", flush=True)
            await stop.wait()
        await subscription.close()
    return {}


async def begun(url: str, namespace: str, count: int, keeper: int) -> dict[str, Any]:
    """Start the workflows and have that worker begin each, then stop it; the KB that it has grown by for each."""
    worker = Process(keeper)
    async with Client.connect(url, namespace=namespace) as client:
        await _start(client, WARM_UP)
        before_mb = worker.rss_mb
        await _start(client, count)
        grown_mb = worker.rss_mb - before_mb
        client.store.connection.send(STOP, b"")
        return {"kb": grown_mb * 1000 / count}


async def _start(client: Client, count: int) -> None:
    """Start so many, and wait until the worker has begun them."""
    await each(lambda _: client.start(asleep), range(count), AT_ONCE)
    await all_begun(client)


async def all_begun(client: Client) -> None:
    """Wait until the workers have begun each workflow that sleeps."""
    consumer = f"CONSUMER.INFO.{client.store.names.inbox}.{asleep.name}"
    while True:
        info = await client.store.connection.api(consumer)  # of what has begun the wake-up is gone
        if not info["num_pending"] + info["num_ack_pending"]:
            return
        await asyncio.sleep(_LOOK_S)


async def listed(url: str, namespace: str, count: int) -> dict[str, Any]:
    """The seconds of the first page of a list, and of a count."""
    async with Client.connect(url, namespace=namespace) as client:
        started = time.perf_counter()
        page = [info async for info in client.workflows(state=WorkflowState.running, limit=PAGE)]
        page_s, started = time.perf_counter() - started, time.perf_counter()
        counted = (await client.count_workflows())[WorkflowState.running]
        count_s = time.perf_counter() - started
        if (len(page), counted) != (min(PAGE, count), count):
            raise RuntimeError(f"of {count} workflows a page showed {len(page)}, and the count is {counted}")
        return {"page_s": page_s, "count_s": count_s}


def idle(url: str, bare_url: str, pids: tuple[int, int], namespace: str, window_s: float) -> dict[str, Any]:
    """Watch two idle workers, one of that namespace and one of an empty one; their CPU and their servers', in percent.

    `pids`: the processes of the two servers.
    """
    with (
        worker_process(url, namespace, serves=SERVES) as worker,
        worker_process(bare_url, "bare", serves=SERVES) as bare,
    ):
        watched = {"cpu": worker, "bare": bare, "server": Process(pids[0]), "bare_server": Process(pids[1])}
        time.sleep(SETTLE_S)
        before, started = {name: process.cpu_s for name, process in watched.items()}, time.perf_counter()
        time.sleep(window_s)
        took = time.perf_counter() - started
        return {name: (process.cpu_s - before[name]) / took * 100 for name, process in watched.items()}


def one_round(sizes: Sizes) -> dict[str, Any]:
    namespace = f"v{secrets.token_hex(4)}"
    with NatsServer() as server, NatsServer() as bare:
        arguments: dict[str, Any] = {"url": server.url, "namespace": namespace}
        count = sizes.jobs + WARM_UP
        keeper = Child("bench.waiting:keep", cached=count, **arguments)
        keeper.wait_for("working")
        found = measure("bench.waiting:begun", count=sizes.jobs, keeper=keeper.pid, **arguments)
        keeper.result()
        found |= measure("bench.waiting:listed", count=count, **arguments)
        return found | idle(server.url, bare.url, (server_pid(server), server_pid(bare)), namespace, sizes.idle_s)


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(sizes) for _ in range(min(sizes.rounds, ROUNDS))]

    def row(key: str, work: str, what: str, unit: str, aim: Aim | None, against: str | None = None) -> Row:
        rounds = [each_round[what] for each_round in found]
        beside = [each_round[against] for each_round in found] if against is not None else []
        return Row(
            key=f"waiting_{key}", work=work, unit=unit, rounds=rounds, against=beside, other="without any", aim=aim
        )

    workflows = f"{sizes.jobs:,} waiting workflows"
    return [
        row("kb", f"memory of a cached one, {workflows}", "kb", "KB", Aim(of="value", most=20.0)),
        row("cpu", f"CPU of an idle worker, {workflows}", "cpu", "%", NOTHING, "bare"),
        row("server_cpu", f"CPU of its server, {workflows}", "server", "%", None, "bare_server"),
        row("page", f"first page of `workflows(state=...)`, {workflows}", "page_s", "s", Aim(of="value", most=1.0)),
        row("count", f"`count_workflows()`, {workflows}", "count_s", "s", None),
    ]


if __name__ == "__main__":
    show(measured, __doc__)
