"""Trouble with the code of workflows: stuck and healed, patched, taken over, and what a stuck one still does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import double, increment, nap, refuse
from turnout import (
    Client,
    Worker,
    WorkflowCancelled,
    WorkflowFaulted,
    WorkflowInfo,
    WorkflowState,
    WorkflowTerminated,
    current_workflow,
    workflow,
)


def bad(name: str = "thing") -> Any:
    """A workflow with a mistake behind its first signal."""

    @workflow(name=name)
    async def broken() -> str:
        wf = current_workflow()
        heard = await wf.receive("go", str)
        await double(1)
        second = await wf.receive("go", str)
        raise KeyError(f"{heard} {second}")

    return broken


def good(name: str = "thing") -> Any:
    """The same workflow, repaired."""

    @workflow(name=name)
    async def repaired() -> str:
        wf = current_workflow()
        heard = await wf.receive("go", str)
        await double(1)
        return f"{heard} {await wf.receive('go', str)}"

    return repaired


def waits_on(name: str = "thing") -> Any:
    """The same workflow, repaired to wait for more."""

    @workflow(name=name)
    async def waiting() -> str:
        wf = current_workflow()
        await wf.receive("go", str)
        await double(1)
        await wf.receive("go", str)
        return await wf.receive("go", str)

    return waiting


def calls(*activities: Any, patch: bool = False) -> Any:
    """A workflow that calls these activities with the numbers from 1, waiting for a signal before each."""

    @workflow(name="caller")
    async def caller() -> list[int]:
        wf, found = current_workflow(), []
        if patch and wf.patched("more"):
            found.append(await double(50))
        for number, each in enumerate(activities, 1):
            await wf.receive("go")
            found.append(await each.execute(number))
        return found

    return caller


async def stuck(client: Client, workflow_id: str) -> WorkflowInfo:
    """The workflow, as soon as it is stuck."""

    async def found() -> WorkflowInfo | None:
        info = await client.workflow(workflow_id).info()
        return info if info.state is WorkflowState.stuck else None

    return await until(found)


async def test_a_mistake_in_the_code_is_not_the_end(client: Client) -> None:
    """An unexpected exception leaves the workflow stuck, with the error; repaired code goes on by itself."""
    handle = await client.start(bad().options(id="w"))
    async with Worker(client, activities=[double], workflows=[bad()], build="one"):
        await handle.signal("go", "a")
        await handle.signal("go", "b")
        info = await stuck(client, "w")
        assert info.error is not None
        assert (info.error.type, info.reason) == ("KeyError", "code_raised")
        assert "broken" in (info.error.traceback or "")
    async with Worker(client, activities=[double], workflows=[good()], build="two"):
        assert await handle.result(timeout=30) == "a b"


async def test_the_difference_is_told(client: Client) -> None:
    """Code that asks for something else than its history says is stuck, with both sides and the lines of the code."""
    old, new = calls(double, double), calls(increment, double)
    handle = await client.start(old.options(id="w"))
    async with Worker(client, activities=[double, increment], workflows=[old], build="one"):
        await handle.signal("go")

        async def second() -> bool:
            waiting = (await handle.info()).waiting
            return [each.kind for each in waiting] == ["signal"] and len(await handle.history()) > 4

        await until(second)
    async with Worker(client, activities=[double, increment], workflows=[new], build="two"):
        await handle.signal("go")
        info = await stuck(client, "w")
        assert info.error is not None
        assert (info.error.type, info.reason) == ("NonDeterminism", "non_determinism")
        assert "- 0-1 activity double at test_trouble.py" in info.error.message.replace("0-0", "0-1")
        assert "+ 0-1 activity increment at test_trouble.py" in info.error.message.replace("0-0", "0-1")
    async with Worker(client, activities=[double, increment], workflows=[old], build="three"):
        assert await handle.result(timeout=30) == [2, 4]


async def test_a_patch_leaves_old_runs_as_they_were(client: Client) -> None:
    """patched(id) is False in a run that came there with the old code, and True, for ever, in one that is new."""
    old, new = calls(double, increment), calls(double, increment, patch=True)
    before = await client.start(old.options(id="old"))
    async with Worker(client, activities=[double, increment], workflows=[old], build="one"):
        await before.signal("go")
        await until(lambda: _events(client, "old", "done"))
    async with Worker(client, activities=[double, increment], workflows=[new], build="two"):
        await before.signal("go")
        assert await before.result(timeout=30) == [2, 3]
        after = await client.start(new.options(id="new"))
        await after.signal("go")
        await until(lambda: _events(client, "new", "done"))
    async with Worker(client, activities=[double, increment], workflows=[new], build="three"):
        await after.signal("go")
        assert await after.result(timeout=30) == [100, 2, 3]


async def _events(client: Client, workflow_id: str, kind: str) -> bool:
    return any(event.kind == kind for event in await client.workflow(workflow_id).history())


async def test_terminate_ends_a_stuck_one(client: Client) -> None:
    """A stuck workflow is ended by force at once, with a worker and without."""
    for with_worker in (True, False):
        handle = await client.start(bad().options(id=f"w{with_worker}"))
        async with Worker(client, activities=[double], workflows=[bad()]):
            await handle.signal("go", "a")
            await handle.signal("go", "b")
            await stuck(client, handle.id)
            if with_worker:
                await handle.terminate("out")
        if not with_worker:
            await handle.terminate("out")
        with pytest.raises(WorkflowTerminated, match="out"):
            await handle.result(timeout=30)


async def test_a_bare_terminate_ends_a_stuck_one(client: Client) -> None:
    """It stands behind the input that sticks, and is carried out at once all the same."""
    handle = await client.start(bad().options(id="w"))
    async with Worker(client, activities=[double], workflows=[bad()]):
        await handle.signal("go", "a")
        await handle.signal("go", "b")
        await stuck(client, "w")
        await client.store.connection.store(f"{client.namespace}.workflows.thing.w.terminate", b"bare", {})
        with pytest.raises(WorkflowTerminated, match="bare"):
            await handle.result(timeout=30)


async def test_a_cancel_of_a_stuck_one_shows(client: Client) -> None:
    """It waits in line, shows as asked for meanwhile, and is what the repaired code hears; another life's doesn't."""
    handle = await client.start(bad().options(id="w"))
    async with Worker(client, activities=[double], workflows=[bad()]):
        await handle.signal("go", "a")
        await handle.signal("go", "b")
        assert (await stuck(client, "w")).cancel_requested is None
        await handle.cancel("changed my mind")
        info = await handle.info()
        assert (info.state, info.cancel_requested) == (WorkflowState.stuck, "changed my mind")
        assert [each.cancel_requested async for each in client.workflows()] == ["changed my mind"]
    async with Worker(client, activities=[double], workflows=[waits_on()]):
        with pytest.raises(WorkflowCancelled, match="changed my mind"):
            await handle.result(timeout=30)


async def test_the_timeout_ends_a_stuck_one(client: Client) -> None:
    """The timeout of the whole workflow needs no code."""
    handle = await client.start(bad().options(id="w", timeout=8))
    async with Worker(client, activities=[double], workflows=[bad()]):
        await handle.signal("go", "a")
        await handle.signal("go", "b")
        await stuck(client, "w")
        with pytest.raises(WorkflowFaulted, match="within its timeout"):
            await handle.result(timeout=30)


async def test_what_breaks_the_code_lies_in_the_inbox(client: Client) -> None:
    """The end of a job that was handed over in memory is there before it says stuck: nothing sent later comes first."""
    handle = await client.start(bad().options(id="w"))
    async with Worker(client, activities=[double], workflows=[bad()]):
        await handle.signal("go", "a")
        await handle.signal("go", "b")
        await stuck(client, "w")
        names, connection = client.store.names, client.store.connection
        done = await connection.get_message(names.inbox, next_by_subj=names.input("thing", "w", "done.>"))
        newest = await connection.get_message(names.history, last_by_subj=names.records("w"))
        assert done is not None
        assert newest is not None
        assert done.time_ns < newest.time_ns


async def test_a_cancel_waits_for_the_repair(client: Client) -> None:
    """A cancel of a stuck workflow waits behind the input that sticks; repaired code that ends there is done."""
    handle = await client.start(bad().options(id="w"))
    async with Worker(client, activities=[double], workflows=[bad()], build="one"):
        await handle.signal("go", "a")
        await handle.signal("go", "b")
        await stuck(client, "w")
        await handle.cancel("late")
        assert (await handle.info()).state is WorkflowState.stuck
    async with Worker(client, activities=[double], workflows=[good()], build="two"):
        assert await handle.result(timeout=30) == "a b"


async def test_a_mistake_before_anything_is_recorded(client: Client) -> None:
    """Code that breaks in its first task is stuck, not lost, and repaired code begins it."""

    @workflow(name="first")
    async def breaks() -> str:
        raise KeyError("at once")

    @workflow(name="first")
    async def works() -> str:
        return "done"

    handle = await client.start(breaks.options(id="w"))
    await handle.signal("early", 1)
    async with Worker(client, workflows=[breaks], build="one"):
        await stuck(client, "w")
    async with Worker(client, workflows=[works], build="two"):
        assert await handle.result(timeout=30) == "done"


async def test_another_worker_takes_over(client: Client, server: Any) -> None:
    """What one worker has begun another one goes on with, from the history alone."""

    @workflow
    async def steps() -> list[int]:
        wf, found = current_workflow(), []
        for number in range(4):
            found.append(await double(number))
            await wf.receive("go")
        return found

    handle = await client.start(steps)
    for _ in range(4):
        async with Worker(client, activities=[double], workflows=[steps]):
            await until(lambda: _waits_for_signal(client, handle.id))
            await handle.signal("go")
    async with Worker(client, activities=[double], workflows=[steps]):
        assert await handle.result(timeout=30) == [0, 2, 4, 6]


async def _waits_for_signal(client: Client, workflow_id: str) -> bool:
    return [each.kind for each in (await client.workflow(workflow_id).info()).waiting] == ["signal"]


async def test_two_workers_share_the_workflows(client: Client, server: Any) -> None:
    """Two workers of one namespace, with small caches: each workflow ends once, with the right result."""

    @workflow
    async def counted(number: int) -> int:
        wf = current_workflow()
        await asyncio.gather(double(number), wf.receive("go"))
        return await double(number)

    async with (
        Client.connect(server.url, namespace=client.namespace) as other,
        Worker(client, activities=[double], workflows=[counted], max_cached_workflows=2),
        Worker(other, activities=[double], workflows=[counted], max_cached_workflows=2),
    ):
        handles = [await client.start(counted, number) for number in range(12)]
        await asyncio.gather(*(handle.signal("go") for handle in handles))
        assert await asyncio.gather(*(handle.result(timeout=30) for handle in handles)) == [
            2 * number for number in range(12)
        ]


async def test_a_failed_activity_in_a_group(client: Client) -> None:
    """A task group in a workflow cancels the siblings of what fails; the group faults the workflow."""

    @workflow
    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(nap(30))
            group.create_task(refuse("no"))

    async with Worker(client, activities=[nap, refuse], workflows=[grouped]):
        handle = await client.start(grouped)
        with pytest.raises(WorkflowFaulted, match="no"):
            await handle.result(timeout=30)

        async def cancelled() -> bool:
            return bool([info async for info in client.jobs(activity="nap", state="cancelled")])

        assert await until(cancelled)
