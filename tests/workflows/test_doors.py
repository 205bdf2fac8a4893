"""Every door by which values go to a workflow and come from it: one comes back as it was, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tests.support.waiting import until
from turnout import InvalidValue, QueryFailed, UpdateFailed, activity, current_workflow, workflow


class Order(BaseModel):
    n: int = 1


class Rush(Order):
    """What it has more than an order would be dropped on the way."""

    by: str = "noon"


@activity
async def pack(order: Order) -> Order:
    return order


@workflow
class Shop:
    def __init__(self, order: Order) -> None:
        self.order, self.extra = order, False
        self.taken: list[Any] = []

    @workflow.run
    async def run(self, order: Order) -> Order:
        await current_workflow().wait_for(lambda: len(self.taken) == 2)
        try:
            await pack(Rush())
        except InvalidValue as error:
            self.taken.append(str(error))
        return await pack(self.taken[0])

    @workflow.signal
    def take(self, order: Order) -> None:
        self.taken.append(order)

    @workflow.signal
    def take_any(self, value: dict) -> None:  # type: ignore[type-arg]
        self.taken.append(value)

    @workflow.query
    def show(self, rush: bool) -> Order:
        return Rush() if rush else self.order

    @workflow.query
    def told(self) -> list[str]:
        return [each for each in self.taken if isinstance(each, str)]

    @workflow.update
    async def change(self, order: Order, rush: bool) -> Order:
        return Rush() if rush else order


DROPPED = "it is a Rush, and would arrive as a Order"


async def test_every_door_of_a_workflow(workflow_environment: Any) -> None:
    """Its start, signals, queries, updates with their answers, and what it gives to activities: typed and untyped."""
    env = await workflow_environment(workflows=[Shop], activities=[pack])
    with pytest.raises(InvalidValue, match=DROPPED):
        await env.start(Shop.run, Rush())
    handle = await env.start(Shop.run, Order(n=2))
    for what in (handle.signal(Shop.take, Rush()), handle.update(Shop.change, Rush(), False)):
        with pytest.raises(InvalidValue, match=DROPPED):
            await what
    with pytest.raises(InvalidValue, match="the key 1 is not a string"):
        await handle.signal(Shop.take_any, {1: 2})
    with pytest.raises(InvalidValue, match="object, which JSON does not have"):
        await handle.signal("take", {"n": object()})
    with pytest.raises(QueryFailed, match=DROPPED):
        await handle.query(Shop.show, True)
    with pytest.raises(UpdateFailed, match=DROPPED):
        await handle.update(Shop.change, Order(), True)
    assert await handle.query(Shop.show, False) == Order(n=2)
    assert await handle.update(Shop.change, Order(n=4), False) == Order(n=4)
    await handle.signal(Shop.take, Order(n=3))
    await handle.signal(Shop.take_any, {"a": [1, None]})
    assert await handle.result() == Order(n=3)
    [refused] = await until(lambda: handle.query(Shop.told))
    assert DROPPED in refused
