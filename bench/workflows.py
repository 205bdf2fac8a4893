"""Workflows beside plain jobs, as ratios within one run: `python -m bench.workflows`.

One client, one worker in the same process, a server of its own. What a machine is busy with besides slows both sides.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from turnout import Client, Worker, activity, workflow
from turnout.testing import NatsServer

TIMES = 60
QUEUED = 500


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


async def median_s(call: Callable[[], Awaitable[object]]) -> float:
    """How long one call takes, one after the other, in an idle system."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        await call()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


async def latencies(client: Client) -> tuple[float, float, float, float]:
    """The p50 of a plain job, of workflows of one activity, of ten, and of ten local ones, in seconds."""

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
        return await median_s(job), await median_s(single), await median_s(tenfold), await median_s(local)


async def drains(client: Client) -> tuple[float, float]:
    """How many queued jobs, and workflows of one activity, a worker ends a second."""
    rates = []
    jobs = [await client.submit(nothing) for _ in range(QUEUED)]
    rates.append(await drain_rate(client, [job.result() for job in jobs]))
    workflows = await asyncio.gather(*(client.start(one) for _ in range(QUEUED)))
    rates.append(await drain_rate(client, [each.result() for each in workflows]))
    return rates[0], rates[1]


async def drain_rate(client: Client, results: list[Awaitable[int]]) -> float:
    worker = Worker(client, activities=[nothing], workflows=[one], concurrency=100)
    began = time.perf_counter()
    async with worker:
        await asyncio.gather(*results)
        return QUEUED / (time.perf_counter() - began)


async def measure() -> None:
    with NatsServer() as server:
        async with Client.connect(server.url) as client:
            job, single, tenfold, local = await latencies(client)
            jobs, workflows = await drains(client)
    print(f"a plain job, p50                         {job * 1e3:8.1f} ms")
    print(f"a workflow of one activity, p50          {single * 1e3:8.1f} ms   {single / job:5.1f} times a job's")
    print(f"a workflow of ten activities, p50        {tenfold * 1e3:8.1f} ms   {tenfold / job:5.1f} times a job's")
    print(f"a workflow of ten local activities, p50  {local * 1e3:8.1f} ms   {local / job:5.1f} times a job's")
    print(f"queued jobs, drained                     {jobs:8.0f} /s")
    print(f"queued workflows of one activity         {workflows:8.0f} /s   {workflows / jobs:5.2f} of the jobs' rate")


if __name__ == "__main__":
    asyncio.run(measure())
