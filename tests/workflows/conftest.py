"""One server for all tests of workflows; each test has a namespace of its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.servers import quick_server
from turnout import Client
from turnout.testing import NatsServer

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[NatsServer]:
    with quick_server() as started:
        yield started


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[Client]:
    async with Client.connect(server.url, namespace=f"wf{next(_numbers)}") as connected:
        yield connected


@pytest.fixture(autouse=True)
def messages_are_handled(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No message that comes in makes the one who is handed it fail, in whichever test."""
    yield
    said = [record.getMessage() for record in caplog.get_records("call")]
    assert not [each for each in said if each.startswith(("handling a message", "Task exception was never"))]
