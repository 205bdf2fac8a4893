"""What storage has lost under workflows that wait: a walk of the acting supervisor puts it back, and no more (W14)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import double
from turnout import Client, Worker, WorkflowState, activity, current_workflow, workflow
from turnout.client.workflows.handle import AnyWorkflowHandle
from turnout.core.workflows.values import COLLECTION, InputKind, key_of
from turnout.nats.stream import Stream, kv_stream
from turnout.supervisor.histories import HistoryWalk
from turnout.wire.entries import ENTRY


@workflow(name="lost_child")
async def child(number: int) -> int:
    await current_workflow().receive("go")
    return number


@workflow(name="lost_parent")
async def parent(number: int) -> int:
    return await child.options(id="the-child")(number)


@workflow(name="lost_doubler")
async def doubler(number: int) -> int:
    return await double(number)


@workflow(name="lost_sleeper")
async def sleeper(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "awake"


@workflow(name="lost_brief", retention=3.0)
async def brief() -> None:
    """Ends at once, and is collected soon."""


@workflow(name="lost_listener")
async def listener() -> str:
    return await current_workflow().receive("go", str)


@activity
async def errand() -> str:
    ran.append("errand")
    await goes_on.wait()
    return "done"


@workflow(name="lost_errand")
async def errands() -> str:
    return await errand.options(local=True)()


ran: list[str] = []
goes_on = asyncio.Event()

WORKFLOWS = [child, parent, doubler, sleeper, brief, listener]


@contextlib.asynccontextmanager
async def working(client: Client) -> AsyncIterator[None]:
    """A worker of the workflows alone: activities wait."""
    async with Worker(client, workflows=WORKFLOWS):
        yield


async def waiting_for(client: Client, handle: AnyWorkflowHandle, *kinds: str) -> str:
    """The life of the workflow, once it waits for these."""

    async def waits() -> bool:
        return [each.kind for each in (await handle.info()).waiting] == list(kinds)

    await until(waits)
    newest = await client.store.histories.newest(handle.id)
    assert newest is not None
    return newest.record.life


async def lose(client: Client, stream: str, subject: str) -> None:
    """Storage loses what lies there, as soon as something does: what a record asks for is stored behind it."""
    await until(lambda: lies(client, stream, subject))
    await Stream(client.store.connection, stream).purge(subject)


async def lies(client: Client, stream: str, subject: str) -> bool:
    return await client.store.connection.get_message(stream, last_by_subj=subject) is not None


async def lose_inputs(client: Client, name: str, workflow_id: str) -> None:
    names = client.store.names
    await Stream(client.store.connection, names.inbox).purge(names.input(name, workflow_id, ">"))


async def walk(client: Client, least_age_s: float = 0.0) -> int:
    """A walk of the acting supervisor; of how many workflows something was missing."""
    return await HistoryWalk(client.store, client._performer, least_age_s).walk()


async def test_a_lost_timer(client: Client) -> None:
    """It is set again, for when it was due; at the next walk it is there."""
    async with working(client):
        handle = await client.start(sleeper, 4.0)
        life = await waiting_for(client, handle, "timer")
        names = client.store.names
        await lose(client, names.inbox, names.workflow_timer("lost_sleeper", handle.id, life, 1))
        assert await walk(client, least_age_s=60.0) == 0, "a young one is left alone"
        assert await walk(client) == 1
        assert await walk(client) == 0
        assert await handle.result(timeout=30) == "awake"


async def test_a_lost_job(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """A job whose message is gone is submitted again under its id, and the log says so."""
    async with working(client):
        handle = await client.start(doubler, 21)
        await waiting_for(client, handle, "activity")
        names = client.store.names
        await lose(client, names.work, names.jobs("double", "*"))
        with caplog.at_level(logging.WARNING, "turnout.supervisor"):
            assert await walk(client) == 1
        assert "activity double" in caplog.text
        assert await walk(client) == 0
    async with working(client), Worker(client, activities=[double]):
        assert await handle.result(timeout=30) == 42


async def test_a_lost_end_of_a_job(client: Client) -> None:
    """The job has ended and told so: when that is lost, it is told from its record."""
    async with working(client):
        handle = await client.start(doubler, 21)
        await waiting_for(client, handle, "activity")
    async with Worker(client, activities=[double]):
        [job] = [info async for info in client.jobs(workflow=handle.id)]
        assert await client.job(job.id).result(timeout=30) == 42
        await until(lambda: told(client, "lost_doubler", handle.id))
        assert await walk(client) == 0, "it lies in the inbox"
        await lose_inputs(client, "lost_doubler", handle.id)
        assert await walk(client) == 1
        assert await walk(client) == 0
    async with working(client):
        assert await handle.result(timeout=30) == 42


async def test_a_lost_child(client: Client) -> None:
    """It is started again, as its parent had asked for; and its end is told again."""
    async with working(client):
        handle = await client.start(parent, 7)
        await waiting_for(client, handle, "child")
    names = client.store.names
    await lose(client, names.history, names.records("the-child"))
    await lose_inputs(client, "lost_child", "the-child")
    assert await walk(client) == 1
    async with working(client):
        await client.workflow("the-child").signal("go")
        assert await handle.result(timeout=30) == 7


async def test_a_lost_end_of_a_child(client: Client) -> None:
    """The child has ended while nobody took its parent's inputs: when what it told is lost, it is told again."""
    async with working(client):
        handle = await client.start(parent, 7)
        await waiting_for(client, handle, "child")
    async with Worker(client, workflows=[child]):
        await client.workflow("the-child").signal("go")
        assert await client.workflow("the-child").result(timeout=30) == 7
    await until(lambda: told(client, "lost_parent", handle.id))
    await lose_inputs(client, "lost_parent", handle.id)
    assert await walk(client) == 1
    assert await walk(client) == 0
    async with working(client):
        assert await handle.result(timeout=30) == 7


