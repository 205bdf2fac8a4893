"""The connection under use, misuse and accidents, against a real server."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser

from tests.edge.conftest import Connect, make_stream
from tests.support.proxy import Proxy
from turnout.errors import InvalidValue, OutcomeUnknown, PayloadTooLarge, StorageRefused
from turnout.nats import link as link_module
from turnout.nats.connection import (
    ApiError,
    Connection,
    ConnectOptions,
    Disconnected,
    Message,
    NoResponders,
    RequestTimeout,
    StoreRefused,
    WrongLastSequence,
)
from turnout.testing.server import NatsServer

PATIENCE_S = 30.0
PRIVATE_NAMES = [
    *("_select_next_server", "_connect_to_server", "_process_info"),
    *("_server_pool", "_current_server", "_server_info", "_max_payload", "_status"),
    *("_reading_task", "_ping_interval_task", "_flusher_task", "_transport", "_ps"),
]
QUICK: dict[str, Any] = {"watch_interval_s": 0.2, "reconnect_wait_s": 0.05}


class Switch:
    """Waits for a connection's ups and downs."""

    def __init__(self, connection: Connection) -> None:
        self.downs, self.ups = asyncio.Event(), asyncio.Event()
        connection.on_down(self.downs.set)
        connection.on_up(self.ups.set)

    async def down(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.downs.wait()

    async def up(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.ups.wait()


class Inbox:
    """A callback that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()

    def __call__(self, message: Message) -> None:
        self.messages.put_nowait(message)

    async def get(self) -> Message:
        async with asyncio.timeout(PATIENCE_S):
            return await self.messages.get()


def serve(connection: Connection) -> Callable[[Message], None]:
    """A service that answers with what it was sent."""

    def answer(message: Message) -> None:
        connection.send(message.reply, message.data, headers=message.headers)

    return answer


# -- what it does ------------------------------------------------------------------------------------------------------


async def test_what_is_sent_arrives_in_order_with_its_headers(connect: Connect, connection: Connection) -> None:
    """Messages of one connection arrive in order, with data, reply and headers as they were given."""
    inbox, other = Inbox(), await connect()
    await connection.subscribe("order.*", inbox)
    for number in range(1000):
        other.send("order.a", b"%d" % number, headers={"Name": "Zoë", "n": str(number)}, reply="back.here")
    received = [await inbox.get() for _ in range(1000)]
    assert [int(message.data) for message in received] == list(range(1000))
    seventh = received[7]
    assert (seventh.subject, seventh.reply, seventh.data) == ("order.a", "back.here", b"7")
    assert (seventh.headers, seventh.status) == ({"Name": "Zoë", "n": "7"}, None)


async def test_what_is_urgent_goes_out_at_once_where_little_goes_on(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request after a quiet read is with the transport when the call returns, with all that waited."""
    written: list[bytes] = []

    class Wire:
        """The transport's writing half, before the kernel."""

        def write(self, data: bytes) -> None:
            written.append(data)

        def get_write_buffer_size(self) -> int:
            return 0

    await connection.flush()
    link = connection._link
    assert link is not None
    monkeypatch.setattr(link, "_out_transport", Wire())
    link.write(b"PING\r\n")
    assert written == []
    link.write(b"PING ", b"\r\n", urgent=True)
    assert written == [b"PING\r\nPING \r\n"]
    for urgent in (False, True, False):  # the second of its kind waits, as all else does
        link.write(b"PING\r\n", urgent=urgent)
    assert len(written) == 1
    await asyncio.sleep(0)
    assert written[1:] == [b"PING\r\n" * 3]


async def test_what_is_urgent_overtakes_nothing(connect: Connect, connection: Connection) -> None:
    """A request goes out at once where little goes on, behind all that was sent before it and before what follows."""
    inbox, other = Inbox(), await connect()
    await other.subscribe("urgent.*", inbox)
    sent: list[bytes] = []
    for number in range(200):
        await connection.flush()  # one answer, so that the next request finds a quiet connection
        for kind in ("send", "request", "request", "send")[number % 4 :]:
            sent.append(f"{number} {kind} {len(sent)}".encode())
            if kind == "send":
                connection.send("urgent.a", sent[-1])
            else:
                connection.request_nowait("urgent.a", sent[-1]).cancel()
    assert [(await inbox.get()).data for _ in sent] == sent


async def test_a_request_gets_its_own_answer(connect: Connect, connection: Connection) -> None:
    """Of many requests in flight each gets the answer to itself, and nothing is kept afterwards."""
    other = await connect()
    await other.subscribe("echo", serve(other), queue="echoers")
    futures = [connection.request_nowait("echo", b"%d" % number) for number in range(500)]
    assert [int((await future).data) for future in futures] == list(range(500))
    assert (await connection.request("echo", b"x", headers={"A": "b"})).headers == {"A": "b"}
    assert len(connection._calls) == 0


async def test_a_subject_without_a_listener_is_told_apart_from_silence(connection: Connection) -> None:
    """Nobody there is NoResponders at once; somebody silent is RequestTimeout, whose outcome is unknown."""
    with pytest.raises(NoResponders, match=r"nobody\.home"):
        await connection.request("nobody.home")
    await connection.subscribe("silent", lambda message: None)
    with pytest.raises(RequestTimeout) as caught:
        await connection.request("silent", timeout_s=0.05)
    assert isinstance(caught.value, OutcomeUnknown)
    assert len(connection._calls) == 0


async def test_a_pipelined_request_does_not_wait_for_ever(connect: Connect) -> None:
    """A future of request_nowait or store_nowait fails after its timeout, and one nobody wants is forgotten."""
    connection = await connect(**QUICK)
    await connection.subscribe("silent", lambda message: None)
    dropped = connection.request_nowait("silent")
    dropped.cancel()
    for future in (
        connection.request_nowait("silent", timeout_s=0.1),
        connection.store_nowait("silent", b"", timeout_s=0.1),
    ):
        with pytest.raises(RequestTimeout):
            await future
    assert len(connection._calls) == 0


async def test_closing_a_subscription_ends_it(connection: Connection) -> None:
    """After close no message reaches the callback, and closing again is harmless."""
    inbox = Inbox()
    subscription = await connection.subscribe("some", inbox)
    await subscription.close()
    await subscription.close()
    connection.send("some")
    await connection.flush()
    assert inbox.messages.empty()


async def test_a_stored_message_reads_back_exactly(connection: Connection, stream: str) -> None:
    """store, get_message and direct_get agree on sequence, instant, headers and data."""
    ack = await connection.store(f"{stream}.a", b"\x00\xff", {"Turnout-X": "Ü", "Nats-Msg-Id": "1"})
    assert (ack.stream, ack.seq, ack.duplicate) == (stream, 1, False)
    assert (await connection.store(f"{stream}.a", b"again", {"Nats-Msg-Id": "1"})).duplicate
    stored = await connection.get_message(stream, seq=1)
    assert stored is not None
    assert (stored.subject, stored.seq, stored.data) == (f"{stream}.a", 1, b"\x00\xff")
    assert stored.headers == {"Turnout-X": "Ü", "Nats-Msg-Id": "1"}
    assert abs(stored.time_ns / 1e9 - connection.now()) < 5
    assert await connection.get_message(stream, last_by_subj=f"{stream}.*") == stored
    assert await connection.get_message(stream, next_by_subj=f"{stream}.>") == stored
    assert await connection.get_message(stream, next_by_subj=f"{stream}.>", direct=True) == stored
    assert [m async for m in connection.direct_get(stream, {"last_by_subj": f"{stream}.a"})] == [stored]


async def test_what_is_not_there_reads_as_none(connection: Connection, stream: str) -> None:
    """A missing message is None or an empty batch; a missing stream is an error."""
    assert await connection.get_message(stream, seq=7) is None
    assert await connection.get_message(stream, last_by_subj=f"{stream}.none") is None
    assert await connection.get_message(stream, last_by_subj=f"{stream}.none", direct=True) is None
    assert [m async for m in connection.direct_get(stream, {"multi_last": [f"{stream}.none"]})] == []
    assert [m async for m in connection.direct_get(stream, {"seq": 1, "next_by_subj": f"{stream}.>", "batch": 5})] == []
    with pytest.raises(ApiError) as caught:
        await connection.get_message("no_such_stream", seq=1)
    assert caught.value.err_code == 10059
    with pytest.raises(NoResponders):
        _ = [m async for m in connection.direct_get("no_such_stream", {"multi_last": ["a"]})]
    with pytest.raises(NoResponders):
        await connection.get_message("no_such_stream", last_by_subj="a", direct=True)


async def test_a_status_that_a_publisher_has_written_hides_no_message(connection: Connection, stream: str) -> None:
    """A direct read of one finds what lies there."""
    notice = b"NATS/1.0 404 nothing\r\n\r\n"
    reply = connection.new_inbox()
    link = connection._live()
    link.write(b"HPUB %b.a %b %d %d\r\n%b\r\n" % (stream.encode(), reply.encode(), len(notice), len(notice), notice))
    await connection.flush()
    stored = await connection.get_message(stream, next_by_subj=f"{stream}.>", direct=True)
    assert stored is not None
    assert stored.seq == 1


async def test_many_messages_read_in_one_batch(connection: Connection, stream: str) -> None:
    """A batch yields the messages in order, ends at its end, and can be left early without leaving anything behind."""
    futures = [connection.store_nowait(f"{stream}.{number % 10}", b"%d" % number) for number in range(300)]
    assert [ack.seq for ack in await asyncio.gather(*futures)] == list(range(1, 301))
    page = {"seq": 100, "next_by_subj": f"{stream}.>", "batch": 150}
    assert [m.seq async for m in connection.direct_get(stream, page)] == list(range(100, 250))
    last = {m.subject: m.seq async for m in connection.direct_get(stream, {"multi_last": [f"{stream}.*"]})}
    assert last == {f"{stream}.{number % 10}": number + 1 for number in range(290, 300)}
    batch = connection.direct_get(stream, page)
    await anext(batch)
    await batch.aclose()  # type: ignore[attr-defined]
    await connection.flush()
    assert len(connection._calls) == 0


async def test_a_batch_of_any_size_is_complete(connection: Connection, stream: str) -> None:
    """What is more than the server sends in one go is fetched in rounds: nothing is missing, nothing comes twice."""
    chunk = b"x" * 500_000
    await asyncio.gather(*[connection.store_nowait(f"{stream}.{number}", chunk) for number in range(60)])
    for body in ({"seq": 1, "next_by_subj": f"{stream}.>", "batch": 100}, {"multi_last": [f"{stream}.>"]}):
        assert [m.seq async for m in connection.direct_get(stream, body)] == list(range(1, 61))
    body = {"seq": 3, "next_by_subj": f"{stream}.*", "batch": 40}
    assert [m.seq async for m in connection.direct_get(stream, body)] == list(range(3, 43))


async def test_a_subject_that_moves_while_it_is_read_comes_once(connection: Connection, stream: str) -> None:
    """Reading the last message of each subject yields no subject twice and misses none, though they are rewritten."""
    await asyncio.gather(*[connection.store_nowait(f"{stream}.{number}", b"") for number in range(20)])
    seen = []
    async for message in connection.direct_get(stream, {"multi_last": [f"{stream}.>"], "max_bytes": 200}):
        seen.append(message.subject)
        await connection.store(f"{stream}.{len(seen) % 20}", b"")
    assert sorted(seen) == sorted(f"{stream}.{number}" for number in range(20))


async def test_a_publisher_cannot_pose_as_the_server(connection: Connection, stream: str) -> None:
    """Headers of a message that look like those of a direct read do not change what it says of the message."""
    await connection.store(f"{stream}.a", b"", {"Nats-Sequence": "99", "Nats-Subject": "else"})
    (stored,) = [m async for m in connection.direct_get(stream, {"multi_last": [f"{stream}.a"]})]
    assert (stored.seq, stored.subject) == (1, f"{stream}.a")


async def test_refusals_of_jetstream_are_typed(connection: Connection, stream: str) -> None:
    """A lost compare-and-set, a full stream and an oversized message are told apart by their type."""
    await connection.store(f"{stream}.a", b"")
    for headers in ({"Nats-Expected-Last-Subject-Sequence": "0"}, {"Nats-Expected-Last-Sequence": "9"}):
        with pytest.raises(WrongLastSequence) as caught:
            await connection.store(f"{stream}.a", b"", headers)
        assert caught.value.last == 1
    full = f"{stream}full"
    await make_stream(connection, full, max_msgs=1, discard="new", max_msg_size=10)
    await connection.store(f"{full}.a", b"")
    with pytest.raises(StoreRefused) as refused:
        await connection.store(f"{full}.a", b"")
    assert isinstance(refused.value, StorageRefused)
    with pytest.raises(PayloadTooLarge):
        await connection.store(f"{full}.a", b"x" * 11)
    with pytest.raises(NoResponders):
        await connection.store("of.no.stream", b"")
    with pytest.raises(ApiError):
        await connection.api("STREAM.CREATE.a", {"name": "b"})
    await connection.api(f"STREAM.DELETE.{full}")


async def test_an_odd_answer_to_a_publish_is_an_error(connection: Connection) -> None:
    """Something that is no stream and answers with anything cannot pass for stored."""
    await connection.subscribe("echo", serve(connection))
    for data in (b"", b"{}", b"[]", b"not json", b'"x"'):
        with pytest.raises(ApiError):
            await connection.store("echo", data)


async def test_the_clock_follows_the_server(connection: Connection, stream: str) -> None:
    """After sync_clock the offset to a server on this very machine is next to nothing."""
    connection.clock.offset_s = 1000.0
    await connection.sync_clock(stream)
    assert abs(connection.now() - time.time()) < 0.5


async def test_close_loses_nothing_that_was_sent(connect: Connect, connection: Connection) -> None:
    """What was sent before close arrives; what comes after is refused; closing twice is fine."""
    inbox, other = Inbox(), await connect()
    await connection.subscribe("last.words", inbox)
    for number in range(2000):
        other.send("last.words", b"%d" % number)
    waiting = other.request_nowait("last.words")
    await other.close()
    await other.close()
    assert [int((await inbox.get()).data) for _ in range(2000)][-1] == 1999
    with pytest.raises(Disconnected):
        await waiting
    calls: list[Awaitable[Any]] = [other.wait_up(), other.flush(), other.subscribe("a", inbox), other.request("a")]
    for call in calls:
        with pytest.raises(Disconnected, match="closed"):
            await call
    with pytest.raises(Disconnected):
        other.send("a")


# -- what would end nats-py's connection -------------------------------------------------------------------------------


def test_nats_py_still_has_the_private_names_that_are_used() -> None:
    """The installed nats-py has every private name and signature that link.py relies on."""
    client = Client()
    for name in PRIVATE_NAMES:
        assert hasattr(client, name), name
    used = set(re.findall(r"client\.(_[a-z_]+)", Path(link_module.__file__).read_text()))
    assert used <= set(PRIVATE_NAMES)
    assert Client._process_info.__code__.co_varnames[:3] == ("self", "info", "initial_connection")
    assert {"_io_writer", "_io_reader"} <= set(TcpTransport.__init__.__code__.co_names)
    assert isinstance(client._ps, Parser)
    assert isinstance(client._ps.buf, bytearray)


async def test_what_the_server_would_punish_is_refused_before_it_is_sent(connection: Connection) -> None:
    """Too much payload with headers, a long subject, or an injected line is an error and the connection lives."""
    inbox, most = Inbox(), connection.max_payload
    await connection.subscribe("size", inbox)
    block = len(b"NATS/1.0\r\na: b\r\n\r\n")
    with pytest.raises(PayloadTooLarge):
        connection.send("size", b"x" * (most + 1))
    with pytest.raises(PayloadTooLarge):
        await connection.store("size", b"x" * (most - block + 1), {"a": "b"})
    subjects = ["", "a b", "a\r\nPUB x 0\r\n", "a..b", ".a", "a.", "a.*", ">", "s" * 4096, "\x00"]
    for subject in subjects:
        with pytest.raises(InvalidValue):
            connection.send(subject)
        with pytest.raises(InvalidValue):
            await connection.request(subject)
    for headers in ({"a b": "c"}, {"": "c"}, {"é": "c"}, {"a:": "b"}, {"a": "b\r\nc: d"}, {"a\n": "b"}):
        with pytest.raises(InvalidValue):
            connection.send("size", headers=headers)
    for reply in ("a b", "x\r\n"):
        with pytest.raises(InvalidValue):
            connection.send("size", reply=reply)
    for subject in ("", "a b", "a.>.b", "a.b*", "s" * 4096):
        with pytest.raises(InvalidValue):
            await connection.subscribe(subject, inbox)
    with pytest.raises(InvalidValue):
        await connection.subscribe("a", inbox, queue="q q")

    connection.send("size", b"x" * most)
    connection.send("size", b"x" * (most - block), headers={"a": "b"})
    connection.send("s" * 4080, b"long")
    assert len((await inbox.get()).data) == most
    assert len((await inbox.get()).data) == most - block
    await connection.flush()
    assert (connection.up, connection.epoch, len(connection._calls)) == (True, 1, 0)


async def test_headers_of_the_caller_are_only_read(connection: Connection, stream: str) -> None:
    """No call adds to or changes the headers it was given."""
    headers = {"Nats-Msg-Id": "a", "x": " padded "}
    await connection.store(f"{stream}.a", b"", headers)
    connection.send(f"{stream}.a", headers=headers)
    assert headers == {"Nats-Msg-Id": "a", "x": " padded "}


async def test_a_raising_callback_harms_nobody(connect: Connect, proxy: Proxy) -> None:
    """Callbacks that raise, for messages, ups and downs, are logged; the connection and the others go on."""
    connection = await connect(proxy.url, **QUICK)
    inbox, other = Inbox(), await connect()

    def bug(*_: Any) -> None:
        raise RuntimeError("a bug in a callback")

    connection.on_down(bug)
    connection.on_up(bug)
    switch = Switch(connection)
    await connection.subscribe("raise", bug)
    await connection.subscribe("raise", inbox)
    other.send("raise", b"1")
    await inbox.get()
    proxy.cut()
    await switch.down()
    await switch.up()
    await connection.flush()  # the renewed subscriptions are known to the server
    other.send("raise", b"2")
    assert (await inbox.get()).data == b"2"


async def test_a_listener_can_be_taken_back(connect: Connect, proxy: Proxy) -> None:
    """What on_down and on_up return removes the callback."""
    connection = await connect(proxy.url, **QUICK)
    heard: list[str] = []
    forget_down, forget_up = (
        connection.on_down(lambda: heard.append("down")),
        connection.on_up(lambda: heard.append("up")),
    )
    forget_down()
    forget_down()
    forget_up()
    switch = Switch(connection)
    proxy.cut()
    await switch.up()
    assert heard == []


# -- accidents ---------------------------------------------------------------------------------------------------------


async def test_it_is_up_again_after_the_server_was_killed(server: NatsServer, connect: Connect) -> None:
    """Across a server's death: in flight fails at once, sends are refused, and after it everything works anew."""
    connection = await connect(**QUICK)
    switch, inbox = Switch(connection), Inbox()
    await connection.subscribe("again", inbox)
    await connection.subscribe("silent", lambda message: None)
    in_flight: list[asyncio.Future[Any]] = [connection.request_nowait("silent"), connection.store_nowait("silent", b"")]
    in_flight.append(asyncio.create_task(connection.request("silent", timeout_s=60)))
    await connection.flush()
    server.kill()
    await switch.down()
    for future in in_flight:
        with pytest.raises(Disconnected):
            await future
    assert not connection.up
    with pytest.raises(Disconnected):
        connection.send("again", b"while down")
    with pytest.raises(Disconnected):
        await connection.wait_up(timeout_s=0.1)
    late = Inbox()
    await connection.subscribe("again", late)  # made at the next connect
    server.start()
    async with asyncio.timeout(PATIENCE_S):
        await connection.wait_up()
    assert connection.epoch == 2
    connection.send("again", b"after")
    assert (await inbox.get()).data == b"after"  # and not what was refused while it was down
    assert (await late.get()).data == b"after"
    assert (await connection.api("INFO"))["api"]


@pytest.mark.parametrize("direction", ["both", "up", "down"])
async def test_a_black_hole_is_noticed_and_left(connect: Connect, proxy: Proxy, direction: str) -> None:
    """Silence in either direction, with megabytes unsent, ends the link in a few watch intervals; then it is back."""
    connection = await connect(proxy.url, **QUICK)
    switch = Switch(connection)
    proxy.block(up=direction != "down", down=direction != "up")
    for _ in range(20):
        connection.send("nowhere", b"x" * connection.max_payload)
    started = asyncio.get_running_loop().time()
    await switch.down()
    assert asyncio.get_running_loop().time() - started < 6  # the kernel's patience is 8
    with pytest.raises(Disconnected):
        connection.send("nowhere")
    proxy.unblock()
    await switch.up()
    assert await connection.api("INFO")


async def test_a_frozen_server_is_noticed(server: NatsServer, connect: Connect) -> None:
    """A server that is stopped but keeps its sockets counts as gone, until it goes on."""
    connection = await connect(**QUICK)
    switch = Switch(connection)
    server.pause()
    await switch.down()
    server.resume()
    await switch.up()
    assert await connection.api("INFO")


async def test_the_kernel_gives_up_on_unacknowledged_data(connect: Connect, proxy: Proxy) -> None:
    """TCP_USER_TIMEOUT is set on the socket, and on that of every later link."""
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("this system has no TCP_USER_TIMEOUT; the watchdog alone protects there")
    connection = await connect(proxy.url, **QUICK)
    switch = Switch(connection)

    def user_timeout() -> int:
        assert connection._link is not None
        transport = connection._link.transport()
        assert transport is not None
        raw = transport.get_extra_info("socket")
        return int(raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    assert user_timeout() == link_module.TCP_USER_TIMEOUT_MS
    proxy.cut()
    await switch.up()
    assert user_timeout() == link_module.TCP_USER_TIMEOUT_MS


async def test_a_late_pong_is_nothing_special(connect: Connect, proxy: Proxy) -> None:
    """A PONG that comes after its flush has given up neither kills the read loop nor answers a later flush."""
    connection = await connect(proxy.url)
    proxy.block(up=False)
    for _ in range(3):
        with pytest.raises(RequestTimeout):
            await connection.flush(timeout_s=0.05)
    proxy.unblock()
    await connection.flush()
    inbox = Inbox()
    await connection.subscribe("alive", inbox)
    connection.send("alive")
    await inbox.get()
    assert connection.epoch == 1


async def test_a_blocked_event_loop_does_not_cost_the_connection(connect: Connect) -> None:
    """User code that blocks the loop for many watch intervals is not taken for a silent server."""
    connection = await connect(**QUICK)
    for _ in range(3):
        time.sleep(1.0)  # the very thing that is tested
        await connection.flush()
    assert connection.epoch == 1


async def test_a_slow_line_is_not_a_dead_one(connect: Connect, proxy: Proxy) -> None:
    """Latency of more than a watch interval is tolerated."""
    connection = await connect(proxy.url, watch_interval_s=0.5)
    proxy.latency_s = 0.3  # each way
    for _ in range(4):
        await connection.flush()
    assert connection.epoch == 1


async def test_close_does_not_wait_for_a_dead_line(connect: Connect, proxy: Proxy) -> None:
    """On a black hole with unsent data, close still ends within a few seconds."""
    connection = await connect(proxy.url, watch_interval_s=30)  # so that it is not the watchdog that ends it
    proxy.block()
    connection.send("nowhere", b"x" * connection.max_payload)
    started = asyncio.get_running_loop().time()
    await connection.close()
    assert asyncio.get_running_loop().time() - started < 7  # nor the kernel, whose patience is 8


async def test_close_while_reconnecting(server: NatsServer, connect: Connect) -> None:
    """Closing while there is no server ends the dialling, and tells who waits for the connection to come up."""
    connection = await connect(**QUICK)
    switch = Switch(connection)
    server.kill()
    await switch.down()
    waiting = asyncio.create_task(connection.wait_up())
    async with asyncio.timeout(PATIENCE_S):
        await connection.close()
        with pytest.raises(Disconnected):
            await waiting


@pytest.fixture
def drops_a_cancel(monkeypatch: pytest.MonkeyPatch) -> Callable[[], asyncio.Event]:
    """From the call on whoever dials is refused once it is cancelled, and not before; the event tells that one does."""

    def begin() -> asyncio.Event:
        dialling = asyncio.Event()

        async def refused(*_: Any, **__: Any) -> Any:
            dialling.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise ConnectionRefusedError from None

        monkeypatch.setattr(TcpTransport, "connect", refused)
        return dialling

    return begin


async def test_close_ends_the_reconnect_where_its_cancel_is_lost(
    server: NatsServer, connect: Connect, drops_a_cancel: Callable[[], asyncio.Event]
) -> None:
    """`asyncio.wait_for`, by which nats-py connects, may drop a cancel: `close` would wait for ever."""
    connection = await connect(server.url, **QUICK)
    dialling = drops_a_cancel()
    await asyncio.to_thread(server.kill)
    async with asyncio.timeout(PATIENCE_S):
        await dialling.wait()
        await connection.close()
    with pytest.raises(Disconnected, match="closed"):
        await connection.request("x")


async def test_a_cancel_of_a_connect_that_fails_at_that_moment_is_heard(
    drops_a_cancel: Callable[[], asyncio.Event],
) -> None:
    """Whoever is cancelled while it connects is cancelled, and does not go on with a refusal."""
    dialling = drops_a_cancel()
    connecting = asyncio.create_task(Connection.open(ConnectOptions(servers=("nats://127.0.0.1:1",)), name="test"))
    async with asyncio.timeout(PATIENCE_S):
        await dialling.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


async def test_storing_goes_on_over_cuts(connect: Connect, proxy: Proxy, stream: str) -> None:
    """Cut again and again, a writer that resends under the same id has every message stored exactly once."""
    connection = await connect(proxy.url, **QUICK)

    async def persist(number: int) -> None:
        while True:
            await connection.wait_up()
            try:
                await connection.store(f"{stream}.a", b"", {"Nats-Msg-Id": str(number)}, timeout_s=1.0)
            except (Disconnected, RequestTimeout, NoResponders):
                continue
            return

    for start in range(0, 300, 50):
        switch = Switch(connection)
        writers = [asyncio.create_task(persist(number)) for number in range(start, start + 50)]
        await asyncio.wait(writers, return_when=asyncio.FIRST_COMPLETED)
        proxy.cut()
        await switch.down()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*writers)
            await connection.wait_up()
    assert connection.epoch >= 7
    info = await connection.api(f"STREAM.INFO.{stream}")
    assert info["state"]["messages"] == 300


def test_all_of_it_works_under_uvloop(server: NatsServer) -> None:
    """Send, request, store, loss by cut and by black hole, and close work on uvloop as well."""

    async def scenario() -> None:
        async with Proxy(server.port) as proxy:
            connection = await Connection.open(ConnectOptions(servers=(proxy.url,), **QUICK), name="uvloop")
            await make_stream(connection, "uv")
            await connection.subscribe("echo", serve(connection))
            accidents: list[Callable[[], None]] = [proxy.cut, proxy.block]
            for accident in accidents:
                switch = Switch(connection)
                assert (await connection.request("echo", b"a")).data == b"a"
                assert (await connection.store("uv.a", b"")).seq
                accident()
                await switch.down()
                proxy.unblock()
                await switch.up()
            await connection.api("STREAM.DELETE.uv")
            await connection.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


async def test_a_second_server_takes_over(connect: Connect, server: NatsServer) -> None:
    """With several addresses a dead one is passed over, at open and after a loss."""
    async with Proxy(server.port) as first, Proxy(server.port) as second:
        servers = ("nats://127.0.0.1:1", first.url, second.url)
        options = ConnectOptions(servers=servers, connect_timeout_s=3, **QUICK)  # the blocked one costs all of it
        connection = await Connection.open(options, name="test")
        switch = Switch(connection)
        first.block()
        first.cut()
        await switch.up()
        assert connection._link is not None
        assert connection._link.server == second.url
        await connection.close()
