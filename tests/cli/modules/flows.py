"""Workflows for the tests of the command line."""

from __future__ import annotations

import asyncio

from turnout import activity, current_workflow, workflow


@activity
async def double(number: int) -> int:
    return number * 2


@workflow
async def doubled(number: int) -> int:
    return await double(number)


@workflow
async def doubled_here(number: int) -> int:
    return await double.options(local=True)(number)


@workflow
async def approval(amount: int) -> str:
    wf = current_workflow()
    wf.set_details(f"waits for a word on {amount}")
    word = await wf.receive("decide")
    return f"{amount}: {word['say']}"


@workflow
async def broken() -> None:
    raise ZeroDivisionError("a bug of ours")


@workflow(fail_on=(ValueError,))
async def failing() -> None:
    raise ValueError("out of stock")


@workflow
async def napping() -> None:
    await asyncio.sleep(3600)


@workflow
class Basket:
    def __init__(self) -> None:
        self.items: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        await current_workflow().wait_for(lambda: len(self.items) >= 2)
        return self.items

    @workflow.signal
    def add(self, item: str) -> None:
        self.items.append(item)

    @workflow.query
    def count(self, of: str | None = None) -> int:
        return len([item for item in self.items if of in (None, item)])

    @workflow.update
    async def weigh(self, item: str) -> int:
        return await double(len(item))

    @weigh.validator
    def known(self, item: str) -> None:
        if item not in self.items:
            raise ValueError(f"no {item} in the basket")

    @workflow.update
    async def drop(self, item: str) -> int:
        self.items.remove(item)
        return len(self.items)

    @workflow.update
    async def full(self) -> int:
        await current_workflow().wait_for(lambda: len(self.items) >= 2)
        return len(self.items)
