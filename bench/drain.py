"""Draining: queued no-op jobs, one worker process, result and both records kept."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from bench.child import Child, measure
from bench.jobs import noop
from bench.processes import worker_process
from bench.table import Row, limit_row, rate_row, show
from turnout import Client, JobState
from turnout.testing.server import NatsServer

_LOOK_EVERY_S = 0.004


async def prepare(url: str, namespace: str, jobs: int) -> dict[str, Any]:
    """Queue the jobs."""
    async with Client.connect(url, namespace=namespace) as client:
        await client.submit_many(noop, [{"n": 1}] * jobs)
    return {}


async def watch(url: str, namespace: str, jobs: int) -> dict[str, Any]:
    """The rate between the moment the queue begins to shrink and the moment it is empty; then all must be completed."""
    async with Client.connect(url, namespace=namespace) as client:
        connection, stream = client.store.connection, client.store.names.work
        started = ended = time.perf_counter()
        print("watching", flush=True)
        while True:
            left = (await connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"]
            ended = time.perf_counter()
            if left == jobs:
                started = ended
            if left == 0:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        print("drained", flush=True)
        counts = await client.count()
        if counts[JobState.completed] != jobs:
            raise RuntimeError(f"{jobs} jobs were drained, but these are the records: {counts}")
        return {"rate": jobs / (ended - started)}


async def ended(url: str, namespace: str, jobs: int) -> dict[str, Any]:
    """Wait until so many records are there and the queue is empty: all of them have ended then."""
    async with Client.connect(url, namespace=namespace) as client:
        connection, names = client.store.connection, client.store.names
        while True:
            queued = (await connection.api(f"STREAM.INFO.{names.work}"))["state"]["messages"]
            known = (await connection.api(f"STREAM.INFO.KV_{names.jobs_bucket}"))["state"]["messages"]
            if queued == 0 and known >= jobs:
                return {}
            await asyncio.sleep(0.1)


def measured(rounds: int, jobs: int) -> list[Row]:
    floors: list[float] = []
    tighter: list[float] = []
    rates: list[float] = []
    cpu_us: list[float] = []
    floor_cpu_us: list[float] = []
    for _ in range(rounds):
        with NatsServer() as server:
            measure("bench.floor:prepare", url=server.url, jobs=jobs)
            found = measure("bench.floor:drain", url=server.url, jobs=jobs)
            floors.append(found["rate"])
            floor_cpu_us.append(found["busy_s"] / jobs * 1e6)
            measure("bench.floor:prepare", url=server.url, jobs=jobs)
            tighter.append(measure("bench.floor:drain_tight", url=server.url, jobs=jobs)["rate"])
        with NatsServer() as server:
            rate, busy_s = turnout(server.url, jobs)
            rates.append(rate)
            cpu_us.append(busy_s / jobs * 1e6)
    return [
        rate_row(f"drain {jobs:,} no-op jobs", rates, floors, least=0.35),
        rate_row("the same against the tighter floor", rates, tighter),
        limit_row("CPU of the worker per job", "us", cpu_us, most=None, floors=floor_cpu_us),
    ]


def turnout(url: str, jobs: int) -> tuple[float, float]:
    """The rate of one drain by a worker process, and the CPU seconds it took."""
    namespace = f"d{secrets.token_hex(4)}"
    measure("bench.drain:prepare", url=url, namespace=namespace, jobs=jobs)
    watcher = Child("bench.drain:watch", url=url, namespace=namespace, jobs=jobs)
    watcher.wait_for("watching")
    with worker_process(url, namespace) as worker:
        watcher.wait_for("drained")
        busy_s = worker.cpu_s - worker.cpu_at_start_s
        return watcher.result()["rate"], busy_s


if __name__ == "__main__":
    show(measured, "How fast queued jobs are worked off.")
