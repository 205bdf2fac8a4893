"""What a client asks of the server when it sends to workflows."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import pytest

from tests.support.proxy import Proxy
from tests.support.waiting import until
from tests.workflows.definitions import approval
from turnout import (
    Client,
    OutcomeUnknown,
    Worker,
    WorkflowCancelled,
    WorkflowEnded,
    WorkflowNotFound,
    current_workflow,
    workflow,
)
from turnout.core.workflows.values import InputKind
from turnout.nats.messages import Message
from turnout.nats.stream import Stream
from turnout.store.inbox import Inbox
from turnout.store.topology import Topology, TopologyOptions
from turnout.testing import NatsServer

SENT = 50


@workflow
class Tally:
    """Counts until it is told to end."""

    def __init__(self) -> None:
        self.sum = 0
        self.ends = False

    @workflow.run
    async def run(self) -> int:
        await current_workflow().wait_for(lambda: self.ends)
        return self.sum

    @workflow.signal
    def end(self) -> None:
        self.ends = True

    @workflow.signal
    def note(self, number: int) -> None:
        self.sum += number

    @workflow.update
    def add(self, number: int) -> int:
        self.sum += number
        return self.sum


async def nothing_lies(client: Client, workflow_id: str) -> bool:
    names = client.store.names
    subject = names.input("Tally", workflow_id, ">")
    return await client.store.connection.get_message(names.inbox, next_by_subj=subject) is None


async def test_signals_that_are_sent_at_once_share_their_looks(client: Client, server: NatsServer) -> None:
    """One look tells all of them that the workflow is there; then each wants one that began behind it, at most."""
    handle = client.workflow((await client.start(approval)).id)
    looks: list[Message] = []
    async with Client.connect(server.url, namespace="looks") as other:
        history = client.store.names.history
        watching = await other.store.connection.subscribe(f"$JS.API.STREAM.MSG.GET.{history}", looks.append)
        await asyncio.gather(*(handle.signal("note", number) for number in range(SENT)))
        await client.store.histories.newest(handle.id)
        await other.store.connection.flush()
        await watching.close()
    assert 3 <= len(looks) <= SENT + 2


async def test_those_that_a_listing_has_shown_to_be_open_are_looked_at_once(client: Client, server: NatsServer) -> None:
    """Of many that are cancelled each costs one look, behind its cancel; one that has ended meanwhile is left alone,
    and nothing stays in its inbox."""
    started = [await client.start(approval) for _ in range(20)]
    looks: list[Message] = []
    # Another client than the one that has started them, and so has seen them open.
    async with (
        Client.connect(server.url, namespace="looks") as listener,
        Client.connect(server.url, namespace=client.namespace) as other,
    ):
        history = client.store.names.history
        watching = await listener.store.connection.subscribe(f"$JS.API.STREAM.MSG.GET.{history}", looks.append)
        assert await other.cancel_workflows(name=approval, reason="enough") == 20
        await other.store.connection.flush()
        await listener.store.connection.flush()
        await watching.close()
        assert len(looks) == 20
        listed = dict([each async for each in other._workflow_reader.all()])
        async with Worker(client, workflows=[approval]):
            for handle in started:
                with pytest.raises(WorkflowCancelled, match="enough"):
                    await handle.result(timeout=30)
        late = other._starter.listed(started[0].id, listed[started[0].id])
        with pytest.raises(WorkflowEnded):
            await late.cancel()
        names = client.store.names
        subject = names.input("approval", late.id, "cancel")
        assert await client.store.connection.get_message(names.inbox, last_by_subj=subject) is None


async def test_who_gives_up_takes_nobody_along(client: Client) -> None:
    """One of several that share a look is cancelled: the others' signals are stored."""
    handle = client.workflow((await client.start(approval)).id)
    first, *others = [asyncio.create_task(handle.signal("note", number)) for number in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others, return_exceptions=True) == [None, None]
    with pytest.raises(asyncio.CancelledError):
        await first
    await handle.terminate()
    sent = [handle.signal("note", number) for number in range(3)]
    assert [type(each) for each in await asyncio.gather(*sent, return_exceptions=True)] == [WorkflowEnded] * 3


