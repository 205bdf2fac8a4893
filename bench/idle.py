"""What an idle worker costs: its CPU, and its messages to the server."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from bench.processes import messages_in, monitored_server, worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row

ACTIVITIES = {1: "bench.jobs:noop", 50: "bench.jobs:fifty"}
SETTLE_S = 3.0


def one_round(idle_s: float) -> dict[int, tuple[float, float]]:
    """By number of activities: percent of a core, and messages per second. Idle workers do not disturb each other."""
    with contextlib.ExitStack() as stack:
        watched = {}
        for activities, serves in ACTIVITIES.items():
            server, port = stack.enter_context(monitored_server())
            watched[activities] = stack.enter_context(worker_process(server.url, "idle", serves=serves)), port
        time.sleep(SETTLE_S)
        before = {each: (worker.cpu_s, messages_in(port)) for each, (worker, port) in watched.items()}
        started = time.perf_counter()
        time.sleep(idle_s)
        took = time.perf_counter() - started
        return {
            each: (
                (worker.cpu_s - before[each][0]) / took * 100,
                (messages_in(port) - before[each][1]) / took,
            )
            for each, (worker, port) in watched.items()
        }


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(sizes.idle_s) for _ in range(sizes.rounds)]

    def row(activities: int, at: int, key: str, work: str, unit: str, most: float) -> Row:
        plural = "activity" if activities == 1 else "activities"
        some: dict[str, Any] = {"key": f"{key}_{activities}", "work": f"{work}, {activities} {plural}"}
        return Row(unit=unit, rounds=[each[activities][at] for each in found], aim=Aim(of="value", most=most), **some)

    rows = []
    for activities in ACTIVITIES:
        rows.append(row(activities, 0, "idle_cpu", "CPU of an idle worker", "%", 1.0))
        rows.append(row(activities, 1, "idle_messages", "messages of an idle worker", "/s", 20.0))
    return rows


if __name__ == "__main__":
    show(measured, __doc__)
