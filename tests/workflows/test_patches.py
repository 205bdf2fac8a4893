"""`patched()` through the life of a change: not yet, both ways, the new way alone, and removed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workflows.definitions import double, increment
from turnout import Client, History, NonDeterminism, Worker, current_workflow, workflow
from turnout.testing import WorkflowEnvironment, replay

ACTIVITIES: list[Any] = [double, increment]


@workflow(name="change")
async def not_yet(number: int) -> int:
    await current_workflow().receive("before")
    number = await double(number)
    await current_workflow().receive("after")
    return number


@workflow(name="change")
async def both(number: int) -> int:
    wf = current_workflow()
    await wf.receive("before")
    number = await (increment.execute(number) if wf.patched("by-one") else double(number))
    await wf.receive("after")
    return number if wf.patched("by-one") else -number


@workflow(name="change")
async def only_new(number: int) -> int:
    wf = current_workflow()
    await wf.receive("before")
    wf.patched("by-one")
    number = await increment.execute(number)
    await wf.receive("after")
    return number


@workflow(name="change")
async def removed(number: int) -> int:
    wf = current_workflow()
    await wf.receive("before")
    number = await increment.execute(number)
    await wf.receive("after")
    return number


async def _history(code: Any) -> History:
    """The history of a run that has gone through all of this code."""
    async with WorkflowEnvironment(workflows=[code], activities=ACTIVITIES) as env:
        handle = await env.start(code, 3)
        await handle.signal("before")
        await handle.signal("after")
        await handle.result()
        return await handle.history()


FITS = {
    "not_yet": (not_yet, [not_yet, both]),
    "both": (both, [both, only_new, removed]),
    "only_new": (only_new, [both, only_new, removed]),
    "removed": (removed, [only_new, removed]),
}


@pytest.mark.parametrize("stage", FITS)
async def test_each_stage_replays_what_it_has_to(stage: str) -> None:
    """A history fits the code of its own stage and of the next ones that its deploy recipe allows, and no other."""
    code, fitting = FITS[stage]
    history = await _history(code)
    for other in (not_yet, both, only_new, removed):
        if other in fitting:
            await replay(history, workflows=[other])
        else:
            with pytest.raises(NonDeterminism):
                await replay(history, workflows=[other])


async def test_a_deploy_while_workflows_run(client: Client) -> None:
    """Who has passed the change goes on the old way to its end, with one answer a run; who has not goes the new way."""
    async with Worker(client, activities=ACTIVITIES, workflows=[not_yet]):
        passed = await client.start(not_yet.options(id="passed"), 3)
        await client.start(not_yet.options(id="waiting"), 3)
        await passed.signal("before")
        async for info in passed.watch():
            if any(wait.name == "after" for wait in info.waiting):
                break
    async with Worker(client, activities=ACTIVITIES, workflows=[both]):
        waiting = client.workflow("waiting", both)
        await passed.signal("after")
        await waiting.signal("before")
        await waiting.signal("after")
        assert await passed.result(timeout=30) == -6
        assert await waiting.result(timeout=30) == 4
