"""Workflows in a test environment beside the same ones on a real server: `python -m bench.environment`.

A test's workflows should cost no more than those of production do: the code is the same, and there is no server. One
process measures both, one after the other. Its CPU has no server's in it, and the replay of each workflow that ends.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from turnout import Client, Worker, activity, workflow
from turnout.testing import NatsServer, WorkflowEnvironment

WORKFLOWS = 1000
STEPS = 10


@activity(concurrency=100)
async def step(number: int) -> int:
    return number + 1


@workflow
async def steps(number: int) -> int:
    for _ in range(STEPS):
        number = await step(number)
    return number


async def cost(starter: Client | WorkflowEnvironment, workflows: int) -> tuple[float, float]:
    """How many seconds, of the clock and of this process's CPU, so many workflows take."""
    began, cpu_s = time.perf_counter(), time.process_time()
    handles: list[Any] = [await starter.start(steps, number) for number in range(workflows)]
    for number, handle in enumerate(handles):
        assert await handle.result() == number + STEPS
    return time.perf_counter() - began, time.process_time() - cpu_s


async def measure(workflows: int) -> None:
    async with WorkflowEnvironment(workflows=[steps], activities=[step]) as environment:
        await cost(environment, 1)
        own, own_cpu = await cost(environment, workflows)
    with NatsServer() as server:
        async with (
            Client.connect(server.url) as client,
            Worker(client, activities=[step], workflows=[steps], concurrency=100),
        ):
            await cost(client, 1)
            real, real_cpu = await cost(client, workflows)
    print(f"{workflows} workflows of {STEPS} steps, in an environment  {own:7.1f} s, of CPU {own_cpu:7.1f} s")
    print(f"the same, on a real server                      {real:7.1f} s, of CPU {real_cpu:7.1f} s")
    print(f"the environment takes {own / real:.2f} of the server's time, and {own_cpu / real_cpu:.2f} of the CPU")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the test environment of workflows.")
    parser.add_argument("--workflows", type=int, default=WORKFLOWS)
    asyncio.run(measure(parser.parse_args().workflows))
