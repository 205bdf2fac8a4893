"""A connection to the server in memory: what the rest of turnout uses, without bytes in between.

It asks the streams themselves, where a real one sends requests and parses the answers. Its questions and answers take
their way over the server's network, and come late, or never, as that has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from turnout.errors import TurnoutError
from turnout.nats import messages
from turnout.nats.clock import Alarm, ServerClock
from turnout.nats.connection import Connection
from turnout.nats.link import ConnectOptions
from turnout.nats.listeners import Listeners
from turnout.nats.messages import Disconnected, Message, PubAck, StoredMessage
from turnout.nats.permissions import Violation
from turnout.nats.requests import Answers, no_answer, no_responders
from turnout.nats.subscription import Subscription
from turnout.testing.memory import api
from turnout.testing.memory.refusal import NoResponders, Refusal
from turnout.testing.memory.server import NO_RESPONDERS, MemoryServer
from turnout.testing.memory.stream import Stream

T = TypeVar("T")

_TIMEOUT_S = 5.0
_NOWAIT_TIMEOUT_S = 10.0
_EXPIRE_EVERY_S = 2.0
_INBOX_SID = 1
_NO_HEADERS: Mapping[str, str] = {}


class _Call:
    """A request that is not answered yet."""

    __slots__ = ("asked", "deadline", "future")

    def __init__(self, future: asyncio.Future[Any], asked: str, deadline: float) -> None:
        self.future = future
        self.asked = asked
        self.deadline = deadline


class MemoryConnection(Connection):
    """A connection that is up again as soon as the server can be reached. Made by `MemoryConnection.connect`.

    `context` is that of whoever has made it: what arrives is dealt with there.
    """

    def __init__(self, server: MemoryServer, options: ConnectOptions, name: str) -> None:
        self.epoch = 0
        self.max_payload = 1024 * 1024
        self.server_version = (2, 15, 1)
        self.clock = ServerClock()
        self.name = name
        self.context = contextvars.copy_context()
        self.party: object = self
        self._server = server
        self._options = options
        self.loop = asyncio.get_running_loop()
        self._connected = False
        self._closing = False
        self._why = "not connected yet"
        self._pending: dict[_Call, None] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._inbox = f"{self.new_inbox()}."
        self._asked: dict[str, _Call] = {}
        self._numbers = itertools.count(2)
        self._listening: dict[int, tuple[str, str, Callable[[Message], None]]] = {}
        self._up = asyncio.Event()
        self._on_up = Listeners()
        self._on_down = Listeners()

    @classmethod
    async def connect(cls, server: MemoryServer, options: ConnectOptions, name: str) -> MemoryConnection:
        """Connect; waits for a server that is away."""
        connection = cls(server, options, name)
        connection.try_now()
        await connection.wait_up()
        return connection

    # -- being connected -----------------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        return self._connected

    @property
    def closed(self) -> bool:
        return self._closing

    @property
    def violations(self) -> tuple[Violation, ...]:
        return ()

    def on_refused(self, callback: Callable[[Violation], None]) -> Callable[[], None]:
        """Nothing is ever refused here."""
        return lambda: None

    @property
    def servers(self) -> tuple[str, ...]:
        return ("memory",)

    async def flush(self, *, timeout_s: float = _TIMEOUT_S) -> None:
        await self._ask_server("a PING", timeout_s, int)

    def new_inbox(self) -> str:
        return f"{self._options.inbox_prefix}.{self._server.next_number()}"

    async def close(self) -> None:
        self._closing = True
        if self._connected:
            await self._round_trip()
        self._server.disconnected(self)
        self.lose("it was closed")
        self._up.set()

    async def wait_up(self, *, timeout_s: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not self._connected:
                    if self._closing:
                        raise self._down()
                    await self._up.wait()
        except TimeoutError:
            raise self._down() from None

    def on_up(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._on_up.add(callback)

    def on_down(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._on_down.add(callback)

    def try_now(self) -> None:
        """Connect if the server can be reached, else try again later."""
        if self._closing or self._connected:
            return
        if not self._server.network.connects(self):
            self.loop.call_later(self._server.network.pause_s(self), self.try_now)
            return
        self._connected = True
        self.epoch += 1
        self._server.connected(self)
        self._server.subscribe(self, _INBOX_SID, self._inbox + "*")
        for sid, (subject, queue, _) in self._listening.items():
            self._server.subscribe(self, sid, subject, queue)
        self._up.set()
        if self.epoch > 1:
            self._on_up.tell()

    def lose(self, reason: str) -> None:
        """The connection is gone, whoever ended it: what is under way has an unknown outcome."""
        if not self._connected:
            return
        self._connected = False
        self._up.clear()
        self._why = reason
        self._server.disconnected(self)
        pending, self._pending = self._pending, {}
        self._asked.clear()
        for call in pending:
            if not call.future.done():
                call.future.set_exception(self._down())
        self._on_down.tell()
        if not self._closing:
            self.loop.call_later(self._server.network.pause_s(self), self.try_now)

    def _down(self) -> Disconnected:
        return Disconnected(f"not connected to NATS: {self._why}")

    # -- asking --------------------------------------------------------------------------------------------------------

    def _begin(self, asked: str, timeout_s: float) -> _Call:
        if not self._connected:
            raise self._down()
        call = _Call(self.loop.create_future(), asked, self.loop.time() + timeout_s)
        self._pending[call] = None
        if timeout_s < _TIMEOUT_S:
            timer = self.loop.call_later(timeout_s, self._give_up, call)
            call.future.add_done_callback(lambda _: timer.cancel())
        elif self._expiry is None:
            self._expiry = self.loop.call_later(_EXPIRE_EVERY_S, self._expire)
        return call

    def _ask_server(
        self, asked: str, timeout_s: float, serve: Callable[..., Any], *args: object
    ) -> asyncio.Future[Any]:
        call = self._begin(asked, timeout_s)
        self._server.network.to_server(self, self._serve, call, serve, args)
        return call.future

    def _serve(self, call: _Call, serve: Callable[..., Any], args: tuple[object, ...]) -> None:
        """What the server does when the question is there."""
        value: object = None
        error: TurnoutError | None = None
        self._server.speaker = self
        try:
            value = serve(*args)
        except Refusal as refusal:
            error = messages.api_error(refusal.body(), call.asked)
        except NoResponders:
            error = no_responders(call.asked)
        finally:
            self._server.speaker = None
        self._server.network.to_client(self, self._answered, call, value, error)

    def _answered(self, call: _Call, value: object, error: TurnoutError | None) -> None:
        if call not in self._pending:
            return
        del self._pending[call]
        if call.future.done():
            return
        if error is not None:
            call.future.set_exception(error)
        else:
            call.future.set_result(value)

    def _give_up(self, call: _Call) -> None:
        self._pending.pop(call, None)
        if not call.future.done():
            call.future.set_exception(no_answer(call.asked))

    def _expire(self) -> None:
        now = self.loop.time()
        for call in [call for call in self._pending if call.deadline <= now or call.future.done()]:
            self._give_up(call)
        self._expiry = self.loop.call_later(_EXPIRE_EVERY_S, self._expire) if self._pending else None

    def send(
        self, subject: str, data: bytes = b"", *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        if not self._connected:
            raise self._down()
        messages.check_subject(subject)
        self._server.network.to_server(self, self._hear, subject, data, headers or _NO_HEADERS, reply)

    def _hear(self, subject: str, data: bytes, headers: Mapping[str, str], reply: str) -> None:
        self._server.speaker = self
        try:
            self._server.publish(subject, data, headers, reply)
        finally:
            self._server.speaker = None

    def request_nowait(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _NOWAIT_TIMEOUT_S,
    ) -> asyncio.Future[Message]:
        messages.check_subject(subject)
        call = self._begin(subject, timeout_s)
        reply = f"{self._inbox}{next(self._numbers)}"
        self._asked[reply] = call
        call.future.add_done_callback(lambda _: self._asked.pop(reply, None))
        self._server.network.to_server(self, self._hear, subject, data, headers or _NO_HEADERS, reply)
        return call.future

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> Message:
        return await self.request_nowait(subject, data, headers=headers, timeout_s=timeout_s)

    async def store(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, *, timeout_s: float = _TIMEOUT_S
    ) -> PubAck:
        return await self.store_nowait(subject, data, headers, timeout_s=timeout_s)

    def store_nowait(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = _NOWAIT_TIMEOUT_S,
    ) -> asyncio.Future[PubAck]:
        messages.check_subject(subject)
        return self._ask_server(subject, timeout_s, self._store, subject, data, dict(headers or _NO_HEADERS))

    def _store(self, subject: str, data: bytes, headers: Mapping[str, str]) -> PubAck:
        return PubAck(*self._server.store(subject, data, headers))

    async def api(
        self, verb: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = _TIMEOUT_S
    ) -> dict[str, Any]:
        answer: dict[str, Any] = await self._ask_server(
            f"$JS.API.{verb}", timeout_s, self._server.api.answer, verb, body or {}
        )
        return answer

    async def get_message(
        self,
        stream: str,
        *,
        seq: int | None = None,
        last_by_subj: str | None = None,
        next_by_subj: str | None = None,
        direct: bool = False,
        timeout_s: float = _TIMEOUT_S,
    ) -> StoredMessage | None:
        asked = {"seq": seq, "last_by_subj": last_by_subj, "next_by_subj": next_by_subj}
        body = {key: value for key, value in asked.items() if value is not None}
        subject = f"$JS.API.{'DIRECT' if direct else 'STREAM.MSG'}.GET.{stream}"
        found: StoredMessage | None = await self._ask_server(subject, timeout_s, self._wanted, stream, body)
        return found

    def _wanted(self, stream: str, body: Mapping[str, Any]) -> StoredMessage | None:
        message = api.wanted(self._server.api.stream(stream), body)
        return message.as_stored() if message is not None else None

    async def direct_get(
        self, stream: str, body: Mapping[str, Any], *, timeout_s: float = _TIMEOUT_S
    ) -> AsyncIterator[StoredMessage]:
        subject = f"$JS.API.DIRECT.GET.{stream}"
        found: list[StoredMessage] = await self._ask_server(subject, timeout_s, self._found, stream, body)
        for stored in found:
            yield stored

    def _found(self, stream: str, body: Mapping[str, Any]) -> list[StoredMessage]:
        asked = self._stream(stream)
        if "batch" in body or "multi_last" in body:
            return [message.as_stored() for message in api.batch(asked, body)[0]]
        message = api.wanted(asked, body)
        return [message.as_stored()] if message is not None else []

    def ask_page(
        self, subject: str, body: Mapping[str, Any], *, timeout_s: float = _TIMEOUT_S
    ) -> asyncio.Future[Answers]:
        return self._ask_server(subject, timeout_s, self._page, subject.removeprefix("$JS.API.DIRECT.GET."), body)

    def _page(self, stream: str, body: Mapping[str, Any]) -> Answers:
        found = self._server.streams.get(stream)
        return self._server.api.pieces(found, body) if found is not None else [(b"", NO_RESPONDERS)]

    def _stream(self, name: str) -> Stream:
        stream = self._server.streams.get(name)
        if stream is None:
            raise NoResponders(name)
        return stream

    # -- listening -----------------------------------------------------------------------------------------------------

    async def subscribe(
        self, subject: str, callback: Callable[[Message], None], *, queue: str = "", confirmed: bool = True
    ) -> Subscription:
        if self._closing:
            raise self._down()
        sid = self._listen(subject, callback, queue)
        if confirmed and self._connected:
            await self._round_trip()
        return Subscription(b"", callback, partial(self._unsubscribe, sid), partial(self._drain, sid))

    def listen(self, subject: str, callback: Callable[[Message], None]) -> Callable[[], None]:
        """`subscribe` for whoever can't wait; returns what ends it."""
        return partial(self._unsubscribe, self._listen(subject, callback, ""))

    def _listen(self, subject: str, callback: Callable[[Message], None], queue: str) -> int:
        sid = next(self._numbers)
        self._listening[sid] = (subject, queue, callback)
        if self._connected:
            self._server.network.to_server(self, self._server.subscribe, self, sid, subject, queue)
        return sid

    async def _round_trip(self) -> None:
        with contextlib.suppress(TurnoutError):
            await self._ask_server("a PING", 2.0, int)

    async def _drain(self, sid: int) -> None:
        if sid in self._listening and self._connected:
            self._server.network.to_server(self, self._server.unsubscribe, self, sid)
            await self._round_trip()
        self._unsubscribe(sid)

    def _unsubscribe(self, sid: int) -> None:
        if self._listening.pop(sid, None) is not None and self._connected:
            self._server.network.to_server(self, self._server.unsubscribe, self, sid)

    def arrived(self, sid: int, subject: str, reply: str, data: bytes, block: bytes) -> None:
        """A message that it has subscribed to, or the answer to a request."""
        if sid != _INBOX_SID:
            listening = self._listening.get(sid)
            if listening is not None:
                listening[2](Message(subject, reply, data, block))
            return
        call = self._asked.get(subject)
        if call is not None:
            error = no_responders(call.asked) if block.startswith(b"NATS/1.0 503") else None
            self._answered(call, Message(subject, reply, data, block), error)

    # -- the server's clock --------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self._server.clock.now()

    def later(self, delay_s: float, callback: Callable[..., object], *args: object) -> Alarm:
        return self._server.clock.later(delay_s, callback, *args)

    async def sync_clock(self, stream: str) -> None:
        """The server's time is the loop's: there is nothing to measure."""
