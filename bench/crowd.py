"""One job, or workflow, among very many others beside the same in an empty namespace: neither should feel the others.

As many workflows that sleep as a drain has jobs, and as many queued jobs of an activity that nobody works on. Each
namespace has a server and a worker of its own; the worker keeps one workflow in memory, so that the others have to be
loaded. The two are asked in turns.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench.child import Child, measure
from bench.flows import Counter, asleep, chain
from bench.jobs import noop
from bench.latency import quantile
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from bench.waiting import STOP, all_begun
from turnout import Client, Worker, activity_ref
from turnout.bounded import each
from turnout.testing.server import NatsServer

AT_ONCE = 64
TURNS = 5
WARM_UP = 5
UNFELT = Aim(most=1.5)
"""On a shared machine two medians of a few dozen turns differ by as much."""

PAGE = Aim(of="value", most=100.0)
"""It has to look which stream has less to be read, but reads no crowd."""

WHAT = {
    "job": "submit to result",
    "workflow": "a workflow of one activity",
    "cold": "an update of a workflow that is in no memory",
    "running": 'first page of `jobs(state="running")`',
}


async def keep(url: str, namespace: str) -> dict[str, Any]:
    """A worker, until it is told to stop."""
    async with Client.connect(url, namespace=namespace) as client:
        stop = asyncio.Event()
        subscription = await client.store.connection.subscribe(STOP, lambda _: stop.set())
        async with Worker(client, activities=[noop], workflows=[chain, asleep, Counter], max_cached_workflows=1):
            print("working", flush=True)
            await stop.wait()
        await subscription.close()
    return {}


async def crowded(url: str, namespace: str, count: int) -> dict[str, Any]:
    """Fill the namespace, and wait until its worker has begun all workflows."""
    async with Client.connect(url, namespace=namespace) as client:
        await client.submit_many(activity_ref("unserved"), [{}] * count)
        await each(lambda _: client.start(asleep), range(count), AT_ONCE)
        await all_begun(client)
        return {}


async def asked(url: str, namespace: str, count: int) -> dict[str, Any]:
    """The milliseconds of each call, by what is called."""
    async with Client.connect(url, namespace=namespace) as client:
        cold = [await client.start(Counter.run) for _ in range(WARM_UP + count)]
        left = iter(cold)

        async def job() -> None:
            await (await client.submit(noop)).result(timeout=30)

        async def workflow() -> None:
            await (await client.start(chain, 1)).result(timeout=30)

        async def update() -> None:
            await next(left).update(Counter.raised, 1)

        async def page() -> None:
            [_ async for _ in client.jobs(state="running", limit=20)]

        calls = {"job": job, "workflow": workflow, "cold": update, "running": page}
        found: dict[str, Any] = {what: await _taken(call, count) for what, call in calls.items()}
        for handle in cold:
            await handle.terminate()
        return found


async def _taken(call: Callable[[], Awaitable[None]], count: int) -> list[float]:
    taken = []
    for _ in range(WARM_UP + count):
        began = time.perf_counter()
        await call()
        taken.append((time.perf_counter() - began) * 1000)
    return taken[WARM_UP:]


def one_round(sizes: Sizes) -> dict[str, dict[str, list[float]]]:
    count = max(5, sizes.turns // 20 // TURNS)
    with NatsServer() as alone, NatsServer() as crowd:
        namespaces = {
            side: {"url": server.url, "namespace": f"c{secrets.token_hex(4)}"}
            for side, server in (("alone", alone), ("crowd", crowd))
        }
        workers = [Child("bench.crowd:keep", **each) for each in namespaces.values()]
        for worker in workers:
            worker.wait_for("working")
        measure("bench.crowd:crowded", count=sizes.jobs, **namespaces["crowd"])
        found: dict[str, dict[str, list[float]]] = {side: {what: [] for what in WHAT} for side in namespaces}
        for _ in range(TURNS):
            for side, arguments in namespaces.items():
                for what, taken in measure("bench.crowd:asked", count=count, **arguments).items():
                    found[side][what] += taken
        for worker, arguments in zip(workers, namespaces.values(), strict=True):
            measure("bench.crowd:stop", **arguments)
            worker.result()
        return found


async def stop(url: str, namespace: str) -> dict[str, Any]:
    """Tell the worker to stop."""
    async with Client.connect(url, namespace=namespace) as client:
        client.store.connection.send(STOP, b"")
        await client.store.connection.flush()
        return {}


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(sizes) for _ in range(sizes.rounds)]

    def p50(side: str, what: str) -> list[float]:
        return [quantile(sorted(each_round[side][what]), 0.5) for each_round in found]

    return [
        Row(
            key=f"crowd_{what}",
            work=f"{work}, among {2 * sizes.jobs:,} others",
            unit="ms",
            rounds=p50("crowd", what),
            against=p50("alone", what),
            other="alone",
            aim=PAGE if what == "running" else UNFELT,
        )
        for what, work in WHAT.items()
    ]


if __name__ == "__main__":
    show(measured, __doc__)
