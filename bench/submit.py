"""Submitting: many at once, and one after the other, against bare publishes of the same subjects and headers."""

from __future__ import annotations

import secrets
import time
from typing import Any

from bench.child import measure
from bench.jobs import noop
from bench.sizes import Sizes, show
from bench.table import Aim, Row
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


def measured(sizes: Sizes) -> list[Row]:
    jobs = {"many": sizes.jobs, "one_by_one": sizes.turns}
    floors = {"many": "publish_pipelined", "one_by_one": "publish_one_by_one"}
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    against: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(sizes.rounds):
        with NatsServer() as server:
            for name, count in jobs.items():
                against[name].append(measure(f"bench.floor:{floors[name]}", url=server.url, jobs=count)["rate"])
                rates[name].append(measure(f"bench.submit:{name}", url=server.url, jobs=count)["rate"])

    def row(name: str, work: str, least: float) -> Row:
        return Row(
            key=f"submit_{name}",
            work=work,
            unit="jobs/s",
            rounds=rates[name],
            against=against[name],
            aim=Aim(least=least),
        )

    return [
        row("many", f"`submit_many` of {sizes.jobs:,}", 0.6),
        row("one_by_one", "one `submit` after the other", 0.8),
    ]


if __name__ == "__main__":
    show(measured, "How fast jobs are submitted.")
