"""Activities and workflows that the tests run."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs

from turnout import (
    Fatal,
    JobFaulted,
    RetryPolicy,
    WorkflowFaulted,
    activity,
    current_job,
    current_workflow,
    workflow,
)


@activity
async def double(number: int) -> int:
    return 2 * number


@activity
def increment(number: int) -> int:
    return number + 1


@activity(retry=RetryPolicy.none())
async def refuse(text: str) -> str:
    raise ValueError(text)


@activity(lease=1)
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@activity(retry=RetryPolicy(max_attempts=3, delay=0.05))
async def third_time() -> int:
    if current_job().attempt < 3:
        raise ValueError("not yet")
    return current_job().attempt


@activity
async def repeat(text: str, times: int) -> str:
    return text * times


@workflow
async def arithmetic(number: int) -> int:
    doubled = await double(number)
    a, b = await asyncio.gather(double(doubled), increment.execute(doubled))
    return a + b


@workflow
async def sleeper(seconds: float) -> float:
    started = current_workflow().now()
    await asyncio.sleep(seconds)
    return (current_workflow().now() - started).total_seconds()


@workflow
async def compensating() -> str:
    try:
        await refuse("no stock")
    except JobFaulted as fault:
        await double(1)
        return f"{fault.info.error.type}: {fault.info.error.message}"
    return "?"


@workflow
async def faulting(text: str) -> None:
    await refuse(text)


@workflow
async def fatal() -> None:
    raise Fatal("never again")


@attrs.frozen
class Decision:
    by: str
    yes: bool


@workflow
async def approval() -> str:
    decision = await current_workflow().receive("decision", Decision)
    return f"{decision.by}: {decision.yes}"


@workflow
async def patient() -> str:
    try:
        await nap(30)
    except asyncio.CancelledError:
        await double(1)
        raise
    return "?"


@workflow
async def timed() -> str:
    try:
        async with asyncio.timeout(0.2):
            await nap(30)
    except TimeoutError:
        return "timed out"
    return "?"


@workflow
async def large(times: int) -> int:
    return len(await repeat("abc", times))


@workflow
async def counting(number: int, upto: int) -> int:
    await double(number)
    if number < upto:
        current_workflow().continue_as_new(number + 1, upto)
    return number


@workflow
async def family(number: int) -> int:
    first, second = await asyncio.gather(arithmetic(number), arithmetic(number + 1))
    try:
        await faulting("child")
    except WorkflowFaulted:
        return first + second
    return 0


@workflow
class Cart:
    def __init__(self, customer: str) -> None:
        self.customer = customer
        self.items: list[str] = []
        self.open = True

    @workflow.run
    async def run(self, customer: str) -> list[str]:
        await current_workflow().wait_for(lambda: not self.open)
        return [f"{self.customer}'s {item}" for item in self.items]

    @workflow.signal
    async def add(self, item: str) -> None:
        self.items.append(item)

    @workflow.signal(name="close")
    def shut(self) -> None:
        self.open = False

    @workflow.query
    def count(self) -> int:
        return len(self.items)

    @workflow.update
    async def replace(self, item: str) -> int:
        self.items = [item]
        return len(self.items)

    @replace.validator
    def check(self, item: str) -> None:
        if not item:
            raise ValueError("an item has a name")


ACTIVITIES: list[Any] = [double, increment, refuse, nap, third_time, repeat]
WORKFLOWS: list[Any] = [
    *(arithmetic, sleeper, compensating, faulting, fatal, approval, patient, timed, large, counting, family, Cart),
]
