"""Many activities at once in one workflow, against as many jobs by `submit_many` on the same worker, to their ends."""

from __future__ import annotations

import secrets
import time
from typing import Any

from bench.child import measure
from bench.flows import fan
from bench.gate import emptied
from bench.jobs import noop
from bench.processes import worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout import Client
from turnout.testing.server import NatsServer

WARM_UP = 100


async def together(url: str, namespace: str, count: int) -> dict[str, Any]:
    """From the call to the last end: activities of one workflow, and jobs, a second."""
    async with Client.connect(url, namespace=namespace) as client:
        rates = {}
        for some in (WARM_UP, count):
            started = time.perf_counter()
            await client.submit_many(noop, [{"n": 1}] * some)
            await emptied(client, some)
            rates["jobs"], started = some / (time.perf_counter() - started), time.perf_counter()
            handle = await client.start(fan, some)
            await handle.result(timeout=300)
            rates["gather"] = some / (time.perf_counter() - started)
        return rates


def one_round(count: int) -> dict[str, float]:
    namespace = f"h{secrets.token_hex(4)}"
    with NatsServer() as server, worker_process(server.url, namespace, serves="bench.flows:served"):
        return measure("bench.fanout:together", url=server.url, namespace=namespace, count=count)


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(sizes.small) for _ in range(sizes.rounds)]
    return [
        Row(
            key="gather",
            work=f"{sizes.small:,} activities by `gather` in one workflow",
            unit="/s",
            rounds=[each["gather"] for each in found],
            against=[each["jobs"] for each in found],
            other="`submit_many`",
            aim=Aim(least=0.5),
        )
    ]


if __name__ == "__main__":
    show(measured, __doc__)
