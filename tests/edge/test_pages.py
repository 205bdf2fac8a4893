"""Reading whole pages of a stream, unparsed, and walking streams by them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.edge.conftest import Connect
from tests.support.proxy import Proxy
from turnout.nats.connection import Connection, Disconnected, NoResponders, RequestTimeout
from turnout.nats.direct import Page, page_of
from turnout.nats.pages import PAGE, SMALL_PAGE, Backward, few, forward, newest_of, some, stored_since, unhurried
from turnout.testing.server import NatsServer

BODY: dict[str, Any] = {"seq": 1, "batch": 1000, "next_by_subj": ">"}


async def page(connection: Connection, stream: str, **body: Any) -> Page:
    subject = f"$JS.API.DIRECT.GET.{stream}"
    return page_of(await connection.ask_page(subject, {**BODY, **body}), subject)


async def test_a_page_has_what_reading_one_by_one_gives(connection: Connection, stream: str) -> None:
    """Place, time, headers and body are the same, whatever the publisher put into headers of the server's names."""
    forged = {"Nats-Subject": "x", "Nats-Sequence": "9", "Nats-Time-Stamp": "never", "Nats-Num-Pending": "7", "a": "ü"}
    for number, headers in enumerate([None, {"a": "b"}, forged, {"Nats-Stream": "s"}]):
        await connection.store(f"{stream}.{number}", b"x" * number, headers)
    found = await page(connection, stream)
    assert not found.more
    one_by_one = [message async for message in connection.direct_get(stream, BODY)]
    assert [raw.parsed() for raw in found.messages] == one_by_one
    assert [(raw.seq, raw.subject.decode(), raw.time_ns, raw.data) for raw in found.messages] == [
        (each.seq, each.subject, each.time_ns, each.data) for each in one_by_one
    ]


async def test_a_message_that_looks_like_a_notice_ends_nothing(
    connection: Connection, server: NatsServer, stream: str
) -> None:
    """Somebody may publish a header block with a status, as only the server should: what lies behind it is read."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port or 4222), timeout=30) as raw:
        block = b"NATS/1.0 404 Message Not Found\r\na: b\r\n\r\n"
        raw.sendall(b'CONNECT {"headers":true,"verbose":false}\r\n')
        raw.sendall(b"HPUB %s.evil %d %d\r\n%s\r\nPING\r\n" % (stream.encode(), len(block), len(block), block))
        while b"PONG" not in raw.recv(65536):
            pass
    await connection.store(f"{stream}.good", b"good")
    assert [raw.data for raw in (await page(connection, stream)).messages][-1] == b"good"


async def test_there_is_more(connection: Connection, stream: str) -> None:
    """A page says whether the stream goes on behind it; one beyond the end is empty."""
    await asyncio.gather(*(connection.store_nowait(f"{stream}.a", b"") for _ in range(10)))
    assert (await page(connection, stream, batch=9)).more
    assert not (await page(connection, stream, batch=10)).more
    assert await page(connection, stream, seq=11) == Page([], 0)


@pytest.mark.parametrize("count", [0, 1, 2, 700])
async def test_a_few_among_very_many_are_all_that_is_asked_for(
    connect: Connect, connection: Connection, stream: str, count: int
) -> None:
    """Whoever reads the messages of a pattern never asks for more than there are: the server would look for what is
    not there through all that lies behind. The bodies are read off the server itself."""
    for n in range(count):
        await asyncio.gather(
            connection.store(f"{stream}.other.{n}", b""), connection.store(f"{stream}.mine.{n % 600}", b"%d" % n)
        )
    asked: list[int] = []
    other = await connect()
    await other.subscribe(
        f"$JS.API.DIRECT.GET.{stream}", lambda message: asked.append(json.loads(message.data)["batch"])
    )
    found = [raw async for piece in few(connection, stream, f"{stream}.mine.*") for raw in piece]
    assert [int(raw.data) for raw in found] == list(range(count))
    await other.flush()
    assert asked == {0: [1], 1: [1], 2: [1, 2], 700: [1, 256, 256, 188]}[count]


async def test_how_many_were_stored_since(connection: Connection, stream: str) -> None:
    """Counted from an instant on, of a pattern's subjects alone; none where it lies behind all of them."""
    times = []
    for n in range(6):
        await connection.store(f"{stream}.{'ab'[n % 2]}", b"")
        await asyncio.sleep(0.01)
    async for found in forward(connection, stream, f"{stream}.a"):
        times += [raw.time_ns / 1e9 for raw in found]
    since = [times[0] - 60, times[0] + 0.005, times[1] - 0.002, times[2] + 0.005, times[2] + 60]
    assert [await stored_since(connection, stream, f"{stream}.a", each) for each in since] == [3, 2, 2, 0, 0]
    assert await stored_since(connection, stream, f"{stream}.>", times[2] - 0.002) == 2
    assert await stored_since(connection, stream, f"{stream}.none", times[0]) == 0


