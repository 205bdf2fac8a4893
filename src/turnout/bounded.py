"""Many things at once, but not all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


async def each(call: Callable[[A], Awaitable[T]], items: Iterable[A], at_once: int) -> list[T]:
    """What `call` returns for each of the items, in their order; at most `at_once` calls are under way.

    All of them are made. The first error is raised when none is under way any more.

    >>> async def double(number: int) -> int:
    ...     return 2 * number
    >>> asyncio.run(each(double, range(3), at_once=2))
    [0, 2, 4]
    """
    items = list(items)
    if len(items) == 1:  # as most often; a task for it would cost more than many a call
        return [await call(items[0])]
    gate = asyncio.Semaphore(at_once)

    async def one(item: A) -> T:
        async with gate:
            return await call(item)

    outcomes = await asyncio.gather(*map(one, items), return_exceptions=True)
    results = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results
