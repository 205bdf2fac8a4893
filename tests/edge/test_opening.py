"""Opening a connection: who may come in, what is said to the others, and what the server does not allow later."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]
import pytest

from tests.edge.conftest import Connect, make_stream
from tests.support.proxy import Proxy
from turnout.errors import InvalidValue, PermissionDenied, ServerUnavailable, ServerUnsuitable, TurnoutError
from turnout.nats.connection import Connection, ConnectOptions, Message
from turnout.testing.server import NatsServer, _free_port

ALLOWED_S = 4.0
RESTRICTED = """
accounts: {
  A: {
    jetstream: enabled
    users: [
      {user: all, password: "p@ss/word"}
      {user: some, password: s, permissions: {
        publish: {allow: ["$JS.API.INFO", "Allowed.>"]}, subscribe: {allow: ["_INBOX.>", "Allowed.>"]}}}
      {user: noinbox, password: s, permissions: {subscribe: {deny: ["_INBOX.>"]}}}
      {user: noapi, password: s, permissions: {publish: {deny: ["$JS.API.>"]}}}
    ]
  }
  B: { users: [{user: nojs, password: s}] }
}
"""


async def refused(kind: type[TurnoutError], *servers: str, within_s: float = ALLOWED_S, **options: Any) -> str:
    """The one sentence with which opening fails, as `kind` and soon."""
    async with asyncio.timeout(within_s):
        with pytest.raises(kind) as caught:
            await Connection.open(ConnectOptions(servers=servers, **options), name="test")
    text = str(caught.value)
    assert "\n" not in text
    assert ":" in text or "must" in text  # what is wrong: what to do
    return text


@asynccontextmanager
async def greeter(*lines: bytes) -> AsyncIterator[str]:
    """A listener that says these lines, reading one from the client between them, and then nothing more."""
    hang = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            writer.write(line)
            await reader.readline()
        await hang.wait()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        hang.set()
        server.close()


async def test_no_server_at_the_address() -> None:
    """Nobody listening, an unknown host, and a listener that says nothing each fail soon, naming the address."""
    assert "127.0.0.1:1" in await refused(ServerUnavailable, "nats://127.0.0.1:1")
    # How soon a resolver says that there is no such host is not up to us.
    assert "no.such.host.invalid" in await refused(ServerUnavailable, "nats://no.such.host.invalid", within_s=15)
    async with greeter() as silent:
        assert silent in await refused(ServerUnavailable, silent, connect_timeout_s=0.3)
        both = await refused(ServerUnavailable, silent, "nats://127.0.0.1:1", connect_timeout_s=0.3)
        assert silent in both
        assert "127.0.0.1:1" in both


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO\r\n", b"INFO {\r\n", b"\x00" * 100_000, b"\n"]
)
async def test_something_that_is_no_nats_server(line: bytes) -> None:
    """Whatever else answers at the address ends in ServerUnavailable."""
    async with greeter(line) as url:
        await refused(ServerUnavailable, url, connect_timeout_s=0.5)


async def test_a_server_that_closes_during_the_handshake() -> None:
    """A server that hangs up in the place of its last answer has not let anybody in: that is no connection."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","headers":true,"max_payload":1024}\r\n')
        await reader.readuntil(b"PING\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    try:
        url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert "closed the connection" in await refused(ServerUnavailable, url)
    finally:
        server.close()


async def test_an_old_server_is_refused_by_its_version() -> None:
    """A server before 2.12 is named with its version and with what is needed."""
    info = b'INFO {"server_id":"x","version":"2.9.10","headers":true,"max_payload":1048576,"jetstream":true}\r\n'
    async with greeter(info, b"", b"PONG\r\n") as url:
        text = await refused(ServerUnsuitable, url)
    assert re.search(r"2\.9\.10.*2\.12", text)


async def test_a_server_without_jetstream_is_refused() -> None:
    """JetStream off is told apart from a server that is not there."""
    with NatsServer(jetstream=False) as server:
        assert "JetStream" in await refused(ServerUnsuitable, server.url)


@pytest.mark.parametrize(
    "options",
    [
        {"servers": ()},
        {"servers": ("http://127.0.0.1:4222",)},
        {"servers": ("ws://127.0.0.1:4222",)},
        {"servers": ("nats://",)},
        {"servers": ("nats://a:port",)},
        {"servers": ("nats://a:99999",)},
        {"creds": "/no/such/file.creds"},
        {"nkeys_seed": "/no/such/file.nk"},
        {"connect_timeout_s": 0},
        {"connect_timeout_s": float("nan")},
        {"watch_interval_s": -1},
        {"reconnect_wait_s": 1e9},
        {"inbox_prefix": "a b"},
    ],
)
async def test_options_that_can_never_work(server: NatsServer, options: dict[str, Any]) -> None:
    """Bad options are InvalidValue, whatever the server."""
    with pytest.raises(InvalidValue):
        await Connection.open(ConnectOptions(**{"servers": (server.url,), **options}), name="test")


async def test_an_address_may_leave_out_scheme_and_port(server: NatsServer, connect: Connect) -> None:
    """host:port is enough."""
    assert (await connect(f"127.0.0.1:{server.port}")).up


async def test_who_may_log_in() -> None:
    """User and password, by option or percent-encoded in the address, are let in; others are told why not, once."""
    with NatsServer(config=RESTRICTED) as server:
        at = f"127.0.0.1:{server.port}"
        for options in (
            ConnectOptions(servers=(server.url,), user="all", password="p@ss/word"),
            ConnectOptions(servers=(f"nats://all:p%40ss%2Fword@{at}",)),
        ):
            connection = await Connection.open(options, name="test")
            await connection.close()
        for url in (server.url, f"nats://all:s3cret@{at}", f"nats://token@{at}"):
            text = await refused(PermissionDenied, url)
            assert "s3cret" not in text
        assert "JetStream" in await refused(ServerUnsuitable, server.url, user="nojs", password="s")
        text = await refused(PermissionDenied, "nats://127.0.0.1:1", server.url, user="all", password="wrong")
        assert at in text  # and not that nobody listens on port 1


async def test_a_token_is_let_in() -> None:
    """A token works as an option and in the address."""
    with NatsServer(config="authorization: {token: tok}") as server:
        for options in (
            ConnectOptions(servers=(server.url,), token="tok"),
            ConnectOptions(servers=(f"nats://tok@127.0.0.1:{server.port}",)),
        ):
            connection = await Connection.open(options, name="test")
            await connection.close()
        await refused(PermissionDenied, server.url, token="other")


async def test_an_nkey_is_let_in(tmp_path: Path) -> None:
    """A seed works as text and as a file; a wrong or broken one is refused."""
    seed, other = (nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER) for _ in range(2))
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    file = tmp_path / "user.nk"
    file.write_bytes(seed + b"\n")
    with NatsServer(config=f"authorization: {{users: [{{nkey: {public}}}]}}") as server:
        for value in (seed.decode(), str(file)):
            connection = await Connection.open(ConnectOptions(servers=(server.url,), nkeys_seed=value), name="test")
            await connection.close()
        await refused(PermissionDenied, server.url, nkeys_seed=other.decode())
        file.write_text("nonsense")
        await refused(InvalidValue, server.url, nkeys_seed=str(file))
        for text in ("nonsense", f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n", "\xff"):
            file.write_text(text, encoding="latin-1")
            assert str(file) in await refused(InvalidValue, server.url, creds=str(file))


async def test_a_missing_permission_is_told_at_once() -> None:
    """What the server does not allow is PermissionDenied at once, naming the subject as it is spelt, and is kept."""
    with NatsServer(config=RESTRICTED) as server:
        assert "$JS.API.INFO" in await refused(PermissionDenied, server.url, user="noapi", password="s")
        assert "_INBOX." in await refused(PermissionDenied, server.url, user="noinbox", password="s")
        options = ConnectOptions(servers=(server.url,), user="some", password="s")
        connection = await Connection.open(options, name="test")
        ignore: Callable[[Message], None] = lambda message: None  # noqa: E731 - one word for nothing
        await connection.subscribe("Allowed.A", ignore)
        async with asyncio.timeout(ALLOWED_S):
            with pytest.raises(PermissionDenied, match=r"may not publish to Forbidden\.Fruit:"):
                await connection.request("Forbidden.Fruit", timeout_s=60)
            with pytest.raises(PermissionDenied, match=r"subscribe to Forbidden\.Sub:"):
                await connection.subscribe("Forbidden.Sub", ignore)
            with pytest.raises(PermissionDenied, match=r"DIRECT\.GET"):
                _ = [m async for m in connection.direct_get("s", {"multi_last": ["a"]}, timeout_s=60)]
        connection.send("Forbidden.Too")
        await connection.flush()
        assert str(connection.violations[-1]) == "publish of Forbidden.Too is not allowed"
        assert len(connection.violations) == 4
        assert connection.epoch == 1
        await connection.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a key and a self-signed certificate for 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("NO TLS TESTS: there is no openssl program to make a certificate with")
    where = tmp_path_factory.mktemp("tls")
    make_certificate(openssl, where)
    return where


def make_certificate(openssl: str, where: Path) -> None:
    """A new key and a new certificate, in place of those that are there."""
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=turnout test"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", where / "key.pem", "-out", where / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )


