"""The end of a job that ran beside its workflow reaches that in memory, and nothing is told to the inbox (W4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.waiting import until
from turnout import Client, JobFaulted, RetryPolicy, Worker, activity, current_job, current_workflow, workflow
from turnout.core.record import JobRecord
from turnout.core.workflows.values import InputKind, Record
from turnout.store.histories import Histories
from turnout.store.inbox import Inbox, Lying, Wakeup
from turnout.store.records import Registry, Versioned
from turnout.testing import NatsServer
from turnout.testing.fixtures import own_namespace
from turnout.worker.workflows import handover
from turnout.worker.workflows.dispatch import Dispatcher


@activity
async def double(number: int) -> int:
    return 2 * number


@activity(retry=RetryPolicy(max_attempts=1))
async def refuse() -> None:
    raise ValueError("no")


@activity
async def large(size: int) -> str:
    return "x" * size


@activity
async def report(workflow_id: str) -> None:
    """Signals its own workflow before it ends."""
    await current_job().client.workflow(workflow_id).signal("reported", text="all is well")


@workflow
async def sums() -> int:
    return sum([await double(number) for number in range(4)])


@workflow
async def several() -> list[int]:
    return list(await asyncio.gather(*(double(number) for number in range(20))))


@workflow
async def faulty() -> str:
    try:
        await refuse()
    except JobFaulted as error:
        return str(error)
    return ""


@workflow
async def sized() -> int:
    return len(await large(600_000))


@workflow
async def mixed() -> list[int]:
    return [await double(1), await double.options(local=True)(2), await double(3), await double.options(local=True)(4)]


@workflow
class Reported:
    def __init__(self) -> None:
        self.texts: list[str] = []

    @workflow.signal
    def reported(self, text: str) -> None:
        self.texts.append(text)

    @workflow.run
    async def run(self) -> list[str]:
        await report(current_workflow().id)
        return self.texts


def worker(client: Client, *workflows: Any) -> Worker:
    return Worker(client, activities=[double, refuse, large, report], workflows=workflows)


async def ends_of(client: Client, workflow_id: str) -> list[int]:
    """Where the ends of activities lay in the inbox, 0 for those that never did."""
    newest = await client.store.histories.newest(workflow_id)
    assert newest is not None
    stored = await client.store.histories.between(workflow_id, 0, newest)
    return [each.seq for record in stored for each in record.record.inputs if each.kind is InputKind.done]


async def is_empty(client: Client) -> bool:
    """Whether no job has a message any more."""
    info = await client.store.connection.api(f"STREAM.INFO.{client.store.names.work}", {})
    return bool(info["state"]["messages"] == 0)


async def test_an_end_is_not_told_to_the_inbox_of_a_workflow_at_hand(client: Client) -> None:
    """It stands in the history, and the job's message is gone."""
    async with worker(client, sums):
        handle = await client.start(sums)
        assert await handle.result(timeout=30) == 12
        assert await ends_of(client, handle.id) == [0, 0, 0, 0]
        await until(lambda: is_empty(client))


async def test_a_late_node_tells_no_inbox(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a task takes: while it runs, the end is in its hands."""
    monkeypatch.setattr(handover, "WITHIN_S", 0.0)
    async with worker(client, sums):
        handle = await client.start(sums)
        assert await handle.result(timeout=30) == 12
        await until(lambda: is_empty(client))
        stored = await client.store.connection.api(f"STREAM.INFO.{client.store.names.inbox}", {})
        assert stored["state"]["last_seq"] == 2  # the start, and the timer of the end's removal


async def test_many_ends_at_once(client: Client) -> None:
    """Each is counted once, however many come while a task runs."""
    async with worker(client, several):
        assert await (await client.start(several)).result(timeout=30) == list(range(0, 40, 2))


async def test_a_fault_is_handed_over_as_well(client: Client) -> None:
    """The code catches it, and its history has it without a place in the inbox."""
    async with worker(client, faulty):
        handle = await client.start(faulty)
        assert "no" in await handle.result(timeout=30)
        assert await ends_of(client, handle.id) == [0]


async def test_a_large_result_is_told_to_the_inbox(client: Client) -> None:
    """It becomes an object of the workflow's own there."""
    async with worker(client, sized):
        handle = await client.start(sized)
        assert await handle.result(timeout=30) == 600_000
        assert min(await ends_of(client, handle.id)) > 0


async def test_another_nodes_end_is_told_to_the_inbox(server: NatsServer) -> None:
    """A worker without the workflow in memory has nobody to hand an end to."""
    async with (
        own_namespace(server) as one,
        Client.connect(server.url, namespace=one.store.names.ns) as two,
        Worker(one, workflows=[sums]),
        Worker(two, activities=[double]),
    ):
        handle = await one.start(sums)
        assert await handle.result(timeout=30) == 12
        assert min(await ends_of(one, handle.id)) > 0


async def test_local_activities_behind_others(client: Client) -> None:
    """What a local activity is kept by must lie in the inbox: such workflows are told there."""
    async with worker(client, mixed):
        for _ in range(2):
            handle = await client.start(mixed)
            assert await handle.result(timeout=30) == [2, 4, 6, 8]


async def test_what_a_job_sends_to_its_workflow_comes_before_its_end(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody has been handed the signal yet."""
    receive, held = Dispatcher.receive, list[Wakeup]()

    def late(self: Dispatcher, wakeup: Wakeup) -> None:
        if wakeup.given is not None and wakeup.given.kind is InputKind.signal:
            held.append(wakeup)
        else:
            receive(self, wakeup)

    monkeypatch.setattr(Dispatcher, "receive", late)
    async with worker(client, Reported):
        handle = await client.start(Reported.run)
        assert await handle.result(timeout=30) == ["all is well"]
        assert await ends_of(client, handle.id) == [0]
    assert held


async def test_the_inbox_is_read_while_the_end_is_written(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not behind it: the read begins when the code of the job has ended."""
    read, save, asked = Inbox.read, Registry.save, asyncio.Event()

    async def noticed(self: Inbox, name: str, workflow_id: str, handed: set[int], *, whole: bool) -> list[Lying]:
        if not handed and not whole:
            asked.set()
        return await read(self, name, workflow_id, handed, whole=whole)

    async def late(self: Registry, record: JobRecord, revision: int, expires: bool = False) -> Versioned:
        if record.state.final:
            await asyncio.wait_for(asked.wait(), 30)
        return await save(self, record, revision, expires)

    monkeypatch.setattr(Inbox, "read", noticed)
    monkeypatch.setattr(Registry, "save", late)
    async with worker(client, sums):
        assert await (await client.start(sums)).result(timeout=100) == 12


async def test_the_job_stays_until_the_record_is_stored(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that dies before that leaves the job's message, and whoever is handed that tells the inbox."""
    append, asked, go = Histories.append, asyncio.Event(), asyncio.Event()

    async def late(self: Histories, record: Record, expected: int) -> int:
        if any(each.kind is InputKind.done for each in record.inputs) and not go.is_set():
            asked.set()
            await go.wait()
        return await append(self, record, expected)

    monkeypatch.setattr(Histories, "append", late)

    async with worker(client, sums):
        handle = await client.start(sums)
        await asyncio.wait_for(asked.wait(), 30)
        assert not await is_empty(client)
        go.set()
        assert await handle.result(timeout=30) == 12
        await until(lambda: is_empty(client))
