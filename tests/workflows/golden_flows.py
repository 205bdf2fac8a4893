"""The workflows whose histories are kept in tests/workflows/golden. Nothing here may change what they ask for.

A version that adds something that histories can hold adds a workflow here, and a folder with its history:

    python -m tests.workflows.make_golden 0.2
"""

from __future__ import annotations

import asyncio
from typing import Any

from turnout import (
    Fatal,
    JobCancelled,
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


@activity
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@workflow
async def activities(number: int) -> str:
    doubled = await double(number)
    a, b = await asyncio.gather(double(doubled), increment.options(timeout=30, labels={"a": "b"}).execute(doubled))
    try:
        await refuse("no stock")
    except JobFaulted as fault:
        return f"{a} {b} {fault.info.error.message}"
    return ""


@workflow
async def timers() -> list[str]:
    found = []
    await asyncio.sleep(0.05)
    try:
        async with asyncio.timeout(0.1):
            await nap(30)
    except TimeoutError:
        found.append("timeout")
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0.02))
        group.create_task(asyncio.sleep(0.01))
    wf = current_workflow()
    if wf.random.random() < 0.5:
        await asyncio.sleep(0.01)
    found.append(str(wf.uuid4()))
    return found


@workflow
class Signals:
    def __init__(self, much: int) -> None:
        self.items: list[str] = []

    @workflow.run
    async def run(self, much: int) -> list[str]:
        wf = current_workflow()
        decision = await wf.receive("decision", dict[str, Any])
        await wf.wait_for(lambda: len(self.items) >= much, timeout=60)
        wf.set_labels({"done": "yes"})
        wf.set_details("all there")
        return [*self.items, decision["by"]]

    @workflow.signal
    async def add(self, item: str) -> None:
        await double(len(item))
        self.items.append(item)

    @workflow.update
    async def replace(self, item: str) -> int:
        await double(1)
        self.items = [item]
        return len(self.items)

    @replace.validator
    def check(self, item: str) -> None:
        if not item:
            raise ValueError("an item has a name")

    @workflow.update
    async def fail(self) -> None:
        raise Fatal("it fails alone")


@workflow
async def leaf(number: int) -> int:
    if number < 0:
        raise Fatal("below zero")
    return await double(number)


@workflow
async def children(number: int) -> str:
    wf = current_workflow()
    a, b = await asyncio.gather(leaf(number), leaf(number + 1))
    child = await wf.start_child(leaf.options(parent_close="abandon"), number)
    c = await child.result()
    try:
        await leaf(-1)
    except WorkflowFaulted as fault:
        return f"{a} {b} {c} {fault.info.error.message}"
    return ""


@workflow
async def runs(number: int, upto: int) -> int:
    wf = current_workflow()
    if number < upto:
        await double(number)
        wf.continue_as_new(number + 1, upto)
    kept = await wf.receive("kept", str)
    return number + len(kept)


@workflow
async def patches(number: int) -> int:
    wf = current_workflow()
    if wf.patched("two-steps"):
        number = await double(number)
    return await increment.execute(number)


@workflow
async def cancelled() -> None:
    try:
        await nap(30)
    except asyncio.CancelledError:
        await double(1)
        raise


@workflow
async def terminated() -> None:
    await current_workflow().receive("never")


@workflow(fail_on=(ValueError,))
async def faulted() -> None:
    await double(1)
    raise ValueError("an end like another")


@activity(retry=RetryPolicy(delays=[0.01]))
async def second_time() -> int:
    if current_job().attempt < 2:
        raise ValueError("not yet")
    return current_job().attempt


@workflow
async def locals_(number: int) -> str:
    doubled = await double.options(local=True)(number)
    message = ""
    a, b = await asyncio.gather(second_time.options(local=True)(), increment.options(local=True).execute(doubled))
    try:
        await refuse.options(local=True)("no stock")
    except JobFaulted as fault:
        message = fault.info.error.message
    try:
        async with asyncio.timeout(0.1):
            await nap.options(local=True, cancellation="wait")(30)
    except (JobCancelled, TimeoutError):
        return f"{a} {b} {message}"
    return ""


ACTIVITIES: list[Any] = [double, increment, refuse, nap, second_time]
WORKFLOWS: list[Any] = [
    *(activities, timers, Signals, leaf, children, runs, patches, cancelled, terminated, faulted, locals_),
]