async def test_certificates_are_read_at_each_connect(tmp_path: Path, certificate: Path) -> None:
    """A function that makes the TLS context is called for each link: what was replaced on disk is what counts."""
    for name in ("cert.pem", "key.pem"):
        shutil.copy(certificate / name, tmp_path / name)

    def trusting() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))

    with NatsServer(config=f'tls: {{cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem"}}') as secure:
        options = ConnectOptions(servers=(secure.url,), tls=trusting, reconnect_wait_s=0.05)
        connection = await Connection.open(options, name="test")
        up = asyncio.Event()
        connection.on_up(up.set)
        secure.kill()
        make_certificate(shutil.which("openssl") or "openssl", tmp_path)
        await asyncio.to_thread(secure.start)
        async with asyncio.timeout(30):
            await up.wait()
        await connection.close()
        (tmp_path / "cert.pem").write_text("half of")
        assert "certificates cannot be used" in await refused(ServerUnavailable, secure.url, tls=trusting)


async def test_tls_may_come_first(certificate: Path) -> None:
    """A server that speaks TLS from its first byte on is connected to with `tls_first`, and not without."""
    tls = f'cert_file: "{certificate}/cert.pem", key_file: "{certificate}/key.pem", handshake_first: true'
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with NatsServer(config=f"tls: {{{tls}}}") as secure:
        options = ConnectOptions(servers=(secure.url,), tls=trusting, tls_first=True)
        connection = await Connection.open(options, name="test")
        await connection.close()
        await refused(ServerUnavailable, secure.url, tls=trusting, connect_timeout_s=0.5)


