"""An order as a workflow: pay, wait for an approval, ship; and give the money back when shipping fails.

turnout dev examples.order                                                  # a server and a worker
turnout workflow start order '{"sku": "tea", "price": 12.5}' --id o-1       # it waits for a word
turnout workflow show o-1
turnout workflow signal o-1 approve '{"by": "ann"}'
turnout workflow result o-1
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pydantic import BaseModel

from turnout import Fatal, JobFaulted, RetryPolicy, activity, current_job, current_workflow, workflow

REMIND_AFTER = timedelta(days=1)


class Order(BaseModel):
    sku: str
    price: float


class Approval(BaseModel):
    by: str


class Receipt(BaseModel):
    payment: str
    parcel: str
    approved_by: str


@activity(retry=RetryPolicy(max_attempts=5, delay=1.0))
async def charge(price: float) -> str:
    """Take the money. The job's id is the same for every attempt: give it to the bank, and it charges once."""
    return f"payment-{current_job().id}"


@activity
async def refund(payment: str) -> None:
    """Give the money back."""
    current_job().log.info("%s is given back", payment)


@activity(retry=RetryPolicy(max_attempts=3, delay=0.1))
async def ship(sku: str) -> str:
    """Send the parcel."""
    if sku == "piano":
        raise Fatal("nothing that heavy is shipped")
    return f"parcel of {sku}"


@activity
async def remind(sku: str) -> None:
    """Ask once more for somebody's approval."""
    current_job().log.info("somebody should approve %s", sku)


@workflow
async def order(wanted: Order) -> Receipt:
    """Pay, have it approved, ship. Whatever dies on the way, this goes on at the line where it was."""
    payment = await charge(wanted.price)
    try:
        approval = await approved(wanted)
        parcel = await ship(wanted.sku)
    except (JobFaulted, asyncio.CancelledError):
        await refund(payment)  # the compensation is durable as well, also while the workflow is being cancelled
        raise
    return Receipt(payment=payment, parcel=parcel, approved_by=approval.by)


async def approved(wanted: Order) -> Approval:
    """The approval, however long it takes; after a day somebody is reminded."""
    wf = current_workflow()
    wf.set_details(f"{wanted.sku} waits for an approval")
    while True:
        try:
            async with asyncio.timeout(REMIND_AFTER.total_seconds()):
                return await wf.receive("approve", Approval)
        except TimeoutError:
            await remind(wanted.sku)
