"""Many jobs that run at once in one process: what keeping their leases takes, and whether any is lost."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from bench.child import measure
from bench.gate import queued
from bench.jobs import sleeper
from bench.processes import Process, messages_in, monitored_server, server_pid, worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout import Client

STARTS_PER_S = 1_000
"""So slow no machine starts jobs: they must not end before the steady state has been watched."""

SLACK_S = 8.0


async def steady(url: str, namespace: str, jobs: int, window_s: float, watched: dict[str, int]) -> dict[str, Any]:
    """Have the worker run so many jobs at once, watch it for `window_s`, then wait for their end and look at each.

    `watched`: the ids of the processes of worker and server, and the port of the server's monitoring.
    """
    worker, server = Process(watched["worker"]), Process(watched["server"])
    async with Client.connect(url, namespace=namespace) as client:
        before_mb = worker.rss_mb
        lasts_s = SLACK_S + jobs / STARTS_PER_S + window_s
        await client.submit_many(sleeper, [{"seconds": lasts_s}] * jobs)
        while sum(node.running for node in await client.nodes()) < jobs:
            await asyncio.sleep(0.2)
        busy, messages, started = (worker.cpu_s, server.cpu_s), messages_in(watched["port"]), time.perf_counter()
        await asyncio.sleep(window_s)
        took, running_mb = time.perf_counter() - started, worker.rss_mb
        busy = worker.cpu_s - busy[0], server.cpu_s - busy[1]
        messages = messages_in(watched["port"]) - messages
        if await queued(client) < jobs:
            raise RuntimeError("jobs ended before their steady state had been watched: the machine is too slow")
        while await queued(client):
            await asyncio.sleep(0.5)
        lost = [
            info.id async for info in client.jobs() if (info.attempt, info.losses, info.state) != (1, 0, "completed")
        ]
        return {
            "cpu": busy[0] / took * 100,
            "server_cpu": busy[1] / took * 100,
            "messages": messages / took,
            "kb": (running_mb - before_mb) * 1000 / jobs,
            "lost": len(lost),
        }


def one_round(sizes: Sizes) -> dict[str, Any]:
    namespace = f"r{secrets.token_hex(4)}"
    with monitored_server() as (server, port):
        worker = worker_process(server.url, namespace, serves="bench.jobs:sleeper", concurrency=sizes.jobs, grace_s=0)
        with worker as process:
            watched = {"worker": process.pid, "server": server_pid(server), "port": port}
            arguments = {"url": server.url, "namespace": namespace, "jobs": sizes.jobs, "window_s": sizes.window_s}
            return measure("bench.running:steady", watched=watched, **arguments)


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(sizes) for _ in range(sizes.rounds)]

    def row(key: str, work: str, what: str, unit: str, most: float | None) -> Row:
        aim = Aim(of="value", most=most) if most is not None else None
        return Row(key=key, work=work, unit=unit, rounds=[each[what] for each in found], aim=aim, detail=most is None)

    jobs = f"{sizes.jobs:,} jobs running in one process"
    return [
        row("running_cpu", f"CPU of the worker, {jobs}", "cpu", "%", 25.0),
        row("running_kb", f"memory per job, {jobs}", "kb", "KB", 25.0),
        row("running_lost", f"leases lost, {jobs}", "lost", "", 0.0),
        row("running_server_cpu", f"CPU of the server, {jobs}", "server_cpu", "%", None),
        row("running_messages", f"messages to the server, {jobs}", "messages", "/s", None),
    ]


if __name__ == "__main__":
    show(measured, __doc__)
