"""What a worker process costs: memory, CPU while idle, and messages to the server."""

from __future__ import annotations

import secrets
import time

from bench.child import Child, measure
from bench.processes import monitored_server, varz, worker_process
from bench.table import Row, limit_row, show

IDLE_S = 20.0
SETTLE_S = 3.0


def idle(activities: int) -> tuple[float, float]:
    """The share of a core that an idle worker takes, in percent, and its messages to the server per second."""
    with monitored_server() as (server, port), worker_process(server.url, "idle", activities=activities) as worker:
        time.sleep(SETTLE_S)
        cpu_s, messages, started = worker.cpu_s, varz(port)["in_msgs"], time.perf_counter()
        time.sleep(IDLE_S)
        took = time.perf_counter() - started
        return (worker.cpu_s - cpu_s) / took * 100, (varz(port)["in_msgs"] - messages) / took


def memory(jobs: int) -> tuple[float, float, float]:
    """Resident MB of a worker process that has just started, after `jobs` jobs, and after twice as many."""
    with monitored_server() as (server, _):
        namespace = f"m{secrets.token_hex(4)}"
        with worker_process(server.url, namespace) as worker:
            sizes = [worker.rss_mb]
            for turn in (1, 2):
                watcher = Child("bench.drain:ended", url=server.url, namespace=namespace, jobs=jobs * turn)
                measure("bench.drain:prepare", url=server.url, namespace=namespace, jobs=jobs)
                watcher.result()
                sizes.append(worker.rss_mb)
        return sizes[0], sizes[1], sizes[2]


def measured(rounds: int, jobs: int) -> list[Row]:
    del rounds  # these hardly vary, and take long
    start, after, later = memory(jobs)
    one, one_rate = idle(1)
    fifty, fifty_rate = idle(50)
    return [
        limit_row("memory of a worker process at its start", "MB", [start], most=80),
        limit_row(f"the same after {jobs:,} jobs", "MB", [after], most=80),
        limit_row(f"the same after {2 * jobs:,} jobs", "MB", [later], most=80),
        limit_row("idle CPU, 1 activity", "%", [one], most=1),
        limit_row("idle CPU, 50 activities", "%", [fifty], most=1),
        limit_row("idle messages to the server per second, 1 activity", "/s", [one_rate], most=20),
        limit_row("idle messages to the server per second, 50 activities", "/s", [fifty_rate], most=20),
    ]


if __name__ == "__main__":
    show(measured, "What a worker process takes.")
