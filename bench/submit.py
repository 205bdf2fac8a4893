"""Submitting: many at once, and one after the other, against bare publishes of the same subjects and headers."""

from __future__ import annotations

import secrets
import time
from typing import Any

from bench.child import measure
from bench.jobs import noop
from bench.table import Row, rate_row, show
from turnout import Client
from turnout.testing.server import NatsServer


async def many(url: str, jobs: int) -> dict[str, Any]:
    async with Client.connect(url, namespace=f"s{secrets.token_hex(4)}") as client:
        payloads = [{"n": 1}] * jobs
        started = time.perf_counter()
        await client.submit_many(noop, payloads)
        return {"rate": jobs / (time.perf_counter() - started)}


async def one_by_one(url: str, jobs: int) -> dict[str, Any]:
    async with Client.connect(url, namespace=f"s{secrets.token_hex(4)}") as client:
        started = time.perf_counter()
        for _ in range(jobs):
            await client.submit(noop, n=1)
        return {"rate": jobs / (time.perf_counter() - started)}


def measured(rounds: int, jobs: int) -> list[Row]:
    floors: dict[str, list[float]] = {"many": [], "one": []}
    rates: dict[str, list[float]] = {"many": [], "one": []}
    some = max(1, jobs // 5)
    for _ in range(rounds):
        with NatsServer() as server:
            floors["many"].append(measure("bench.floor:publish_pipelined", url=server.url, jobs=jobs)["rate"])
            rates["many"].append(measure("bench.submit:many", url=server.url, jobs=jobs)["rate"])
            floors["one"].append(measure("bench.floor:publish_one_by_one", url=server.url, jobs=some)["rate"])
            rates["one"].append(measure("bench.submit:one_by_one", url=server.url, jobs=some)["rate"])
    return [
        rate_row(f"submit_many of {jobs:,}", rates["many"], floors["many"], least=0.5),
        rate_row("one submit after the other", rates["one"], floors["one"]),
    ]


if __name__ == "__main__":
    show(measured, "How fast jobs are submitted.")
