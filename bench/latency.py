"""Latency: from `submit` to `result()` on an idle system, the worker in another process.

One job after the other, and again with a rest before each: then all processes have slept, and their code is cold.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from bench.child import Child, measure
from bench.floor import WARM_UP
from bench.jobs import noop
from bench.processes import worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout import Client
from turnout.testing.server import NatsServer

REST_S = 0.02


async def roundtrips(url: str, namespace: str, jobs: int, rest_s: float) -> dict[str, Any]:
    """The milliseconds of each job, sorted; `rest_s`: how long nothing is done before each."""
    async with Client.connect(url, namespace=namespace) as client:
        taken = []
        for number in range(WARM_UP + jobs):
            if rest_s:
                await asyncio.sleep(rest_s)
            started = time.perf_counter()
            handle = await client.submit(noop, n=number)
            await handle.result(timeout=30)
            taken.append((time.perf_counter() - started) * 1000)
        return {"ms": sorted(taken[WARM_UP:])}


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def measured(sizes: Sizes) -> list[Row]:
    floors: dict[float, list[list[float]]] = {0.0: [], REST_S: []}
    taken: dict[float, list[list[float]]] = {0.0: [], REST_S: []}
    for _ in range(sizes.rounds):
        for rest_s, jobs in ((0.0, sizes.turns), (REST_S, sizes.turns // 4)):
            with NatsServer() as server:
                serving = Child("bench.floor:serve", url=server.url, seconds=300)
                serving.wait_for("serving")
                asked = {"url": server.url, "jobs": jobs, "rest_s": rest_s}
                floors[rest_s].append(measure("bench.floor:latency", **asked)["ms"])
                serving.result()
                namespace = f"l{secrets.token_hex(4)}"
                with worker_process(server.url, namespace):
                    taken[rest_s].append(measure("bench.latency:roundtrips", namespace=namespace, **asked)["ms"])

    def row(name: str, share: float, rest_s: float, key: str, work: str, aim: Aim | None) -> Row:
        rounds = [quantile(each, share) for each in taken[rest_s]]
        against = [quantile(each, share) for each in floors[rest_s]]
        return Row(key=key, work=f"{work}, {name}", unit="ms", rounds=rounds, against=against, aim=aim)

    work, rested = "submit to result, idle system", f"the same after a rest of {REST_S * 1000:g} ms"
    return [
        row("p50", 0.5, 0.0, "p50", work, Aim(of="value", most=1.5)),
        row("p99", 0.99, 0.0, "p99", work, Aim(of="value", most=4.0)),
        row("p50", 0.5, REST_S, "p50_rested", rested, None),
    ]


if __name__ == "__main__":
    show(measured, "How long a job takes from its submission to its result on an idle system.")
