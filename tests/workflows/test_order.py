"""The order of examples/order.py, as its reader would run it."""

from __future__ import annotations

from typing import Any

import pytest

from examples import order as example
from turnout import Activity, Client, Worker, WorkflowCancelled, WorkflowFaulted

ACTIVITIES: list[Activity[..., Any]] = [example.charge, example.refund, example.ship, example.remind]


def worker(client: Client) -> Worker:
    return Worker(client, activities=ACTIVITIES, workflows=[example.order])


async def activities_of(client: Client, workflow_id: str) -> list[str]:
    return sorted([job.activity async for job in client.jobs(workflow=workflow_id)])


async def test_an_approved_order_is_shipped(client: Client) -> None:
    """Paid, approved by a signal, shipped; the result is a typed receipt."""
    async with worker(client):
        handle = await client.start(example.order.options(id="o-1"), example.Order(sku="tea", price=12.5))
        await handle.signal("approve", {"by": "ann"})
        receipt = await handle.result(timeout=30)
        assert (receipt.parcel, receipt.approved_by) == ("parcel of tea", "ann")
        assert receipt.payment.startswith("payment-")
        assert await activities_of(client, "o-1") == ["charge", "ship"]


async def test_a_payment_is_given_back_when_shipping_fails(client: Client) -> None:
    """What was done before the fault is compensated, and the workflow is faulted with the cause."""
    async with worker(client):
        handle = await client.start(example.order.options(id="o-2"), example.Order(sku="piano", price=900))
        await handle.signal("approve", {"by": "ann"})
        with pytest.raises(WorkflowFaulted, match="nothing that heavy"):
            await handle.result(timeout=30)
        assert await activities_of(client, "o-2") == ["charge", "refund", "ship"]


async def test_a_payment_is_given_back_when_the_order_is_cancelled(client: Client) -> None:
    """A cancel while it waits for the approval lets the code compensate before it ends."""
    async with worker(client):
        handle = await client.start(example.order.options(id="o-3"), example.Order(sku="tea", price=1))
        async for info in handle.watch():
            if any(each.kind == "signal" for each in info.waiting):
                break
        await handle.cancel("changed my mind")
        with pytest.raises(WorkflowCancelled, match="changed my mind"):
            await handle.result(timeout=30)
        assert await activities_of(client, "o-3") == ["charge", "refund"]
