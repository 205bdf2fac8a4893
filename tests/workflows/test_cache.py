"""Instances that go out of memory: nobody hears of it, their code least of all."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Generator
from typing import Any

import pytest

from tests.workflows.definitions import double
from turnout import Client, Worker, workflow


class Pause:
    """Something to await that is no coroutine."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(0.03).__await__()


@workflow
async def with_much_in_hand(rounds: int) -> int:
    """Whatever a coroutine can be suspended in, and short timers, whose second copy comes later and means nothing."""
    lock, queue = asyncio.Lock(), asyncio.Queue[int]()

    async def takes() -> int:
        async with lock, asyncio.timeout(30):
            return await queue.get()

    for number in range(rounds):
        waiting = [asyncio.create_task(takes()) for _ in range(3)]
        await asyncio.gather(Pause(), asyncio.shield(asyncio.sleep(0.02)), double(number))
        for _ in waiting:
            queue.put_nowait(1)
        await asyncio.gather(*waiting)
    return rounds


async def test_a_small_cache_makes_no_noise(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """With room for one, every task throws another one out: nothing is said, nothing fails, each result is right."""
    with caplog.at_level(logging.INFO):
        async with Worker(client, activities=[double], workflows=[with_much_in_hand], max_cached_workflows=1):
            handles = [await client.start(with_much_in_hand, 4) for _ in range(15)]
            assert await asyncio.gather(*(handle.result(timeout=200) for handle in handles)) == [4] * 15
        gc.collect()
    said = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert [each for each in said if "destroyed" in each or "has failed" in each or "never awaited" in each] == []
