"""Workflows beside plain jobs.

One client, one worker in the same process, a server of its own. What a machine is busy with besides slows both sides.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from bench.child import measure
from bench.sizes import Sizes, show
from bench.table import Row
from turnout import Client, Worker, activity, workflow
from turnout.testing import NatsServer


@activity(concurrency=100)
async def nothing() -> int:
    return 1


@workflow
async def one() -> int:
    return await nothing()


@workflow
async def ten() -> int:
    return sum([await nothing() for _ in range(10)])


@workflow
async def ten_local() -> int:
    return sum([await nothing.options(local=True)() for _ in range(10)])


async def median_ms(call: Callable[[], Awaitable[object]], times: int) -> float:
    """How long one call takes, one after the other, in an idle system."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await call()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


async def latencies(client: Client, times: int) -> dict[str, float]:
    """The p50 of a plain job, of workflows of one activity, of ten, and of ten local ones, in milliseconds."""

    async def job() -> None:
        await (await client.submit(nothing)).result()

    async def single() -> None:
        await (await client.start(one)).result()

    async def tenfold() -> None:
        await (await client.start(ten)).result()

    async def local() -> None:
        await (await client.start(ten_local)).result()

    async with Worker(client, activities=[nothing], workflows=[one, ten, ten_local], concurrency=100):
        for call in (job, single, local):
            await call()
        return {
            "job": await median_ms(job, times),
            "one": await median_ms(single, times),
            "ten": await median_ms(tenfold, times),
            "ten_local": await median_ms(local, times),
        }


async def drains(client: Client, queued: int) -> dict[str, float]:
    """How many queued jobs, and workflows of one activity, a worker ends a second."""
    jobs = [await client.submit(nothing) for _ in range(queued)]
    job_rate = await drain_rate(client, [job.result() for job in jobs])
    workflows = await asyncio.gather(*(client.start(one) for _ in range(queued)))
    return {"jobs": job_rate, "workflows": await drain_rate(client, [each.result() for each in workflows])}


async def drain_rate(client: Client, results: list[Awaitable[int]]) -> float:
    worker = Worker(client, activities=[nothing], workflows=[one], concurrency=100)
    began = time.perf_counter()
    async with worker:
        await asyncio.gather(*results)
        return len(results) / (time.perf_counter() - began)


async def beside_jobs(url: str, times: int, queued: int) -> dict[str, float]:
    """Latencies and rates, one after the other."""
    async with Client.connect(url) as client:
        return {**await latencies(client, times), **await drains(client, queued)}


def one_round(sizes: Sizes) -> dict[str, float]:
    with NatsServer() as server:
        found: dict[str, float] = measure(
            "bench.workflows:beside_jobs",
            url=server.url,
            times=max(5, sizes.turns // 16),
            queued=max(5, sizes.small // 2),
        )
        return found


def measured(sizes: Sizes) -> list[Row]:
    found = [one_round(sizes) for _ in range(sizes.rounds)]

    def row(key: str, work: str, unit: str, against: str, other: str) -> Row:
        rounds, beside = [each[key] for each in found], [each[against] for each in found]
        return Row(key=f"workflow_{key}", work=work, unit=unit, rounds=rounds, against=beside, other=other)

    return [
        row("one", "a workflow of one activity, p50", "ms", "job", "a job"),
        row("ten", "a workflow of ten activities, p50", "ms", "job", "a job"),
        row("ten_local", "a workflow of ten local activities, p50", "ms", "job", "a job"),
        row("workflows", f"drain {sizes.small // 2:,} workflows of one activity", "/s", "jobs", "jobs"),
    ]


if __name__ == "__main__":
    show(measured, __doc__)