async def test_tls_is_used_where_it_is_demanded(certificate: Path, server: NatsServer) -> None:
    """With a TLS context a server that requires or offers TLS gets it, and one that has none is refused."""
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    for more in ("", "allow_non_tls: true"):
        config = f'tls: {{cert_file: "{certificate}/cert.pem", key_file: "{certificate}/key.pem"}}\n{more}'
        with NatsServer(config=config) as secure:
            options = ConnectOptions(servers=(secure.url,), tls=trusting)
            connection = await Connection.open(options, name="test")
            assert connection._link is not None
            transport = connection._link.transport()
            assert transport is not None
            assert transport.get_extra_info("ssl_object") is not None
            await make_stream(connection, "tls")
            big = b"x" * 500_000
            await asyncio.gather(*[connection.store_nowait("tls.a", big) for _ in range(20)])
            await connection.close()
            await refused(ServerUnavailable, secure.url.replace("nats://", "tls://"))  # not trusted by the system
    assert "TLS" in await refused(ServerUnavailable, server.url, tls=trusting)
    assert "TLS" in await refused(ServerUnavailable, server.url.replace("nats://", "tls://"))


async def test_the_servers_are_what_the_cluster_said_last(server: NatsServer) -> None:
    """One that joins while the connection is up is used later, one that has left no more; given ones stay."""
    async with Proxy(server.port) as joined:
        async with Proxy(server.port) as first:
            options = ConnectOptions(servers=(first.url.replace("//", "//u:p@"),), reconnect_wait_s=0.05)
            connection = await Connection.open(options, name="test")
            given = connection.servers

            async def told(*ports: int) -> None:
                urls = [f"127.0.0.1:{port}" for port in ports]
                first.say(b"INFO " + json.dumps({"connect_urls": urls}).encode() + b"\r\n")
                first.say(b'INFO {"ldm": true}\r\n')  # about something else
                await connection.api("INFO")  # an answer that comes after it

            await told(first.port, joined.port, 1)
            assert connection.servers == (*given, joined.url, "nats://127.0.0.1:1")
            await told(first.port, joined.port)
            assert connection.servers == (*given, joined.url)
            up = asyncio.Event()
            connection.on_up(up.set)
        async with asyncio.timeout(30):
            await up.wait()
        assert connection.servers == (joined.url, *given)
        await connection.close()


async def test_a_discovered_server_takes_over() -> None:
    """Of a cluster one address is enough: when that server dies, one it has told of is used, with the same login."""
    ports = [_free_port(), _free_port()]
    first, second = (
        NatsServer(
            config=f"""
            authorization: {{user: u, password: p}}
            cluster: {{name: c, listen: "127.0.0.1:{own}", routes: ["nats-route://127.0.0.1:{other}"]}}
            """
        )
        for own, other in (ports, reversed(ports))
    )
    with first, second:
        url = f"nats://u:p@127.0.0.1:{first.port}"
        options = ConnectOptions(servers=(url,), reconnect_wait_s=0.05, connect_timeout_s=50)
        async with asyncio.timeout(60):  # two servers first elect one of them
            connection = await Connection.open(options, name="test")
            up = asyncio.Event()
            connection.on_up(up.set)
            first.kill()
            await up.wait()
            assert connection._link is not None
            assert connection._link.server.endswith(f":{second.port}")
            await connection.close()