async def told(client: Client, name: str, workflow_id: str) -> bool:
    """Whether the end of something lies in the inbox."""
    lying = await client.store.inbox.read(name, workflow_id, set(), whole=True)
    return any(each.given.kind is InputKind.done for each in lying)


async def test_a_lost_input_of_a_local_activity(client: Client) -> None:
    """Its node has died, and what would have had another one run it again is gone: it gets an input that does."""
    ran.clear()
    goes_on.clear()
    async with Worker(client, workflows=[errands], activities=[errand]) as first:
        handle = await client.start(errands)
        await waiting_for(client, handle, "activity")
        assert await walk(client) == 0, "it is there"
        await lose_inputs(client, "lost_errand", handle.id)
        await first.stop(grace=0)
    assert await walk(client) == 1
    assert await walk(client) == 0
    goes_on.set()
    async with Worker(client, workflows=[errands], activities=[errand]):
        assert await handle.result(timeout=30) == "done"
    assert ran == ["errand", "errand"]
    assert await client.store.inbox.read("lost_errand", handle.id, set(), whole=True) == []


async def test_a_lost_start(client: Client) -> None:
    """A history that nobody has begun, and nobody would: it is woken."""
    handle = await client.start(listener)
    assert await walk(client) == 0
    await lose_inputs(client, "lost_listener", handle.id)
    assert await walk(client) == 1
    assert await walk(client) == 0
    async with working(client):
        await handle.signal("go", "now")
        assert await handle.result(timeout=30) == "now"


async def test_a_lost_timeout(client: Client) -> None:
    """The timer of the whole workflow."""
    async with working(client):
        handle = await client.start(sleeper.options(timeout=3.0), 600.0)
        life = await waiting_for(client, handle, "timer")
        names = client.store.names
        await lose(client, names.inbox, names.workflow_timer("lost_sleeper", handle.id, life))
        assert await walk(client) == 1
        await until(lambda: ended(handle))
        assert (await handle.info()).state is WorkflowState.faulted


