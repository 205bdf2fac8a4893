"""Asking a workflow that is in its worker's cache: queries against a bare request and its reply, updates against jobs.

One after the other on an idle system, the worker in another process; updates and jobs in turns.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench.child import Child, measure
from bench.floor import WARM_UP
from bench.flows import Counter
from bench.jobs import noop
from bench.latency import quantile
from bench.processes import worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout import Client
from turnout.testing.server import NatsServer


async def queries(url: str, namespace: str, count: int) -> dict[str, Any]:
    """The milliseconds of each query, sorted."""
    async with Client.connect(url, namespace=namespace) as client:
        handle = await client.start(Counter.run)
        await handle.update(Counter.raised, 1)
        taken = [await _ms(lambda: handle.query(Counter.total)) for _ in range(WARM_UP + count)]
        await handle.terminate()
        return {"ms": sorted(taken[WARM_UP:])}


async def updates(url: str, namespace: str, count: int) -> dict[str, Any]:
    """The milliseconds of each update, from its start to its answer, and of each job, sorted."""
    async with Client.connect(url, namespace=namespace) as client:
        handle = await client.start(Counter.run)

        async def job() -> None:
            await (await client.submit(noop, n=1)).result(timeout=30)

        taken = [
            (await _ms(lambda: handle.update(Counter.raised, 1)), await _ms(job)) for _ in range(WARM_UP // 4 + count)
        ][-count:]
        await handle.terminate()
        return {"update": sorted(update for update, _ in taken), "job": sorted(job for _, job in taken)}


async def _ms(call: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await call()
    return (time.perf_counter() - started) * 1000


def one_round(count: int) -> dict[str, list[float]]:
    with NatsServer() as server:
        serving = Child("bench.floor:respond", url=server.url, seconds=300)
        serving.wait_for("serving")
        floor = measure("bench.floor:requests", url=server.url, count=count)["ms"]
        serving.result()
        namespace = f"q{secrets.token_hex(4)}"
        arguments: dict[str, Any] = {"url": server.url, "namespace": namespace, "count": count}
        with worker_process(server.url, namespace, serves="bench.flows:served"):
            asked = measure("bench.asking:queries", **arguments)["ms"]
            return {"floor": floor, "query": asked, **measure("bench.asking:updates", **arguments)}


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(sizes.turns) for _ in range(sizes.rounds)]

    def row(key: str, work: str, against: str, other: str, most: float | None, share: float = 0.5) -> Row:
        return Row(
            key=f"{key}_p{share * 100:g}",
            work=f"{work}, p{share * 100:g}",
            unit="ms",
            rounds=[quantile(each[key], share) for each in found],
            against=[quantile(each[against], share) for each in found],
            other=other,
            aim=Aim(most=most) if most is not None else None,
        )

    return [
        row("query", "query of a cached workflow", "floor", "bare request", 1.5),
        row("query", "query of a cached workflow", "floor", "bare request", None, 0.99),
        row("update", "update, start to answer", "job", "a job", 1.2),
        row("update", "update, start to answer", "job", "a job", None, 0.99),
    ]


if __name__ == "__main__":
    show(measured, __doc__)
