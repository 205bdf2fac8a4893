"""Waiting for a condition, with a generous bound; and measuring what must not be late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from turnout import Client, FaultInfo, JobHandle, JobInfo, JobState

T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T | None]], within_s: float = 60.0) -> T:
    """Ask until the answer is true, and return it. TimeoutError says which condition never came."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                answer = await condition()
                if answer:
                    return answer
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"after {within_s:g} s still not: {condition}") from None


async def running(handle: JobHandle[Any]) -> JobInfo:
    """What is known of the job, as soon as an attempt of it is running."""

    async def runs() -> JobInfo | None:
        info = await handle.info()
        return info if info.state is JobState.running else None

    return await until(runs)


async def listed(client: Client, count: int, **filters: Any) -> list[str]:
    """The ids of the jobs, as soon as there are so many: a bare publish isn't acknowledged."""

    async def all_there() -> list[str] | None:
        ids = [info.id async for info in client.jobs(**filters)]
        return ids if len(ids) == count else None

    return await until(all_there) or []


async def parked(client: Client, job_id: str) -> bool:
    """Whether the job waits in the line of a limit: who merely looks at it is told of the limit before that."""
    record = (await client.store.registry.find(job_id)).record
    return record is not None and record.waits_for is not None


async def letters(client: Client, count: int) -> list[FaultInfo]:
    """The dead letters, as soon as there are so many: each is written behind the record that tells of the end."""

    async def all_there() -> list[FaultInfo] | None:
        found = [letter async for letter in client.faults()]
        return found if len(found) == count else None

    return await until(all_there) or []


def best_of_three(limit_s: float) -> Iterator[list[float]]:
    """Rounds of a measurement: each appends how many seconds something took or was late; one round within the limit
    is enough, for a busy machine may stop in the middle of any. What must hold in every round the round asserts.

        for late in best_of_three(LATE_S):
            late.append(...)
    """
    worst: list[float] = []
    for _ in range(3):
        seconds: list[float] = []
        yield seconds
        worst.append(max(seconds))
        if worst[-1] <= limit_s:
            return
    raise AssertionError(f"never within {limit_s:g} s: {', '.join(f'{each:.3f}' for each in worst)} s")
