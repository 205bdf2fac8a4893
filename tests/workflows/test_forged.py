"""Inputs of workflows from whoever may publish: they say no more than a stranger can know, and stop nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.waiting import until
from turnout import Client, Worker, WorkflowFaulted, activity, current_workflow, wire, workflow
from turnout.nats.stream import Stream
from turnout.wire import histories
from turnout.worker.workflows import settling

BIG = "x" * 100_000


@activity
async def length(text: str) -> int:
    return len(text)


@workflow
class Basket:
    """Keeps what it is told until it is told to end."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self.done = False

    @workflow.run
    async def run(self) -> list[str]:
        await current_workflow().wait_for(lambda: self.done)
        return self.items

    @workflow.signal
    def add(self, item: str) -> None:
        self.items.append(item)

    @workflow.signal
    def end(self) -> None:
        self.done = True


@workflow
async def keeper(text: str) -> int:
    await current_workflow().receive("never")
    return len(text)


@workflow
async def measuring(text: str) -> int:
    return await length(text)


@workflow
async def greeting(whom: str) -> str:
    return f"hello {whom}"


@workflow
async def joiner() -> list[str]:
    child = await current_workflow().start_child(Basket.run.options(id="b", if_exists="join"))
    items: list[str] = await child.result()
    return items


async def objects(client: Client) -> list[str]:
    return [each.name async for each in client.store.payloads.objects()]


async def tell(client: Client, what: str, body: bytes, headers: dict[str, str]) -> None:
    """A bare signal to the basket."""
    await client.store.connection.store(f"{client.namespace}.workflows.Basket.b.signal.{what}", body, headers)


async def test_a_signal_names_an_object_of_its_own_workflow_alone(client: Client) -> None:
    """Who names another's large body does not read it, and the deletion of the one leaves the other's where it is."""
    victim = await client.submit(length.options(id="victim"), BIG)
    other = await client.start(keeper.options(id="other"), BIG)
    basket = await client.start(Basket.run.options(id="b"))
    async with Worker(client, workflows=[Basket, keeper]):
        await until(lambda: _waits(client, "other"))
        theirs = await objects(client)
        assert len(theirs) >= 2
        for name in theirs:
            await tell(client, "add", b"", {wire.PAYLOAD: f"{name} 100011"})
        await basket.signal(Basket.add, "mine")
        await basket.signal(Basket.end)
        assert await basket.result(timeout=30) == ["mine"]
        assert not [name for name in await objects(client) if name.startswith("workflow.b.")]
        await basket.delete()
        assert set(theirs) <= set(await objects(client))
    async with Worker(client, activities=[length]):
        assert await victim.result(timeout=30) == 100_000
    await other.terminate()


async def test_nobody_answers_for_an_activity(client: Client) -> None:
    """An end that names the run and the command, and not the life, is none: it gives no result and reads no object."""
    victim = await client.start(keeper.options(id="victim"), BIG)
    (theirs,) = await objects(client)
    handle = await client.start(measuring.options(id="m"), "abc")
    async with Worker(client, workflows=[measuring]):
        await until(lambda: _waits(client, "m"))
        (asked,) = [event for event in await handle.history() if event.kind == "ask_activity"]
        subject = f"{client.namespace}.workflows.measuring.m.done.{asked.id}"
        for result in ("41", {"ref": theirs, "size": 100_011}):
            ending = {"v": 1, "kind": "completed", "result": result}
            await client.store.connection.store(subject, json.dumps(ending).encode(), {histories.RUN: "1"})
        async with Worker(client, activities=[length]):
            assert await handle.result(timeout=30) == 3
        assert theirs not in (await handle.history()).to_jsonl()
    await victim.terminate()


ODD: list[tuple[dict[str, str], bytes]] = [
    ({wire.PAYLOAD: "workflow.b.nolife-input-00ff 100011"}, b""),
    ({wire.PAYLOAD: "nothing-payload-00ff 9"}, b'"odd"'),
    ({wire.PAYLOAD: "x"}, b'"odd"'),
    ({wire.PAYLOAD: "x " + "9" * 5000}, b'"odd"'),
    ({histories.RUN: "9" * 5000}, b'{"item": "run"}'),
    ({histories.RUN: str(2**70)}, b'{"item": "run"}'),
    ({histories.RUN: "\u0663"}, b'{"item": "run"}'),
    ({wire.MSG_ID: "m" * 60_000}, b'{"item": "id"}'),
    ({histories.INPUT_ID: "i" * 60_000}, b'{"item": "id"}'),
    ({histories.COMMAND: "c" * 60_000}, b'{"item": "command"}'),
    ({histories.LIFE: "another"}, b'{"item": "life"}'),
    ({"Turnout-Generation": "2", "traceparent": "odd"}, b'{"item": "generation"}'),
]