async def test_one_that_this_client_has_started_is_looked_at_behind_what_is_sent(
    client: Client, server: NatsServer
) -> None:
    """A signal or an update to it is on its way at once; a look behind that tells whether it has ended."""
    heard: list[str] = []
    async with Client.connect(server.url, namespace="looks") as other, Worker(client, workflows=[Tally]):
        handle = await client.start(Tally.run)
        assert await handle.update(Tally.add, 1) == 1
        await until(lambda: nothing_lies(client, handle.id))
        names, listening = client.store.names, other.store.connection
        api = f"$JS.API.DIRECT.GET.{names.history}"
        for subject in (api, names.input("Tally", handle.id, "signal", "note"), names.input("Tally", handle.id, ">")):
            await listening.subscribe(subject, lambda message: heard.append(message.subject))
        await listening.flush()
        assert await handle.update(Tally.add, 2) == 3
        await listening.flush()
        updated, heard[:] = list(heard), []
        await handle.signal(Tally.note, 4)
        await client.store.connection.flush()
        await listening.flush()
        assert updated[0] != api
        assert heard[0] != api
        assert api in updated
        assert api in heard
        assert await handle.update(Tally.add, 0) == 7


async def test_who_waits_is_sent_the_record_with_its_notice(client: Client, server: NatsServer) -> None:
    """An update and the end of a workflow ask for no record but the one that tells whether they come too late."""
    looks: list[Message] = []

    def hear(request: Message) -> None:
        if handle.id.encode() in request.data:  # a supervisor may be counting all workflows
            looks.append(request)

    async def looked_twice() -> bool:
        return len(looks) == 2

    client._workflow_reader.poll_s = (60.0, 60.0)  # a busy machine is no lost notice
    async with Client.connect(server.url, namespace="looks") as other, Worker(client, workflows=[Tally]):
        handle = await client.start(Tally.run)
        assert await handle.update(Tally.add, 1) == 1
        listening = other.store.connection
        await listening.subscribe(f"$JS.API.DIRECT.GET.{client.store.names.history}", hear)
        await listening.flush()
        assert await handle.update(Tally.add, 2) == 3
        await listening.flush()
        assert len(looks) == 1
        waiting = asyncio.create_task(handle.result(timeout=30))
        await until(looked_twice)
        await handle.signal(Tally.end)
        assert await waiting == 3
        await listening.flush()
        assert len(looks) == 3


async def test_a_notice_of_what_is_known_asks_for_no_look(client: Client, server: NatsServer) -> None:
    """The server republishes a record behind storing it: who looks in between hears of it when it is no news."""
    names, looks, told = client.store.names, list[Message](), list[Message]()

    def hear(request: Message) -> None:
        if handle.id.encode() in request.data:
            looks.append(request)

    async with Client.connect(server.url, namespace="late") as other, Worker(client, workflows=[Tally]):
        listening = other.store.connection
        handle = await client.start(Tally.run)
        await listening.subscribe(names.recorded(handle.id), told.append)
        await listening.flush()
        assert await handle.update(Tally.add, 1) == 1
        await until(lambda: nothing_lies(client, handle.id))
        watching = handle.watch()
        await anext(watching)
        changed = asyncio.ensure_future(anext(watching))
        await asyncio.sleep(0)
        await listening.subscribe(f"$JS.API.DIRECT.GET.{names.history}", hear)
        await listening.flush()
        listening.send(told[-1].subject, told[-1].data, headers=told[-1].headers)
        await listening.flush()
        await client.store.connection.flush()
        await listening.flush()
        assert not looks
        await handle.signal(Tally.end)
        assert (await changed).state == "completed"


async def test_a_namespace_of_before_tells_by_headers_alone(client: Client) -> None:
    """Its stream was made by an older version: who waits asks for the record, and `setup` changes the stream."""
    names, topology = client.store.names, Topology(client.store.connection, client.store.names)
    history = Stream(client.store.connection, names.history)
    config = await history.config()
    assert config is not None
    older = {**config, "republish": {**config["republish"], "headers_only": True}}
    await history.write(older, create=False)
    async with Worker(client, workflows=[Tally]):
        handle = await client.start(Tally.run)
        assert await handle.update(Tally.add, 2) == 2
        await handle.signal(Tally.end)
        assert await handle.result(timeout=30) == 2
    for fields in (("republish",), ()):
        changes = {each.name: each.fields for each in await topology.setup(TopologyOptions())}
        assert changes[names.history] == fields


