"""Stopping a node: what it has of workflows goes to others at once, not after the time that an input is lent for."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import arithmetic, double, increment, sleeper
from turnout import Client, Worker, WorkflowHandle, activity, workflow
from turnout.store import topology

ACK_WAIT_S = 100.0


@pytest.fixture(autouse=True)
def _long_ack_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """So long that nothing here goes on by it."""
    monkeypatch.setattr(topology, "WORKFLOW_ACK_WAIT_S", ACK_WAIT_S)


@activity
async def quickly(number: int) -> int:
    return number


@workflow
async def busy(rounds: int) -> int:
    """One activity after the other: there is always something on its way to its worker."""
    return sum([await quickly(number) for number in range(rounds)])


async def further(handle: WorkflowHandle[Any], length: int) -> bool:
    return (await handle.info()).history_length > length


async def test_a_stopped_node_holds_nothing(client: Client) -> None:
    """It is stopped in the middle of many tasks: another goes on with all of them long before its ack wait is over."""
    first = Worker(client, activities=[quickly], workflows=[busy])
    await first.start()
    handles = [await client.start(busy, 30) for _ in range(20)]

    async def under_way() -> bool:
        return (await handles[-1].info()).history_length > 5

    await until(under_way)
    await first.stop(grace=0)
    before = {handle.id: (await handle.info()).history_length for handle in handles}
    here = [handle for handle in handles if not (await handle.info()).state.final]
    assert here
    async with Worker(client, activities=[quickly], workflows=[busy]):
        async with asyncio.timeout(ACK_WAIT_S * 0.6):
            for handle in here:
                await until(functools.partial(further, handle, before[handle.id]))
        results = await asyncio.gather(*(handle.result() for handle in handles))
    assert set(results) == {sum(range(30))}


async def test_what_waits_in_the_memory_of_a_stopped_node_goes_on_elsewhere(client: Client) -> None:
    """A short timer that the stopped node was about to fire itself fires all the same, and others have their turn."""
    first = Worker(client, activities=[double, increment], workflows=[arithmetic, sleeper])
    await first.start()
    handle = await client.start(sleeper, 0.8)

    async def asleep() -> bool:
        return bool((await handle.info()).waiting)

    await until(asleep)
    await first.stop(grace=0)
    other = await client.start(arithmetic, 3)
    async with (
        asyncio.timeout(ACK_WAIT_S * 0.6),
        Worker(client, activities=[double, increment], workflows=[arithmetic, sleeper]),
    ):
        assert await other.result() == 19
        assert await handle.result() >= 0.8