async def test_walks_give_everything_in_their_order(connection: Connection, stream: str) -> None:
    """Forwards, backwards and by subject, over several pages; leaving early leaves nothing behind."""
    count = 5 * PAGE + 1  # more than one read
    await asyncio.gather(*(connection.store_nowait(f"{stream}.{n % 3_000}", b"%d" % n) for n in range(count)))
    ahead = [raw.seq async for found in forward(connection, stream, f"{stream}.>") for raw in found]
    assert ahead == list(range(1, count + 1))
    assert [raw.seq async for found in forward(connection, stream, f"{stream}.>", count) for raw in found] == [count]
    windows = [[raw.seq for raw in found] async for found in Backward(connection, stream, f"{stream}.>").windows()]
    assert [seq for found in reversed(windows) for seq in found] == ahead
    newest = await newest_of(connection, stream, [f"{stream}.{n}" for n in range(3_500)])
    assert {raw.seq for raw in newest.values()} == set(range(count - 2_999, count + 1))
    for walk in (forward(connection, stream, f"{stream}.>"), Backward(connection, stream, f"{stream}.>").windows()):
        async with contextlib.aclosing(walk):
            async for _ in walk:
                break
    await connection.flush()
    assert len(connection._calls) == 0


async def test_what_is_to_be_skipped_is_left_out(connection: Connection, stream: str) -> None:
    """But for the last of each page, by which its reader knows where to go on: what lies behind is found."""
    wanted = (3, SMALL_PAGE, SMALL_PAGE + 7)
    for number in range(1, 2 * SMALL_PAGE + 10):
        await connection.store(f"{stream}.a", b"wanted" if number in wanted else b"", {"n": str(number)})

    def skip(message: tuple[bytes, bytes]) -> bool:
        data, block = message
        assert b"\r\nn: " in block
        return not data

    found = [[raw.seq for raw in page] async for page in unhurried(connection, stream, f"{stream}.a", skip=skip)]
    assert found == [[3, SMALL_PAGE], [SMALL_PAGE + 7, 2 * SMALL_PAGE], [2 * SMALL_PAGE + 9]]
    some_of = await some(connection, stream, f"{stream}.a", 2, 3, skip=skip)
    assert [raw.seq for raw in some_of.messages] == [3, 4]
    assert some_of.more


async def test_nothing_to_walk(connection: Connection, stream: str) -> None:
    """An empty stream and a subject without messages are walked at once; a stream that isn't there is an error."""
    for subject in (f"{stream}.>", f"{stream}.none"):
        assert [found async for found in forward(connection, stream, subject)] == []
        assert [found async for found in Backward(connection, stream, subject).windows()] == [[]]
    assert await newest_of(connection, stream, [f"{stream}.a"]) == {}
    assert await newest_of(connection, stream, []) == {}
    with pytest.raises(NoResponders):
        await page(connection, "no_such_stream")


async def test_a_page_that_does_not_come(connect: Connect, proxy: Proxy, stream: str) -> None:
    """It fails in time, and at once when the connection is lost; nothing waits on."""
    connection = await connect(proxy.url, watch_interval_s=0.2)
    proxy.block(up=False)
    with pytest.raises((RequestTimeout, Disconnected)):
        await connection.ask_page(f"$JS.API.DIRECT.GET.{stream}", BODY, timeout_s=0.1)
    proxy.unblock()
    await connection.wait_up(timeout_s=30)
    waiting = connection.ask_page("nobody.answers.at.once", BODY)
    proxy.block(up=False)
    proxy.cut()
    with pytest.raises((Disconnected, NoResponders)):
        await waiting
    await asyncio.sleep(0)  # the callbacks of the future
    assert len(connection._calls) == 0
