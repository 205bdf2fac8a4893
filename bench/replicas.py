"""What durability costs: one server, one that syncs each write, and three servers that keep everything three times.

The three share this machine, which is no place for them; what counts is their CPU per job, and the ratios.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bench.child import measure
from bench.processes import SYNCED, cluster, server_pid, worker_process
from bench.sizes import Sizes, show
from bench.table import Row
from turnout.testing.server import NatsServer

KINDS = {"r1": "one server", "synced": "one server, each write synced", "r3": "three servers"}


@contextlib.contextmanager
def servers_of(kind: str) -> Iterator[list[NatsServer]]:
    if kind == "r3":
        with cluster() as servers:
            measure("bench.floor:led", url=servers[0].url)
            yield servers
    else:
        with NatsServer(config=SYNCED if kind == "synced" else None) as server:
            yield [server]


def one_round(kind: str, jobs: int) -> dict[str, Any]:
    """Stream writes per second, and a drain."""
    namespace = f"r{secrets.token_hex(4)}"
    replicas = 3 if kind == "r3" else 1
    with servers_of(kind) as servers:
        url, pids = servers[0].url, [server_pid(server) for server in servers]
        writes = measure("bench.floor:publish_pipelined", url=url, jobs=jobs, replicas=replicas)["rate"]
        setup = [sys.executable, "-m", "turnout", "setup", "--replicas", str(replicas)]
        subprocess.run([*setup, "--server", url, "--namespace", namespace], check=True, stdout=subprocess.DEVNULL)
        with worker_process(url, namespace) as worker:
            arguments = {"url": url, "namespace": namespace, "jobs": jobs}
            found = measure("bench.gate:drain", workers=[worker.pid], servers=pids, **arguments)
        return {**found, "writes": writes}


def measured(sizes: Sizes) -> list[Row]:
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _ in range(sizes.rounds):
        for kind, rounds in found.items():
            rounds.append(one_round(kind, sizes.jobs))

    def row(kind: str, what: str, work: str, unit: str) -> Row:
        against = [] if kind == "r1" else [each[what] for each in found["r1"]]
        return Row(
            key=f"{kind}_{what}",
            work=f"{work}, {KINDS[kind]}",
            unit=unit,
            rounds=[each[what] for each in found[kind]],
            against=against,
            other=KINDS["r1"],
            detail=True,
        )

    return [
        row(kind, what, work, unit)
        for what, work, unit in (
            ("writes", "writes to one stream", "/s"),
            ("rate", f"drain {sizes.jobs:,}", "jobs/s"),
            ("server_us", "CPU of all servers per job", "us"),
        )
        for kind in KINDS
    ]


if __name__ == "__main__":
    show(measured, __doc__)
