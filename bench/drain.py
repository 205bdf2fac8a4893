"""Draining: queued no-op jobs, one worker process, result and both records kept."""

from __future__ import annotations

import secrets
from typing import Any

from bench.child import measure
from bench.processes import server_pid, worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout.testing.server import NatsServer


def floor(function: str, jobs: int) -> dict[str, Any]:
    """One drain by bare nats-py, on a server of its own."""
    with NatsServer() as server:
        measure("bench.floor:prepare", url=server.url, jobs=jobs)
        return measure(f"bench.floor:{function}", url=server.url, jobs=jobs, servers=[server_pid(server)])


def turnout(jobs: int, **worker: Any) -> dict[str, Any]:
    """One drain by a worker process, on a server of its own. `worker`: as for `worker_process`."""
    namespace = f"d{secrets.token_hex(4)}"
    with NatsServer() as server, worker_process(server.url, namespace, **worker) as process:
        return measure(
            "bench.gate:drain",
            url=server.url,
            namespace=namespace,
            jobs=jobs,
            workers=[process.pid],
            servers=[server_pid(server)],
        )


def measured(sizes: Sizes) -> list[Row]:
    floors, tighter, found = [], [], []
    for _ in range(sizes.rounds):
        floors.append(floor("drain", sizes.jobs))
        found.append(turnout(sizes.jobs))
        tighter.append(floor("drain_tight", sizes.jobs))

    def row(key: str, work: str, what: str, unit: str, against: list[dict[str, Any]], **more: Any) -> Row:
        rounds = [each[what] for each in found]
        return Row(key=key, work=work, unit=unit, rounds=rounds, against=[each[what] for each in against], **more)

    tight = "tighter floor"
    return [
        row("drain", f"drain {sizes.jobs:,} no-op jobs", "rate", "jobs/s", floors, aim=Aim(least=0.55)),
        row("drain_tight", "the same against the tighter floor", "rate", "jobs/s", tighter, other=tight),
        row("worker_us", "CPU of the worker per job", "worker_us", "us", floors),
        row("server_us", "CPU of the server per job", "server_us", "us", floors),
    ]


if __name__ == "__main__":
    show(measured, "How fast queued jobs are worked off.")