async def ended(handle: AnyWorkflowHandle) -> bool:
    return (await handle.info()).state.final


async def test_a_lost_collection(client: Client) -> None:
    """What is left of an ended workflow goes in the end, though the server's timer for that is lost."""
    async with working(client):
        handle = await client.start(brief)
        await until(lambda: is_to_be_collected(client, handle.id))
        names = client.store.names
        timers = names.workflow_timer("lost_brief", handle.id, "*")
        await Stream(client.store.connection, names.inbox).purge(timers)
        await walk(client)
        await until(lambda: collected(client, handle.id))


async def is_to_be_collected(client: Client, workflow_id: str) -> bool:
    """Whether all is stored that the end of the workflow has to do: this comes last."""
    newest, names = await client.store.histories.newest(workflow_id), client.store.names
    assert newest is not None
    timer = names.workflow_timer(newest.record.name, workflow_id, newest.record.life, 0, COLLECTION)
    return await client.store.connection.get_message(names.inbox, last_by_subj=timer) is not None


async def collected(client: Client, workflow_id: str) -> bool:
    return await client.store.histories.newest(workflow_id) is None


async def test_nothing_is_lost(client: Client) -> None:
    """Workflows that wait for what is there, or have ended, are left as they are."""
    async with working(client):
        handles: list[AnyWorkflowHandle] = [await client.start(sleeper, 600.0), await client.start(doubler, 1)]
        handles += [await client.start(listener), await client.start(parent, 7)]
        for handle, kind in zip(handles, ("timer", "activity", "signal", "child"), strict=True):
            await waiting_for(client, handle, kind)
        await handles[2].signal("go", "now")
        await handles[2].result(timeout=30)
        await until(lambda: is_to_be_collected(client, handles[2].id))
        names = client.store.names  # what the others wait for is stored behind the records that tell of it
        await until(lambda: lies(client, names.inbox, names.workflow_timer("lost_sleeper", handles[0].id, "*", 1)))
        await until(lambda: lies(client, names.work, names.jobs("double", "*")))
        await waiting_for(client, client.workflow("the-child"), "signal")
        await until(lambda: knows_its_child(handles[3]))
        before = await sizes(client)
        assert await walk(client) == 0
        assert await sizes(client) == before


async def knows_its_child(handle: AnyWorkflowHandle) -> bool:
    """Whether it has been told that the child is there: "started" is what happened to the workflow itself as well."""
    return [event.kind for event in await handle.history()].count("started") == 2


async def test_what_is_made_up_keeps_nobody(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """What somebody else has put among histories and records stops no walk: the others are looked after."""
    names, connection = client.store.names, client.store.connection
    entry = '{"v": 1, "kind": "task", "state": "running", "name": ">", "number": 1, "life": "*", "at": 1}'
    await connection.store(names.records("bad"), b"{", {ENTRY: entry})
    async with working(client):
        handle = await client.start(doubler, 1)
        life = await waiting_for(client, handle, "activity")
    history = await client.store.histories.newest(handle.id)
    assert history is not None
    job = key_of(handle.id, life, 1, history.record.commands[0].id)
    await connection.store(names.record("double", job), b"{", {})
    other = await client.start(listener)
    await lose_inputs(client, "lost_listener", other.id)
    with caplog.at_level(logging.INFO, "turnout.supervisor"):
        assert await walk(client) == 1
        assert await walk(client) == 0
    assert "can't be looked at together" in caplog.text


async def sizes(client: Client) -> list[int]:
    """The newest sequences of what workflows live in."""
    names = client.store.names
    streams = (names.inbox, names.history, names.work, kv_stream(names.jobs_bucket))
    infos = [await Stream(client.store.connection, each).info() for each in streams]
    return [int(info["state"]["last_seq"]) for info in infos]
