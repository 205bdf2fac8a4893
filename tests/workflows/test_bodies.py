"""Large bodies of workflows: they belong to the life that needs them, whatever becomes of where they came from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.waiting import until
from turnout import Client, Worker, activity, current_workflow, workflow
from turnout.nats.stream import kv_stream
from turnout.supervisor.objects import ObjectCollector

BIG = "x" * 100_000


@activity
async def enlarge(text: str, times: int) -> str:
    return text * times


@workflow
async def keeping(text: str) -> list[int]:
    """Has a large payload, gives one, gets a large result, and then a signal."""
    made = await enlarge(text, 2)
    told = await current_workflow().receive("more", str)
    return [len(text), len(made), len(told)]


@workflow(retention=3)
async def mirror(text: str) -> str:
    return text


@workflow
async def parent_of_large() -> int:
    """Looks at its child's large result only when it is told to."""
    wf = current_workflow()
    child = await wf.start_child(mirror.options(id="mirror"), BIG)
    await wf.receive("look")
    return len(await child.result())


@workflow
async def passing(to: str) -> None:
    await current_workflow().workflow(to).signal("more", BIG)


@workflow
async def renewing(text: str, runs: int) -> int:
    if runs > 1:
        current_workflow().continue_as_new(text + "y", runs - 1)
    await current_workflow().receive("end")
    return len(text)


LARGE: list[Any] = [keeping, mirror, parent_of_large, passing, renewing]


@pytest.fixture
async def worker(client: Client) -> AsyncIterator[Worker]:
    async with Worker(client, activities=[enlarge], workflows=LARGE) as started:
        yield started


async def objects(client: Client) -> list[str]:
    return [each.name async for each in client.store.payloads.objects()]


async def collect(client: Client) -> int:
    """Three walks of the supervisor's collector, for which every object is old enough."""
    collector = ObjectCollector(client.store, 0.0)
    return sum([await collector.collect() for _ in range(3)])


async def purge(client: Client, stream: str) -> None:
    await client.store.connection.api(f"STREAM.PURGE.{stream}", {})


async def _waits_for(client: Client, workflow_id: str, kind: str) -> bool:
    return [each.kind for each in (await client.workflow(workflow_id).info()).waiting] == [kind]


async def test_a_history_keeps_what_it_names(client: Client) -> None:
    """A large payload, result and signal are there for a replay when the jobs' records and objects are long gone."""
    handle = await client.start(keeping.options(id="k"), BIG)
    async with Worker(client, activities=[enlarge], workflows=LARGE):
        await until(lambda: _waits_for(client, "k", "signal"))
    await purge(client, kv_stream(client.store.names.jobs_bucket))
    await collect(client)
    assert all(name.startswith("workflow.k.") for name in await objects(client))
    await handle.signal("more", BIG * 3)
    assert await collect(client) == 0
    async with Worker(client, activities=[enlarge], workflows=LARGE):
        assert await handle.result(timeout=30) == [100_000, 200_000, 300_000]


async def test_objects_go_with_the_life(client: Client, worker: Worker) -> None:
    """What is left of a workflow after its retention: nothing, its objects included."""
    handle = await client.start(mirror, BIG)
    assert await handle.result(timeout=30) == BIG

    async def none() -> bool:
        return await objects(client) == []

    assert await until(none)


async def test_the_result_of_a_child_that_is_gone(client: Client, worker: Worker) -> None:
    """A parent that nobody worked for finds a child's large result when the child's history has gone."""
    handle = await client.start(parent_of_large.options(id="p"))

    async def only_parents() -> bool:
        names = await objects(client)
        return bool(names) and all(name.startswith("workflow.p.") for name in names)

    assert await until(only_parents)
    await collect(client)
    await handle.signal("look")
    assert await handle.result(timeout=30) == len(BIG)


async def test_a_large_signal_from_another_workflow(client: Client, worker: Worker) -> None:
    """It is the receiver's own when the sender is deleted."""
    handle = await client.start(keeping.options(id="k"), BIG)
    await until(lambda: _waits_for(client, "k", "signal"))
    sender = await client.start(passing, "k")
    await sender.result(timeout=30)
    await sender.delete()
    await collect(client)
    assert await handle.result(timeout=30) == [100_000, 200_000, 100_000]


async def test_deleting_removes_the_objects(client: Client, worker: Worker) -> None:
    """delete() takes along what the history names."""
    handle = await client.start(mirror.options(id="m"), BIG)
    await handle.result(timeout=30)
    assert await objects(client) != []
    await handle.delete()
    assert await objects(client) == []


async def test_objects_of_earlier_runs_are_collected(client: Client, worker: Worker) -> None:
    """After continue-as-new the supervisor removes what only earlier runs named, and nothing else."""
    handle = await client.start(renewing.options(id="r"), BIG, 4)
    await until(lambda: _waits_for(client, "r", "signal"))
    await collect(client)
    assert len(await objects(client)) == 1
    await handle.signal("end")
    assert await handle.result(timeout=30) == 100_003