@pytest.mark.parametrize(("headers", "body"), ODD, ids=range(len(ODD)))
async def test_odd_signals_do_not_stop_their_workflow(client: Client, headers: dict[str, str], body: bytes) -> None:
    """It takes those it can, drops the others, and goes on."""
    basket = await client.start(Basket.run.options(id="b"))
    await tell(client, "add", body, headers)
    async with Worker(client, workflows=[Basket]):
        await basket.signal(Basket.add, "mine")
        await basket.signal(Basket.end)
        items = await basket.result(timeout=30)
    assert items[-1] == "mine"
    assert len(items) <= 2


async def test_odd_headers_do_not_stop_a_start(client: Client) -> None:
    """A bare start has its body's payload and nobody else's, whatever its headers say."""
    other = await client.start(keeper.options(id="other"), BIG)
    (theirs,) = await objects(client)
    subject, store = f"{client.namespace}.workflows.greeting", client.store.connection.store
    for number, (headers, _) in enumerate([*ODD, ({wire.PAYLOAD: f"{theirs} 100011"}, b"")]):
        await store(subject, b'{"whom": "you"}', {wire.MSG_ID: f"s-{number}", **headers})
    async with Worker(client, workflows=[greeting]):

        async def all_there() -> list[str]:
            ids = [info.id async for info in client.workflows(name="greeting")]
            return ids if len(ids) == len(ODD) + 1 else []

        ids = await until(all_there)
        assert {await client.workflow(each, greeting).result(timeout=30) for each in ids} == {"hello you"}
    await other.terminate()


ASKERS: list[dict[str, Any]] = [
    {"id": ">", "name": "Basket", "life": "x", "run": 1, "command": "0-1"},
    {"id": "a", "name": "a b\r\nPUB hello 0\r\n\r\n", "life": "x", "run": 1, "command": "0-1"},
    {"id": "a", "name": "keeper", "life": "x\r\ny", "run": 1, "command": "0-1"},
    {"id": "a", "name": "keeper", "life": "x", "run": 10**30, "command": "0-1"},
    {"id": "a", "name": "keeper", "life": "x", "run": 1, "command": "a\nb"},
    {"id": "a", "name": "keeper", "life": "x", "run": 1, "command": "c" * 60_000},
]


async def test_whoever_asks_for_an_end_keeps_nobody_from_hearing_of_it(client: Client) -> None:
    """Of joins that no workflow sends nobody is told, and the one behind them is."""
    basket = await client.start(Basket.run.options(id="b"))
    for asker in ASKERS:
        body = json.dumps({"v": 1, **asker}).encode()
        await client.store.connection.store(f"{client.namespace}.workflows.Basket.b.join", body, {})
    async with Worker(client, workflows=[Basket, joiner]):
        waiting = await client.start(joiner.options(id="j"))
        await until(lambda: _waits(client, "j"))
        await basket.signal(Basket.end)
        assert await waiting.result(timeout=30) == []


async def test_whoever_has_asked_for_an_end_hears_of_it_before_it_is_deleted(client: Client) -> None:
    """Though no worker has read that they ask; whatever else lies there."""
    basket = await client.start(Basket.run.options(id="b"))
    for asker in ASKERS:
        body = json.dumps({"v": 1, **asker}).encode()
        await client.store.connection.store(f"{client.namespace}.workflows.Basket.b.join", body, {})
    async with Worker(client, workflows=[joiner]):
        waiting = await client.start(joiner.options(id="j"))
        await until(lambda: _waits(client, "j"))
        await basket.terminate("enough")
        await basket.delete()
        with pytest.raises(WorkflowFaulted, match="enough"):
            await waiting.result(timeout=30)


async def test_whoever_asks_for_the_end_of_what_is_not_there_hears_so(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a minute of hand-overs, in which it might have begun; here after three of them."""
    monkeypatch.setattr(settling, "NO_HISTORY_HANDED", 3)
    connection, names = client.store.connection, client.store.names
    await client.start(Basket.run.options(id="b"))

    async def has_asked() -> bool:
        return await connection.get_message(names.inbox, last_by_subj=names.input("Basket", "b", "join")) is not None

    async with Worker(client, workflows=[joiner]):
        waiting = await client.start(joiner.options(id="j"))
        assert await until(has_asked)
        await Stream(connection, names.history).purge(names.records("b"))
        async with Worker(client, workflows=[Basket]):
            with pytest.raises(WorkflowFaulted, match="no workflow b"):
                await waiting.result(timeout=30)


async def _waits(client: Client, workflow_id: str) -> bool:
    info: Any = await client.workflow(workflow_id).info()
    return bool(info.waiting)