async def test_what_is_sent_to_one_that_others_have_ended(client: Client, server: NatsServer) -> None:
    """Whoever has started it learns what became of it meanwhile; what was sent is void, for a later life as well."""
    async with Client.connect(server.url, namespace=client.namespace) as other, Worker(client, workflows=[Tally]):
        ended = await client.start(Tally.run.options(id="ended"))
        deleted = await client.start(Tally.run.options(id="deleted"))
        replaced = await client.start(Tally.run.options(id="replaced"))
        theirs = other.workflow("ended", Tally.run)
        await theirs.signal(Tally.end)
        await theirs.result(timeout=30)
        await other.workflow("deleted").terminate()
        await other.workflow("deleted").delete()
        later = await other.start(Tally.run.options(id="replaced", if_exists="replace"))
        for handle, error, message in (
            (ended, WorkflowEnded, "workflow ended has ended: it is completed"),
            (deleted, WorkflowNotFound, "no workflow deleted in namespace"),
            (replaced, WorkflowNotFound, "workflow replaced is gone; its id has been started again"),
        ):
            for _ in range(2):
                with pytest.raises(error, match=message):
                    await handle.signal(Tally.note, 5)
                with pytest.raises(error, match=message):
                    await handle.update(Tally.add, 5)
        assert await later.update(Tally.add, 1) == 1
        for workflow_id in ("ended", "replaced"):
            await until(functools.partial(nothing_lies, client, workflow_id))
        assert await ended.result(timeout=30) == 0


async def test_what_is_sent_too_late_is_taken_back(client: Client, server: NatsServer) -> None:
    """Nothing is left in the inbox for a worker to find, also where none lives any more."""
    handle = await client.start(Tally.run.options(id="ended"))
    async with Client.connect(server.url, namespace=client.namespace) as other:
        await other.workflow("ended").terminate("enough")
        await until(functools.partial(nothing_lies_but_its_end, client, "ended"))
    with pytest.raises(WorkflowEnded):
        await handle.signal(Tally.note, 5)
    assert await nothing_lies_but_its_end(client, "ended")


async def test_what_is_stored_is_not_said_to_be_refused(
    client: Client, server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the line breaks between a signal and the look behind it, its sender learns that it may have been taken."""
    append = Inbox.append
    handle = await client.start(Tally.run)
    async with (
        Proxy(server.port) as proxy,
        Client.connect(proxy.url, namespace=client.namespace) as beyond,
    ):

        async def and_no_more(self: Inbox, *args: Any, **kwargs: Any) -> int:
            seq = await append(self, *args, **kwargs)
            proxy.block(up=True, down=True)
            proxy.cut()
            return seq

        monkeypatch.setattr(Inbox, "append", and_no_more)
        with pytest.raises(OutcomeUnknown):
            await beyond.workflow(handle.id).signal("note", 5)
        proxy.unblock()
    lying = await client.store.inbox.read("Tally", handle.id, set(), whole=True)
    assert [each.given.kind for each in lying] == [InputKind.start, InputKind.signal]


async def nothing_lies_but_its_end(client: Client, workflow_id: str) -> bool:
    lying = await client.store.inbox.read("Tally", workflow_id, set(), whole=True)
    return {each.given.kind for each in lying} <= {InputKind.start, InputKind.terminate}


async def test_a_worker_that_is_quicker_than_the_look(client: Client, server: NatsServer) -> None:
    """An update that is answered before its sender has looked behind it is answered in the record which that finds."""
    ready, recorded, done = threading.Event(), threading.Semaphore(0), threading.Event()

    async def work() -> None:
        async with Client.connect(server.url, namespace=client.namespace) as own, Worker(own, workflows=[Tally]):
            await own.store.connection.subscribe(own.store.names.recorded("t"), lambda _: recorded.release())
            ready.set()
            await asyncio.to_thread(done.wait)

    working = threading.Thread(target=asyncio.run, args=(work(),))
    working.start()
    try:
        assert await asyncio.to_thread(ready.wait, 30)
        handle = await client.start(Tally.run.options(id="t"))
        assert await handle.update(Tally.add, 1) == 1
        newest = await client.store.histories.newest("t")
        assert newest is not None
        for _ in range(newest.record.number + 1):
            assert await asyncio.to_thread(recorded.acquire, timeout=30)
        updating = asyncio.create_task(handle.update(Tally.add, 2))
        for _ in range(3):
            await asyncio.sleep(0)
        assert recorded.acquire(timeout=30)  # it is sent, and this loop stands still meanwhile
        async with asyncio.timeout(30):
            assert await updating == 3
    finally:
        done.set()
        await asyncio.to_thread(working.join)
