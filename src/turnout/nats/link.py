"""One TCP connection to one NATS server, from its handshake to its loss. It never reconnects: a new one is made.

nats-py does the handshake (TLS, passwords, nkeys, JWT). Everything else of it is left unused, because of what it does
when things go wrong: its reconnect hangs for minutes on a black hole, a PONG that is late kills its read loop while it
still says that it is connected, and a raising callback wedges it. So reading (parser.py), writing, the pings, the
watchdog and the end of the connection are ours, and its private names are used in this file only (a test pins them).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import nats.errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from turnout.errors import InvalidValue, PermissionDenied, ServerUnavailable, TurnoutError
from turnout.nats.messages import Disconnected
from turnout.nats.parser import Parser

logger = logging.getLogger(__name__)

WATCH_MISSES = 3  # so many intervals without a byte from the server, and the link is given up
TCP_USER_TIMEOUT_MS = 8000  # the kernel gives up on unacknowledged data after this, not after its 15 minutes
MAX_UNSENT_BYTES = 256 * 1024 * 1024


@attrs.frozen(kw_only=True)
class ConnectOptions:
    """Where the servers are and how to log in. Times in seconds.

    >>> ConnectOptions(servers=("nats://127.0.0.1:4222",), token="s3cret").connect_timeout_s
    5.0
    """

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    user: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    token: str | None = attrs.field(default=None, repr=False)
    creds: str | None = None
    """The path of a credentials file."""
    nkeys_seed: str | None = attrs.field(default=None, repr=False)
    """A seed, or the path of a file with one."""
    tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None
    """With this, a server that does not offer TLS is refused. A function is called at each connect: certificates that
    were replaced on disk count then."""
    tls_hostname: str | None = None
    tls_first: bool = False
    """Begin with TLS, before the server says anything: for servers with `handshake_first`."""
    connect_timeout_s: float = 5.0
    reconnect_wait_s: float = 0.25
    watch_interval_s: float = 2.0
    """The server is asked for a sign of life this often; after three intervals without one the link is given up."""
    inbox_prefix: str = "_INBOX"
    dial: Callable[[ConnectOptions, str], Awaitable[Any]] | None = attrs.field(default=None, repr=False)
    """Makes the `Connection` of these options and this name in another way than over TCP: to a server in memory."""


@attrs.frozen
class LinkCallbacks:
    """What a link tells its owner, always on the loop's thread. They must not raise; `lost` is called exactly once."""

    message: Callable[[int, bytes, bytes, bytes, bytes | None], None]
    """(subscription id, subject, reply, data, raw headers)"""
    refused: Callable[[str], None]
    """An error the server sent, such as a permissions violation."""
    tick: Callable[[], None]
    """Every `watch_interval_s`."""
    lost: Callable[[str], None]
    """The link is gone; why, in words."""
    servers: Callable[[list[str]], None]
    """The servers of the cluster have changed; their URLs."""


class _Protocol(Client):
    """nats-py's client with the ends cut off: one connect, no reconnect, messages and PONGs go straight to the link."""

    link: Link
    require_tls = False

    async def _select_next_server(self) -> None:
        server = self._server_pool[0]
        await self._connect_to_server(server)
        transport = self.link.transport()
        if transport is not None and transport.get_extra_info("sockname") == transport.get_extra_info("peername"):
            # TCP lets one connect to oneself where nobody listens, and then the server cannot have its port back.
            raise ConnectionRefusedError("connected to itself")
        self._current_server = server

    @property
    def closed_by_server(self) -> bool:
        """After the handshake: an end in the place of the last answer is no error to nats-py."""
        reader = self._transport._io_reader if isinstance(self._transport, TcpTransport) else None
        return reader is None or reader.at_eof()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.require_tls and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise nats.errors.Error("the server does not offer TLS, which is demanded")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


