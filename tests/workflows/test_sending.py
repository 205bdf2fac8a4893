"""What a client asks of the server when it sends to workflows."""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import approval
from turnout import Client, Worker, WorkflowEnded, WorkflowNotFound, current_workflow, workflow
from turnout.nats.messages import Message
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
        api = f"$JS.API.STREAM.MSG.GET.{names.history}"
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


async def test_what_is_sent_to_one_that_others_have_ended(client: Client, server: NatsServer) -> None:
    """Whoever has started it learns what became of it meanwhile; what was sent is void, for a later life as well."""
    async with Client.connect(server.url, namespace=client.namespace) as other, Worker(client, workflows=[Tally]):
        ended = await client.start(Tally.run.options(id="ended"))
        deleted = await client.start(Tally.run.options(id="deleted"))
        replaced = await client.start(Tally.run.options(id="replaced"))
        theirs = other.workflow("ended", Tally.run)
        await theirs.signal(Tally.end)
        await theirs.result(timeout=10)
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
        assert await ended.result(timeout=10) == 0


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
