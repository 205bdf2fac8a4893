"""Signals to one workflow: how fast they are sent, all at once, and how soon the last one has been applied.

Beside them as many bare publishes of JetStream, pipelined.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from bench.child import measure
from bench.flows import Counter
from bench.processes import worker_process
from bench.sizes import Sizes, show
from bench.table import Aim, Row
from turnout import Client
from turnout.testing.server import NatsServer

WITHIN_S = 2.0
PATIENCE_S = 120.0


async def told(url: str, namespace: str, count: int) -> dict[str, Any]:
    """Send the signals; how many a second were stored, and the seconds from then until the workflow knows of all."""
    async with Client.connect(url, namespace=namespace) as client:
        handle = await client.start(Counter.run)
        await handle.update(Counter.raised, 0)
        started = time.perf_counter()
        await asyncio.gather(*(handle.signal(Counter.add, 1) for _ in range(count)))
        sent = time.perf_counter()
        total = await handle.with_timeout(PATIENCE_S).query(Counter.total)  # a query knows of its asker's own signals
        applied = time.perf_counter()
        if total != count:
            raise RuntimeError(f"{count} signals were sent, and the workflow has counted {total}")
        await handle.terminate()
        return {"rate": count / (sent - started), "applied_s": applied - sent}


def one_round(count: int) -> dict[str, float]:
    namespace = f"g{secrets.token_hex(4)}"
    with NatsServer() as server:
        floor = measure("bench.floor:publish_pipelined", url=server.url, jobs=count)["rate"]
        with worker_process(server.url, namespace, serves="bench.flows:served"):
            return {"floor": floor, **measure("bench.signals:told", url=server.url, namespace=namespace, count=count)}


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(sizes.small) for _ in range(sizes.rounds)]
    signals = f"{sizes.small:,} signals to one workflow"
    return [
        Row(
            key="signals",
            work=signals,
            unit="/s",
            rounds=[each["rate"] for each in found],
            against=[each["floor"] for each in found],
            other="bare publishes",
            aim=Aim(of="value", least=5_000.0),
        ),
        Row(
            key="signals_applied",
            work=f"{signals}: all applied after the last was sent",
            unit="s",
            rounds=[each["applied_s"] for each in found],
            aim=Aim(of="value", most=WITHIN_S),
        ),
    ]


if __name__ == "__main__":
    show(measured, __doc__)