class Link:
    """A live connection. Made by `Link.open`; after `hooks.lost` it is dead and to be dropped."""

    def __init__(self, client: _Protocol, hooks: LinkCallbacks, server: str, watch_interval_s: float) -> None:
        self.hooks = hooks
        self.server = server
        self._client = client
        self._parser = Parser(self)
        self.servers: list[str] = []
        """The servers of the cluster, by what the server said last, as URLs; empty where it is alone."""
        self._watch_interval_s = watch_interval_s
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._out_transport: asyncio.WriteTransport | None = None
        self._pings: deque[asyncio.Future[None]] = deque()
        self.dead = False
        self._last_error = ""
        self._watch: asyncio.TimerHandle | None = None
        self._heard = 0
        self.unsent = 0
        """How many bytes waited to be sent when that was last measured."""
        self._misses = 0

    @classmethod
    async def open(
        cls, server: str, options: ConnectOptions, *, name: str, hooks: LinkCallbacks, timeout_s: float
    ) -> Link:
        """Connect and log in. `ServerUnavailable`, `PermissionDenied` or `InvalidValue`, which say why."""
        client = _Protocol()
        link = client.link = cls(client, hooks, shown(server), options.watch_interval_s)
        try:
            arguments: dict[str, Any] = {**_arguments(server, options, name), "connect_timeout": timeout_s}
            client.require_tls = options.tls is not None or options.tls_first or urlsplit(server).scheme == "tls"
            with _cancellable():
                async with asyncio.timeout(timeout_s):
                    await client.connect(**arguments)
            if client.closed_by_server:
                raise nats.errors.UnexpectedEOF
        except BaseException as error:
            link.dead = True
            link._teardown()
            if isinstance(error, Exception):
                raise _cannot_connect(error, link.server) from error
            raise
        link._start()
        return link

    def _start(self) -> None:
        """Take over from nats-py: from here on it neither reads, nor writes, nor has a task."""
        client = self._client
        for unused in (client._reading_task, client._ping_interval_task, client._flusher_task):
            if unused is not None:
                unused.cancel()
        self.servers = self._urls(client._server_info)
        transport, wire = self.transport(), client._transport
        assert transport is not None and isinstance(wire, TcpTransport)
        # What has been read and not been looked at: an INFO or a PING may follow hard on the handshake.
        unread: bytearray = vars(wire._io_reader)["_buffer"]  # the stream reader's own, which it does not declare
        early = bytes(client._ps.buf) + bytes(unread)
        unread.clear()
        transport.set_protocol(self._parser)
        self._out_transport = transport
        if early:
            self._parser.data_received(early)
        self._limit_kernel_patience()
        self._heard = self._parser.arrived
        self._watch = self._loop.call_later(self._watch_interval_s, self._tick)

    def _limit_kernel_patience(self) -> None:
        transport = self.transport()
        raw = transport.get_extra_info("socket") if transport is not None else None
        option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux only; elsewhere the watchdog alone has to do
        if raw is not None and option is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, option, TCP_USER_TIMEOUT_MS)

    @property
    def max_payload(self) -> int:
        return int(self._client._max_payload)

    @property
    def server_version(self) -> str:
        return str(self._client._server_info.get("version", ""))

    @property
    def has_jetstream(self) -> bool:
        return bool(self._client._server_info.get("jetstream"))

    def write(self, *parts: bytes, urgent: bool = False) -> None:
        """Send these bytes, with all else of this turn of the loop in one write; dropped if the link is dead.

        What is urgent does not wait for the turn's end where little goes on: when it is the first of its kind since a
        read that brought at most one message.
        """
        out = self._out
        if urgent and self._parser.quiet:
            self._parser.quiet = False
            out += parts
            self._flush()
            return
        if not out:
            self._loop.call_soon(self._flush)
        out += parts

    def congested(self) -> bool:
        """Whether more waits to be sent than is sane: the server or the network does not take it."""
        return self._measure_unsent() > MAX_UNSENT_BYTES

    def ping(self) -> asyncio.Future[None]:
        """A round trip: done when the server has taken all that was written before; `Disconnected` if the link dies."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._pings.append(future)
        self.write(b"PING\r\n")
        return future

    # -- what arrives (parser.py) --------------------------------------------------------------------------------------

    def message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        try:
            self.hooks.message(sid, subject, reply, data, headers)
        except Exception:  # one bad message or callback must not end the connection of everybody else
            logger.exception("handling a message on %s failed", subject.decode("utf-8", "replace"))

    def pinged(self) -> None:
        self.write(b"PONG\r\n")

    def ponged(self) -> None:
        if self._pings:
            future = self._pings.popleft()
            if not future.done():  # whoever waited may have given up; a late PONG is nothing special
                future.set_result(None)

    def informed(self, info: dict[str, Any]) -> None:
        """The server tells of its cluster anew: servers come and go. An INFO about something else names none."""
        if info.get("connect_urls"):
            self.servers = self._urls(info)
            self.hooks.servers(self.servers)

    def _urls(self, info: dict[str, Any]) -> list[str]:
        scheme = "tls" if self.server.startswith("tls://") else "nats"
        return [f"{scheme}://{each}" for each in info.get("connect_urls") or []]

    def refused(self, text: str) -> None:
        # Whether an error is the end is the server's to decide: if it is, it closes the connection.
        if "permissions violation" not in text.lower():
            self._last_error = text
        self.hooks.refused(text)

    def lose(self, reason: str) -> None:
        """End the link now: nothing is flushed, all that waits for a round trip fails, the owner is told once."""
        if self.dead:
            return
        self.dead = True
        if self._last_error:
            reason = f"the server said {self._last_error!r}"
        self._teardown()
        for future in self._pings:
            if not future.done():
                future.set_exception(Disconnected(f"the connection to {self.server} was lost: {reason}"))
                future.exception()  # the watchdog's own pings have no other reader
        self._pings.clear()
        self.hooks.lost(reason)

    def _flush(self) -> None:
        out, self._out = self._out, []
        transport = self._out_transport
        if out and transport is not None and not self.dead:
            transport.write(out[0] if len(out) == 1 else b"".join(out))
            self._measure_unsent()

    def _measure_unsent(self) -> int:
        transport = self._out_transport
        self.unsent = transport.get_write_buffer_size() if transport is not None else 0
        return self.unsent

    def transport(self) -> asyncio.WriteTransport | None:
        wire = self._client._transport
        if isinstance(wire, TcpTransport) and wire._io_writer is not None:
            return wire._io_writer.transport
        return None

    def _tick(self) -> None:
        """The watchdog: any byte that came, or went, since the last tick is a sign of life; a PING asks for one."""
        heard, unsent = self._parser.arrived, self.unsent
        alive = heard != self._heard or self._measure_unsent() < unsent
        self._heard = heard
        self._misses = 0 if alive else self._misses + 1
        if self._misses >= WATCH_MISSES:
            self.lose(f"no sign of life for {WATCH_MISSES * self._watch_interval_s:g} s")
            return
        self.ping()
        self._watch = self._loop.call_later(self._watch_interval_s, self._tick)
        self.hooks.tick()

    def _teardown(self) -> None:
        client = self._client
        client._status = Client.CLOSED
        if self._watch is not None:
            self._watch.cancel()
        current = asyncio.current_task(self._loop)
        for task in (client._reading_task, client._ping_interval_task, client._flusher_task):
            if task is not None and task is not current:
                task.cancel()  # the handshake has failed: after a good one they are gone already
        transport = self.transport()
        if transport is not None:
            transport.abort()  # close() would wait for unsent data, which on a black hole takes many minutes


def shown(server: str) -> str:
    """The address without what may be a password in it, for messages."""
    return re.sub(r"//[^@/]*@", "//", server)


def check_options(options: ConnectOptions) -> None:
    """`InvalidValue` for options that can never connect."""
    if not options.servers:
        raise InvalidValue("servers: at least one address is needed, such as nats://127.0.0.1:4222")
    for server in options.servers:
        try:
            url = urlsplit(server if "://" in server else f"nats://{server}")
            valid = url.scheme in ("nats", "tls") and bool(url.hostname) and (url.port or 4222) > 0
        except ValueError:
            valid = False
        if not valid:
            raise InvalidValue(f"servers: {shown(server)!r} is no address such as nats://host:4222 or tls://host:4222")
    for name in ("connect_timeout_s", "reconnect_wait_s", "watch_interval_s"):
        if not 0 < getattr(options, name) <= 60:
            raise InvalidValue(f"{name} must be more than 0 and at most 60 seconds, not {getattr(options, name)!r}")


def _arguments(server: str, options: ConnectOptions, name: str) -> dict[str, Any]:
    user, password, token = _login(server, options)
    arguments: dict[str, Any] = {
        "servers": [server],
        "name": name,
        "error_cb": _silent,
        "allow_reconnect": False,
        "dont_randomize": True,
        "pending_size": 0,
        "ping_interval": 3600,
        "user": user,
        "password": password,
        "token": token,
        "tls": _tls_context(options),
        "tls_hostname": options.tls_hostname,
        "tls_handshake_first": options.tls_first,
    }
    if options.creds is not None:
        arguments["user_credentials"] = _creds(options.creds)
    seed = options.nkeys_seed
    if seed is not None:
        is_seed = re.fullmatch(r"SU[A-Z2-7]{56}", seed.strip()) is not None
        arguments["nkeys_seed_str" if is_seed else "nkeys_seed"] = seed.strip()
    return arguments


def _tls_context(options: ConnectOptions) -> ssl.SSLContext | None:
    if callable(options.tls):
        try:
            return options.tls()
        except (OSError, ValueError) as error:
            raise ServerUnavailable(
                f"no TLS: the certificates cannot be used ({_reason(error)}): see to them"
            ) from error
    return options.tls or (ssl.create_default_context() if options.tls_first else None)


def _creds(path: str) -> str:
    """The path of a credentials file that has its two parts: nats-py reads for ever where the first is missing."""
    file = Path(path).expanduser()
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(f"creds: cannot read {path} ({_reason(error)})") from error
    if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
        raise InvalidValue(f"creds: {path} is no credentials file: a user's JWT and its nkey seed must be in it")
    return str(file)


def _login(server: str, options: ConnectOptions) -> tuple[str | None, str | None, str | None]:
    """User, password and token: the options', else those in the address, else those in the first address that has some.

    The last is for the servers of a cluster that the server itself tells of, without a login.
    """
    if options.user is not None or options.token is not None:
        return options.user, options.password, options.token
    for url in map(urlsplit, (server, *options.servers)):
        if url.username is not None and url.password is not None:
            return unquote(url.username), unquote(url.password), None
        if url.username is not None:
            return None, None, unquote(url.username)
    return None, None, None


@contextlib.contextmanager
def _cancellable() -> Iterator[None]:
    """Cancels what is in it, though it ends at that moment.

    `asyncio.wait_for`, by which nats-py connects, drops a cancel then, before Python 3.12.
    """
    task = asyncio.current_task()
    asked_before = 0 if task is None else task.cancelling()
    try:
        yield
    finally:
        if task is not None and task.cancelling() > asked_before:
            raise asyncio.CancelledError


async def _silent(_: Exception) -> None:
    """nats-py reports here what it also raises."""


def _reason(error: Exception) -> str:
    if isinstance(error, nats.errors.UnexpectedEOF):
        return "the server closed the connection"
    return str(error) or type(error).__name__


def _cannot_connect(error: Exception, server: str) -> TurnoutError:
    """One sentence that says what is wrong and what to do about it."""
    if isinstance(error, TurnoutError):
        return error
    text = str(error).lower()
    if "authorization" in text or "authentication" in text:
        return PermissionDenied(
            f"the NATS server at {server} refuses the credentials: check user, token, creds or nkey"
        )
    if isinstance(error, TimeoutError):
        return ServerUnavailable(f"no NATS server answers at {server} in time: check the address and that it runs")
    if isinstance(error, ssl.SSLError) or "tls" in text:
        return ServerUnavailable(f"no TLS connection to {server} ({_reason(error)}): check certificates and address")
    if isinstance(error, OSError) and error.filename:
        return InvalidValue(f"nkeys_seed: cannot read {error.filename} ({error.strerror})")
    if type(error).__module__.startswith("nkeys"):
        return InvalidValue(f"creds, nkeys_seed: the key cannot be used ({_reason(error)})")
    if isinstance(error, ConnectionRefusedError):
        return ServerUnavailable(f"no NATS server runs at {server} (connection refused): start it or check the address")
    return ServerUnavailable(f"cannot connect to {server} ({_reason(error)}): check the address, and that it runs")
