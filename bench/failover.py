"""Failover: a worker process with running jobs is killed; how long until another one runs all of them."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from typing import Any

from bench.child import measure
from bench.jobs import sleeper
from bench.processes import Process, worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout import Client, JobState
from turnout.core.catalog import NodeInfo
from turnout.testing.server import NatsServer

JOBS = 100
WITHIN_S = NodeInfo(id="", name="").ttl + 2.0
"""The time for which a node's silence is no death, and two seconds."""

LASTS_S = 3600.0
_LOOK_S = 0.05


async def prepare(url: str, namespace: str) -> dict[str, Any]:
    """Submit the jobs and wait until the only worker runs them."""
    async with Client.connect(url, namespace=namespace) as client:
        await client.submit_many(sleeper, [{"seconds": LASTS_S}] * JOBS)
        while (await client.count())[JobState.running] < JOBS:
            await asyncio.sleep(_LOOK_S)
    return {}


async def taken_over(url: str, namespace: str, killed: int) -> dict[str, Any]:
    """Kill that process; the seconds until another node runs each of its jobs."""
    async with Client.connect(url, namespace=namespace) as client:
        nodes = await client.nodes()
        (other,) = [node.id for node in nodes if node.pid != killed]
        started = time.perf_counter()
        os.kill(killed, signal.SIGKILL)
        while (await client.count(node=other))[JobState.running] < JOBS:
            await asyncio.sleep(_LOOK_S)
        return {"took_s": time.perf_counter() - started}


def one_round() -> float:
    namespace = f"k{secrets.token_hex(4)}"

    def worker(server: NatsServer) -> Any:
        return worker_process(server.url, namespace, serves="bench.jobs:sleeper", concurrency=JOBS, grace_s=0)

    with NatsServer() as server, worker(server) as first:
        process: Process = first
        measure("bench.failover:prepare", url=server.url, namespace=namespace)
        with worker(server):
            found = measure("bench.failover:taken_over", url=server.url, namespace=namespace, killed=process.pid)
            return float(found["took_s"])


def measured(sizes: Sizes) -> list[Row]:
    return [
        Row(
            key="failover",
            work=f"a worker is killed: all of its {JOBS} jobs run elsewhere after",
            unit="s",
            rounds=[one_round() for _ in range(sizes.rounds)],
            aim=Aim(of="value", most=WITHIN_S),
        )
    ]


if __name__ == "__main__":
    show(measured, __doc__)
