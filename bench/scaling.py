"""Two worker processes on one queue against one, beside the server on the same machine."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any

from bench.child import measure
from bench.processes import server_pid, worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout.testing.server import NatsServer

NO_HIGHER = 1.05
"""CPU per job that is this much higher is no higher: rounds of the same differ by as much."""


def together(workers: int, jobs: int) -> dict[str, Any]:
    """One drain by so many worker processes."""
    namespace = f"w{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(NatsServer())
        pids = [stack.enter_context(worker_process(server.url, namespace)).pid for _ in range(workers)]
        arguments = {"url": server.url, "namespace": namespace, "workers": pids, "servers": [server_pid(server)]}
        return measure("bench.gate:drain", jobs=jobs, **arguments)


def measured(sizes: Sizes) -> list[Row]:
    one, two = [], []
    for _ in range(sizes.rounds):
        one.append(together(1, sizes.jobs))
        two.append(together(2, sizes.jobs))

    def row(key: str, work: str, what: str, unit: str, aim: Aim | None = None) -> Row:
        rounds, against = [each[what] for each in two], [each[what] for each in one]
        return Row(key=key, work=work, unit=unit, rounds=rounds, against=against, other="one worker", aim=aim)

    return [
        row("two_workers", f"drain {sizes.jobs:,} with two worker processes", "rate", "jobs/s", Aim(least=1.15)),
        row("two_workers_us", "CPU of the two workers per job", "worker_us", "us", Aim(most=NO_HIGHER)),
        row("two_server_us", "CPU of the server per job, two workers", "server_us", "us"),
    ]


if __name__ == "__main__":
    show(measured, __doc__)
