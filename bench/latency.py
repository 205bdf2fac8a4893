"""Latency: from `submit` to `result()` on an idle system, the worker in another process."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from bench.child import Child, measure
from bench.jobs import noop
from bench.processes import worker_process
from bench.table import Row, limit_row, show
from turnout import Client
from turnout.testing.server import NatsServer

WARM_UP = 50
PAUSE_S = 0.002


async def roundtrips(url: str, namespace: str, jobs: int) -> dict[str, Any]:
    """The milliseconds of each job, sorted."""
    async with Client.connect(url, namespace=namespace) as client:
        taken = []
        for number in range(WARM_UP + jobs):
            started = time.perf_counter()
            handle = await client.submit(noop, n=number)
            await handle.result(timeout=30)
            taken.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(PAUSE_S)
        return {"ms": sorted(taken[WARM_UP:])}


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def measured(rounds: int, jobs: int) -> list[Row]:
    some = max(100, jobs // 10)
    floors: list[list[float]] = []
    taken: list[list[float]] = []
    for _ in range(rounds):
        with NatsServer() as server:
            serving = Child("bench.floor:serve", url=server.url, seconds=300)
            serving.wait_for("serving")
            floors.append(measure("bench.floor:latency", url=server.url, jobs=some)["ms"])
            serving.result()
            namespace = f"l{secrets.token_hex(4)}"
            with worker_process(server.url, namespace):
                found = measure("bench.latency:roundtrips", url=server.url, namespace=namespace, jobs=some)
                taken.append(found["ms"])
    return [
        limit_row(
            f"submit to result, {name}",
            "ms",
            [quantile(each, share) for each in taken],
            most=most,
            floors=[quantile(each, share) for each in floors],
        )
        for name, share, most in (("p50", 0.5, 3.0), ("p99", 0.99, 10.0))
    ]


if __name__ == "__main__":
    show(measured, "How long a job takes from its submission to its result on an idle system.")
