"""A server for the tests of one module, and connections that are closed when the test ends."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.proxy import Proxy
from turnout.nats.connection import Connection, ConnectOptions
from turnout.nats.stream import Stream
from turnout.testing.server import NatsServer

Connect = Callable[..., Awaitable[Connection]]


@pytest.fixture(scope="module")
def shared_server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
def server(shared_server: NatsServer) -> NatsServer:
    """A running server; a test may have left it frozen or dead."""
    shared_server.resume()
    return shared_server.start()


@pytest_asyncio.fixture
async def connect(server: NatsServer) -> AsyncIterator[Connect]:
    """`await connect(url=None, **options)`: the url of a proxy or of another server, and any ConnectOptions."""
    opened: list[Connection] = []

    async def _connect(url: str | None = None, **options: Any) -> Connection:
        connection = await Connection.open(ConnectOptions(servers=(url or server.url,), **options), name="test")
        opened.append(connection)
        return connection

    yield _connect
    for connection in opened:
        await connection.close()


@pytest_asyncio.fixture
async def proxy(server: NatsServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def connection(connect: Connect) -> Connection:
    return await connect()


@pytest_asyncio.fixture
async def stream(connection: Connection) -> AsyncIterator[str]:
    """A fresh stream; its subjects begin with its name."""
    name = f"s{uuid.uuid4().hex[:8]}"
    await make_stream(connection, name)
    yield name
    await connection.wait_up()
    await connection.api(f"STREAM.DELETE.{name}")


async def make_stream(connection: Connection, name: str, **config: Any) -> None:
    body = {"name": name, "subjects": [f"{name}.>"], "storage": "file", "num_replicas": 1, "allow_direct": True}
    await Stream(connection, name).write({**body, **config}, create=True)
