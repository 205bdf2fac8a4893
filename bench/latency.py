"""Latency: from `submit` to `result()` on an idle system, the worker in another process."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from bench.child import Child, measure
from bench.jobs import noop
from bench.processes import worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
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


def measured(sizes: Sizes) -> list[Row]:
    floors: list[list[float]] = []
    taken: list[list[float]] = []
    for _ in range(sizes.rounds):
        with NatsServer() as server:
            serving = Child("bench.floor:serve", url=server.url, seconds=300)
            serving.wait_for("serving")
            floors.append(measure("bench.floor:latency", url=server.url, jobs=sizes.turns)["ms"])
            serving.result()
            namespace = f"l{secrets.token_hex(4)}"
            with worker_process(server.url, namespace):
                found = measure("bench.latency:roundtrips", url=server.url, namespace=namespace, jobs=sizes.turns)
                taken.append(found["ms"])
    return [
        Row(
            key=name,
            work=f"submit to result, idle system, {name}",
            unit="ms",
            rounds=[quantile(each, share) for each in taken],
            against=[quantile(each, share) for each in floors],
            aim=Aim(of="value", most=most),
        )
        for name, share, most in (("p50", 0.5, 1.5), ("p99", 0.99, 4.0))
    ]


if __name__ == "__main__":
    show(measured, "How long a job takes from its submission to its result on an idle system.")
