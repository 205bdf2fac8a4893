"""Waiting for a condition, with a generous bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T]], within_s: float = 15.0) -> T:
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
