"""The workflows that are measured: they call activities that do nothing, sleep, or count what they are told."""

from __future__ import annotations

import asyncio

from bench.jobs import noop
from turnout import current_workflow, workflow

LONG_S = 30 * 86_400.0


@workflow
async def chain(steps: int) -> int:
    """Activities one after the other."""
    for number in range(steps):
        await noop(number)
    return steps


@workflow
async def fan(width: int) -> int:
    """Activities at once."""
    return len(await asyncio.gather(*(noop(number) for number in range(width))))


@workflow
async def asleep() -> None:
    """Waits by a durable timer that nobody lives to see."""
    await asyncio.sleep(LONG_S)


@workflow
class Counter:
    """Counts its signals and updates until it is told to stop."""

    def __init__(self) -> None:
        self.counted = 0
        self.stopped = False

    @workflow.run
    async def run(self) -> int:
        await current_workflow().wait_for(lambda: self.stopped)
        return self.counted

    @workflow.signal
    def add(self, n: int) -> None:
        self.counted += n

    @workflow.update
    def raised(self, n: int) -> int:
        self.counted += n
        return self.counted

    @workflow.query
    def total(self) -> int:
        return self.counted


served = [noop, chain, fan, asleep, Counter]
"""What a worker is started with that serves all of them."""
