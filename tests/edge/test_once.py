"""A message is stored once, whatever becomes of the answer; any stream will do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.edge.conftest import Connect
from tests.support.proxy import Proxy
from tests.support.waiting import until
from turnout.nats.connection import Connection
from turnout.nats.messages import EXPECTED
from turnout.nats.once import SubjectTaken, store_alone, store_once
from turnout.nats.stream import MSG_ID, Stream


async def test_what_was_stored_before_its_answer_got_lost_is_our_own(
    connection: Connection, connect: Connect, proxy: Proxy, stream: str
) -> None:
    """It is sent again, found by its id, and stored once; where the server has forgotten that, the subject tells."""
    far = await connect(proxy.url)
    storing: list[tuple[str, Callable[[str], Awaitable[object]]]] = [
        ("once", lambda subject: store_once(far, subject, b"x", {MSG_ID: "first"})),
        ("alone", lambda subject: store_alone(far, stream, subject, b"x", {MSG_ID: "second", EXPECTED: "0"})),
    ]
    for count, (name, store) in enumerate(storing, start=1):
        proxy.block(up=False)
        stored = asyncio.ensure_future(store(f"{stream}.{name}"))

        async def arrived(count: int = count) -> bool:
            return await Stream(connection, stream).last_seq() == count

        await until(arrived)
        assert not stored.done()
        proxy.cut()
        proxy.unblock()
        await asyncio.wait_for(stored, 30)
        assert await arrived()


async def test_a_subject_that_holds_another_message_is_taken(connection: Connection, stream: str) -> None:
    """Of two who store there one is told so; who stores the same again is not."""
    subject = f"{stream}.alone"
    assert await store_alone(connection, stream, subject, b"x", {MSG_ID: "mine", EXPECTED: "0"}) is not None
    await store_alone(connection, stream, subject, b"x", {MSG_ID: "mine", EXPECTED: "0"})
    with pytest.raises(SubjectTaken, match="already carries another message"):
        await store_alone(connection, stream, subject, b"y", {MSG_ID: "other's", EXPECTED: "0"})
    assert await Stream(connection, stream).last_seq() == 1
