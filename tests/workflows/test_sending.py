"""What a client asks of the server when it sends to workflows."""

from __future__ import annotations

import asyncio

import pytest

from tests.workflows.definitions import approval
from turnout import Client, WorkflowEnded
from turnout.nats.messages import Message
from turnout.testing import NatsServer

SENT = 50


async def test_signals_that_are_sent_at_once_share_their_looks(client: Client, server: NatsServer) -> None:
    """One look tells all of them that the workflow is there; then each wants one that began behind it, at most."""
    handle = await client.start(approval)
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
    handle = await client.start(approval)
    first, *others = [asyncio.create_task(handle.signal("note", number)) for number in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others, return_exceptions=True) == [None, None]
    with pytest.raises(asyncio.CancelledError):
        await first
    await handle.terminate()
    sent = [handle.signal("note", number) for number in range(3)]
    assert [type(each) for each in await asyncio.gather(*sent, return_exceptions=True)] == [WorkflowEnded] * 3
