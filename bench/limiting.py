"""Limits and priorities, as drains beside the same without: a limit that is never reached, one that always is, and jobs
of all priorities."""

from __future__ import annotations

import secrets
from typing import Any

from bench.child import measure
from bench.jobs import noop, under_ten, under_wide
from bench.processes import server_pid, worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout.testing.server import NatsServer

TEN = 10
ALL = (1, 2, 3, 4, 5)


def drained(jobs: int, activity: str, *, concurrency: int = 100, priorities: tuple[int, ...] = (3,)) -> float:
    """The rate of one drain, on a server of its own."""
    namespace = f"m{secrets.token_hex(4)}"
    worker: dict[str, Any] = {"serves": f"bench.jobs:{activity}", "concurrency": concurrency}
    with NatsServer() as server, worker_process(server.url, namespace, **worker) as process:
        found = measure(
            "bench.gate:drain",
            url=server.url,
            namespace=namespace,
            jobs=jobs,
            workers=[process.pid],
            servers=[server_pid(server)],
            activity=activity,
            priorities=priorities,
        )
        return float(found["rate"])


def measured(sizes: Sizes) -> list[Row]:
    found: dict[str, list[float]] = {name: [] for name in ("plain", "wide", "priorities", "slots", "ten")}
    for _ in range(sizes.rounds):
        found["plain"].append(drained(sizes.jobs, noop.name))
        found["wide"].append(drained(sizes.jobs, under_wide.name))
        found["priorities"].append(drained(sizes.jobs, noop.name, priorities=ALL))
        found["slots"].append(drained(sizes.jobs, noop.name, concurrency=TEN))
        found["ten"].append(drained(sizes.jobs, under_ten.name))

    def row(key: str, work: str, against: str, other: str, least: float) -> Row:
        return Row(
            key=f"limits_{key}",
            work=f"drain {sizes.jobs:,} {work}",
            unit="jobs/s",
            rounds=found[key],
            against=found[against],
            other=other,
            aim=Aim(least=least),
        )

    return [
        row("wide", "under a limit that is not reached", "plain", "no limit", 0.8),
        row("ten", f"through a limit of {TEN}", "slots", f"{TEN} slots", 0.5),
        row("priorities", "of five priorities", "plain", "one priority", 0.8),
    ]


if __name__ == "__main__":
    show(measured, __doc__)
