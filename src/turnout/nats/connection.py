"""The connection to NATS that everything else uses: it stays, whatever happens to the links beneath it.

A link (link.py) is one TCP connection. When it is lost, everything in flight fails at once with `Disconnected`, the
next one is dialled with jitter for as long as it takes, subscriptions are renewed before anything else is sent on it,
and `epoch` goes up. What to do about a request whose outcome is unknown is for the caller to decide: nothing is sent
again behind its back, and nothing is kept to be sent later, since a write that arrives after its author was declared
dead does harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from turnout import fastjson
from turnout.errors import ServerUnavailable
from turnout.nats import messages
from turnout.nats.clock import Alarm, ServerClock
from turnout.nats.direct import direct_get, found_in
from turnout.nats.link import MAX_UNSENT_BYTES, ConnectOptions, Link, LinkCallbacks, check_options
from turnout.nats.listeners import Listeners
from turnout.nats.messages import (
    ApiError,
    Disconnected,
    Message,
    NoResponders,
    PubAck,
    RequestTimeout,
    StoredMessage,
    StoreRefused,
    WrongLastSequence,
    WrongLoop,
)
from turnout.nats.permissions import Violation, Violations
from turnout.nats.requests import Accept, Answers, Calls, accept_pub_ack, accept_received, next_answer, no_answer
from turnout.nats.servers import Servers, check_server
from turnout.nats.subscription import Subscription
from turnout.telemetry import metrics

__all__ = [
    "ApiError",
    "ConnectOptions",
    "Connection",
    "Disconnected",
    "Message",
    "NoResponders",
    "PubAck",
    "RequestTimeout",
    "StoreRefused",
    "StoredMessage",
    "Subscription",
    "Violation",
    "WrongLastSequence",
]

logger = logging.getLogger(__name__)
T = TypeVar("T")

DEFAULT_TIMEOUT_S = 5.0
NOWAIT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
MAX_RECONNECT_WAIT_S = 2.0
_INBOX_SID = 1
_NO_MESSAGE = 10037


class Connection:
    """A NATS connection that is up again as soon as a server is. Use it on the event loop that opened it.

        connection = await Connection.open(ConnectOptions(servers=("nats://127.0.0.1:4222",)), name="docs")
        ack = await connection.store("turnout.jobs.audit", b"{}", {"Nats-Msg-Id": "a1"})
        await connection.close()

    Every call may raise `Disconnected` (down, or lost on the way), `InvalidValue` or `PayloadTooLarge` (refused before
    a byte was sent) and `PermissionDenied`. Timeouts are in seconds; those of five and more may be up to 2 s late.
    """

    def __init__(self, options: ConnectOptions, name: str) -> None:
        self.epoch = 0
        self.max_payload = 1024 * 1024
        self.server_version: tuple[int, int, int] = (0, 0, 0)
        self.clock = ServerClock()
        self._options = options
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._servers = Servers(options.servers)
        self._calls = Calls()
        self._inbox = f"{self.new_inbox()}."
        self._inbox_line = messages.encode_subscribe(self._inbox + "*", "", _INBOX_SID)
        self._subscriptions: dict[int, Subscription] = {}
        self._last_sid = _INBOX_SID
        self._violations = Violations()
        self._up = asyncio.Event()
        self._on_up = Listeners()
        self._on_down = Listeners()
        self._trouble = "not connected yet"
        self._reconnecting: asyncio.Task[None] | None = None
        self._closing = False

    # -- opening, closing, staying up ----------------------------------------------------------------------------------

    @classmethod
    async def open(cls, options: ConnectOptions, *, name: str) -> Connection:
        """Connect within about `connect_timeout_s`, and check that the server can carry turnout.

        `name` is shown in the server's monitoring. Raises `ServerUnavailable`, `PermissionDenied`, `InvalidValue` or
        `ServerUnsuitable` (too old, or without JetStream).
        """
        check_options(options)
        metrics.look()
        if options.dial is not None:
            dialled: Connection = await options.dial(options, name)
            return dialled
        connection = cls(options, name)
        try:
            patience_s = max(min(1.0, options.connect_timeout_s), options.connect_timeout_s / len(options.servers))
            connection._adopt(await connection._dial(patience_s))
            await check_server(connection._live(), connection.api, options.connect_timeout_s)
        except BaseException:
            connection._closing = True
            if connection._link is not None:
                connection._link.lose("it was not usable")
            if connection._reconnecting is not None:
                connection._reconnecting.cancel()
            raise
        return connection

    async def close(self) -> None:
        """Flush what was sent, for at most two seconds, and end. Closing twice, or while disconnected, is fine."""
        self._closing = True
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.wait({self._reconnecting})
        link = self._link
        if link is not None:
            try:
                with contextlib.suppress(TimeoutError, Disconnected):
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await link.ping()
            finally:
                link.lose("it was closed")
        self._trouble = "it was closed"
        self._up.set()  # whoever waits for it to come up learns that it never will
        if link is None:
            self._on_down.tell()

    @property
    def up(self) -> bool:
        return self._link is not None

    @property
    def closed(self) -> bool:
        """It was closed, or is just being closed, and never comes back."""
        return self._closing

    async def wait_up(self, *, timeout_s: float | None = None) -> None:
        """Return when connected; `Disconnected` after `timeout_s`, or at once if the connection is closed."""
        if self._link is not None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                while self._link is None:
                    if self._closing:
                        raise self._down()
                    await self._up.wait()
        except TimeoutError:
            raise self._down() from None

    def on_up(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every reconnect (not for the first connect); returns what takes it back."""
        return self._on_up.add(callback)

    def on_down(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the link is lost or closed; returns what takes it back."""
        return self._on_down.add(callback)

    def on_refused(self, callback: Callable[[Violation], None]) -> Callable[[], None]:
        """Call `callback` when the server does not allow a publish or a subscription; returns what takes it back."""
        return self._violations.on_note(callback)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """The last refusals of the server to let us publish or subscribe, oldest first; otherwise they are silent."""
        return tuple(self._violations.seen)

    async def flush(self, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Return when the server has taken everything sent so far: a round trip."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._live().ping()
        except TimeoutError:
            raise RequestTimeout("the server did not answer a PING in time") from None

    def _adopt(self, link: Link) -> None:
        self._link = link
        self.epoch += 1
        self.max_payload = link.max_payload
        self.server_version = messages.version_of(link.server_version)
        self._servers.learn(link.servers)
        link.write(self._inbox_line, *(subscription.line for subscription in self._subscriptions.values()))
        self._up.set()
        if self.epoch > 1:
            logger.info("connected to %s again", link.server)
            metrics.RECONNECTS.add()
            self._on_up.tell()

    @property
    def servers(self) -> tuple[str, ...]:
        """Where it connects to, the next one first: what it was given, and what the cluster consists of now."""
        return self._servers.urls

    def _lost(self, reason: str) -> None:
        link, self._link = self._link, None
        assert link is not None
        self._up.clear()
        self._trouble = f"the connection to {link.server} was lost: {reason}"
        self._calls.fail(self._down)
        if not self._closing:
            logger.warning("%s; connecting again", self._trouble)
            self._reconnecting = self._loop.create_task(self._reconnect(), name="turnout-reconnect")
        self._on_down.tell()

    async def _reconnect(self) -> None:
        """Dial until it works. Jitter keeps a thousand workers from arriving at a restarted server all at once."""
        wait_s, failures = self._options.reconnect_wait_s, 0
        while True:
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))
            try:
                link = await self._dial(self._options.connect_timeout_s)
            except Exception as error:  # nobody else brings the connection back: this loop must survive
                self._trouble = str(error)
                failures += 1
                wait_s = min(wait_s * 1.3, max(MAX_RECONNECT_WAIT_S, self._options.reconnect_wait_s))
                level = logging.DEBUG if isinstance(error, ServerUnavailable) and failures % 30 else logging.WARNING
                logger.log(level, "still not connected: %s", error)
            else:
                self._adopt(link)
                return

    async def _dial(self, patience_s: float) -> Link:
        hooks = LinkCallbacks(
            message=self._deliver,
            refused=self._refused,
            tick=lambda: self._calls.expire(self._loop.time()),
            lost=self._lost,
            servers=self._servers.learn,
        )
        return await self._servers.dial(self._options, name=self._name, hooks=hooks, patience_s=patience_s)

    # -- sending and asking --------------------------------------------------------------------------------------------

    def send(
        self, subject: str, data: bytes = b"", *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Publish, fire and forget. What is sent in one turn of the event loop goes out together."""
        link = self._live()
        if reply:
            messages.check_subject(reply)
        link.write(*messages.encode_publish(subject, data, headers, reply, self.max_payload))

    def request_nowait(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = NOWAIT_TIMEOUT_S,
    ) -> asyncio.Future[Message]:
        """Send now, and get a future for the answer. It fails like `request` does, its timeout up to 2 s late."""
        return self._ask(subject, data, headers, timeout_s, accept_received)[1]

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Message:
        """The answer to a message, or `NoResponders`.

        After `RequestTimeout` or `Disconnected` it may or may not have been heard.
        """
        return await self._answer(subject, data, headers, timeout_s, accept_received)

    async def store(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> PubAck:
        """Publish into a stream; returns when it is stored.

        Raises `WrongLastSequence`, `StoreRefused` (a full stream or disk), `ApiError`, `NoResponders` (no such stream).
        After `RequestTimeout` or `Disconnected` it may have been stored, or even be stored later.
        """
        return await self._answer(subject, data, headers, timeout_s, accept_pub_ack)

    def store_nowait(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = NOWAIT_TIMEOUT_S,
    ) -> asyncio.Future[PubAck]:
        """`store` without waiting, for many in flight: the future fails like `store`, its timeout up to 2 s late."""
        return self._ask(subject, data, headers, timeout_s, accept_pub_ack)[1]

    async def api(
        self, verb: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask the JetStream API, such as `api("STREAM.INFO.turnout_work")`; its errors are raised, typed."""
        subject = f"$JS.API.{verb}"
        data = b"" if body is None else fastjson.dumps(body)
        sent_at = time.time()
        answer = messages.api_answer((await self.request(subject, data, timeout_s=timeout_s)).data, subject)
        if "ts" in answer:
            self.clock.observe(sent_at, time.time(), messages.unix_ns(answer["ts"]) / 1e9)
        return answer

    async def get_message(
        self,
        stream: str,
        *,
        seq: int | None = None,
        last_by_subj: str | None = None,
        next_by_subj: str | None = None,
        direct: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> StoredMessage | None:
        """One message, read from the stream's leader, so never stale; None if there is none.

        `seq` alone, `last_by_subj` alone (wildcards allowed), or `next_by_subj` at or after `seq` (1 if not given).
        `direct`: from any replica, in half the time; as good where one server alone keeps the stream.
        """
        if next_by_subj is not None and seq is None:
            seq = 1
        asked = {"seq": seq, "last_by_subj": last_by_subj, "next_by_subj": next_by_subj}
        body = {key: value for key, value in asked.items() if value is not None}
        if direct:
            subject = f"$JS.API.DIRECT.GET.{stream}"
            return found_in(await self.request(subject, fastjson.dumps(body), timeout_s=timeout_s), subject)
        try:
            return messages.stored_by_api(await self.api(f"STREAM.MSG.GET.{stream}", body, timeout_s=timeout_s))
        except ApiError as error:
            if error.err_code == _NO_MESSAGE:
                return None
            raise

    def direct_get(
        self, stream: str, body: Mapping[str, Any], *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> AsyncIterator[StoredMessage]:
        """Read messages from any replica, so maybe stale ones: for listings, not for decisions. Empty if none match.

        `body` is the server's: `{"seq": 1, "next_by_subj": "a.>", "batch": 100}`, `{"multi_last": ["a.b", "a.c"]}` (at
        most 1,024 subjects), or for one message `{"last_by_subj": "a.b"}`. `timeout_s` bounds the wait for each.
        """
        return direct_get(lambda subject, asked: self._ask_many(subject, asked, timeout_s), stream, body)

    def ask_page(
        self, subject: str, body: Mapping[str, Any], *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> asyncio.Future[Answers]:
        """Send now a request with many answers, and get a future for all of them, as they came: see direct.py.

        `timeout_s` bounds the wait for the first; those that follow may be 5 s apart. Cancel the future to forget it.
        """
        link = self._live()
        token = self._calls.token()
        data = fastjson.dumps(body)
        link.write(*messages.encode_publish(subject, data, None, self._inbox + token, self.max_payload))
        return self._calls.expect_page(self._loop, token, subject, timeout_s)

    def new_inbox(self) -> str:
        """A subject of one's own for answers, below which these credentials may subscribe."""
        return f"{self._options.inbox_prefix}.{uuid.uuid4().hex}"

    # -- listening -----------------------------------------------------------------------------------------------------

    async def subscribe(
        self, subject: str, callback: Callable[[Message], None], *, queue: str = "", confirmed: bool = True
    ) -> Subscription:
        """Call `callback` with every message, straight from the read loop: be quick. If it raises, that is logged.

        Returns when the server knows of it (when disconnected: at once, it is made at the next connect). Raises
        `PermissionDenied` if the server does not allow it. Without `confirmed` it returns at once, and what is asked
        next over this connection is answered after the server has learnt of it; a refusal is only logged.
        """
        if self._closing:
            raise self._down()
        self._last_sid += 1
        sid = self._last_sid
        line = messages.encode_subscribe(subject, queue, sid)
        subscription = Subscription(line, callback, partial(self._unsubscribe, sid), partial(self._drain, sid))
        self._subscriptions[sid] = subscription
        link = self._link
        if link is None:
            return subscription
        asked_at = self.now()
        link.write(subscription.line)
        if not confirmed:
            return subscription
        try:
            with contextlib.suppress(Disconnected):  # the next link starts with it
                await link.ping()
            violation = self._violations.of_subscription(subject, asked_at)
            if violation is not None:
                raise violation.error()
        except BaseException:
            self._unsubscribe(sid)
            raise
        return subscription

    async def _drain(self, sid: int) -> None:
        if sid in self._subscriptions and (link := self._link) is not None:
            link.write(f"UNSUB {sid}\r\n".encode())
            with contextlib.suppress(TimeoutError, Disconnected):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await link.ping()
        self._unsubscribe(sid)

    def _unsubscribe(self, sid: int) -> None:
        if self._subscriptions.pop(sid, None) is not None and self._link is not None:
            self._link.write(f"UNSUB {sid}\r\n".encode())

    # -- the server's clock --------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Unix seconds by the server's clock, as far as it was measured; the local clock until then."""
        return self.clock.now()

    def later(self, delay_s: float, callback: Callable[..., object], *args: object) -> Alarm:
        """Call in so many seconds, in the running loop; what limits the attempts of jobs."""
        return asyncio.get_running_loop().call_later(delay_s, callback, *args)

    async def sync_clock(self, stream: str) -> None:
        """Measure the server's clock by three STREAM.INFO of `stream`. (Other `api` answers with a time count, too.)"""
        for _ in range(3):
            await self.api(f"STREAM.INFO.{stream}")

    # -- inside --------------------------------------------------------------------------------------------------------

    def _live(self) -> Link:
        """What to send over. Refused is what an answer could not be given to: its sender would take it for undone."""
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoop(
                "this client belongs to the event loop that connected it, and nothing was sent: connect another one"
                " here, or use asyncio.run_coroutine_threadsafe(...) with that loop"
            )
        link = self._link
        if link is None:
            raise self._down()
        if link.unsent > MAX_UNSENT_BYTES and link.congested():
            raise ServerUnavailable(f"the NATS server at {link.server} does not take what is sent to it: slow down")
        return link

    def _down(self) -> Disconnected:
        return Disconnected(f"not connected to NATS: {self._trouble}")

    def _ask(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None, timeout_s: float, accept: Accept[T]
    ) -> tuple[str, asyncio.Future[T]]:
        link = self._live()
        token = self._calls.token()
        parts = messages.encode_publish(subject, data, headers, self._inbox + token, self.max_payload)
        future = self._calls.expect(self._loop, token, subject, timeout_s, accept)
        link.write(*parts, urgent=True)
        return token, future

    async def _ask_many(self, subject: str, body: Mapping[str, Any], timeout_s: float) -> AsyncGenerator[Message]:
        link = self._live()
        token = self._calls.token()
        data = fastjson.dumps(body)
        link.write(*messages.encode_publish(subject, data, None, self._inbox + token, self.max_payload))
        queue = self._calls.expect_many(token, subject)
        try:
            while True:
                yield await next_answer(queue, timeout_s, subject)
        finally:
            self._calls.forget(token)

    async def _answer(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None, timeout_s: float, accept: Accept[T]
    ) -> T:
        token, future = self._ask(subject, data, headers, timeout_s, accept)
        if timeout_s >= DEFAULT_TIMEOUT_S:
            return await future  # the watchdog's tick keeps its deadline; a timer for each would cost as much again
        timer = self._loop.call_later(timeout_s, _give_up, future, subject)
        try:
            return await future
        finally:
            timer.cancel()
            self._calls.forget(token)

    def _deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, raw: bytes | None) -> None:
        if sid == _INBOX_SID:
            self._calls.answer(subject[len(self._inbox) :], subject, data, raw)
            return
        subscription = self._subscriptions.get(sid)
        if subscription is not None:
            subscription.callback(messages.received(subject, reply, data, raw))

    def _refused(self, text: str) -> None:
        violation = self._violations.note(text, self.now())
        if violation is None:
            logger.warning("the NATS server says: %s", text)
            return
        logger.warning("the NATS server does not allow it: %s", violation)
        if violation.operation == "publish":
            self._calls.fail(violation.error, asked=violation.subject)
        elif violation.subject == self._inbox + "*":
            self._calls.fail(violation.error)  # without its inbox no call of this connection is ever answered


def _give_up(future: asyncio.Future[Any], subject: str) -> None:
    if not future.done():
        future.set_exception(no_answer(subject))
