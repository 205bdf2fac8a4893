"""A large backlog against a small one, and what becomes of the worker's and the server's memory meanwhile.

One worker process warms up, drains the small backlog a few times, then the large one, then the small one again: what
the machine does meanwhile would count for one of them only. The clock runs from the first start to the last end, for
the same reason: what the measuring itself takes weighs more in a small drain.
"""

from __future__ import annotations

import secrets
import statistics
import time
from typing import Any

from bench.child import measure
from bench.processes import server_pid, worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout.supervisor.supervisor import SupervisorOptions
from turnout.testing.server import NatsServer

SMALL_DRAINS = 5
NO_GROWTH = 1.1
"""One small object left behind by each job would be more than this tenth."""
WALKED_AFTER_S = SupervisorOptions().registry_every + 10
"""By then the worker's supervisor has walked all records once, which takes memory that it keeps."""


def one_round(sizes: Sizes) -> dict[str, float]:
    namespace = f"b{secrets.token_hex(4)}"
    with NatsServer() as server, worker_process(server.url, namespace) as worker:
        pid, started = server_pid(server), time.monotonic()

        def drain(jobs: int) -> dict[str, Any]:
            return measure(
                "bench.gate:drain", url=server.url, namespace=namespace, jobs=jobs, workers=[worker.pid], servers=[pid]
            )

        start_mb = worker.rss_mb
        drain(sizes.jobs)
        time.sleep(max(0.0, started + WALKED_AFTER_S - time.monotonic()))
        warm_mb = worker.rss_mb
        small = [drain(sizes.small)["record_rate"] for _ in range(SMALL_DRAINS)]
        large = drain(sizes.large)
        end_mb = worker.rss_mb
        small += [drain(sizes.small)["record_rate"] for _ in range(SMALL_DRAINS)]
        return {
            "small": statistics.median(small),
            "large": large["record_rate"],
            "start_mb": start_mb,
            "warm_mb": warm_mb,
            "end_mb": end_mb,
            **{name: large[name] for name in ("queued_memory", "queued_disk", "record_disk")},
        }


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(sizes) for _ in range(sizes.rounds)]

    def values(what: str) -> list[float]:
        return [each[what] for each in found]

    def row(key: str, work: str, what: str, unit: str, **more: Any) -> Row:
        return Row(key=key, work=work, unit=unit, rounds=values(what), **more)

    return [
        row(
            "backlog",
            f"drain {sizes.large:,} queued against {sizes.small:,}",
            "large",
            "jobs/s",
            against=values("small"),
            other=f"{sizes.small:,} queued",
            aim=Aim(least=0.9, most=1.1),
        ),
        row("memory", "memory of the worker at its start", "start_mb", "MB"),
        row("memory_warm", f"memory of the worker after {sizes.jobs:,} jobs and a walk", "warm_mb", "MB"),
        row(
            "memory_later",
            f"memory of the worker after {sizes.large:,} more",
            "end_mb",
            "MB",
            against=values("warm_mb"),
            other=f"after {sizes.jobs:,}",
            aim=Aim(most=NO_GROWTH),
        ),
        row("queued_memory", "memory of the server per queued job", "queued_memory", "B", detail=True),
        row("queued_disk", "disk per queued job", "queued_disk", "B", detail=True),
        row("record_disk", "disk per record of an ended job", "record_disk", "B", detail=True),
    ]


if __name__ == "__main__":
    show(measured, __doc__)
