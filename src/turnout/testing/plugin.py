"""The pytest plugin of turnout: fixtures for tests of activities against a real server.

It is active wherever turnout and pytest are installed. `nats_server` needs `turnout[server]`; `turnout_client` and
`turnout_worker` need pytest-asyncio as well, in either of its modes. `workflow_environment` needs pytest-asyncio alone.

    async def test_converts(turnout_client, turnout_worker):
        async with turnout_worker(convert_video):
            handle = await turnout_client.submit(convert_video, path="a.mp4")
            assert (await handle.result(timeout=10)).frames == 24

The rest of turnout is imported when a fixture is first used: a test run that uses none of them pays nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from turnout.testing.server import NatsServer


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """One nats-server for the whole session. A test that kills or pauses it should start a NatsServer of its own."""
    with NatsServer() as server:
        yield server


# A pytest plugin that fails to import stops every run of that environment, so a missing pytest-asyncio is told to those
# alone who ask for the fixtures that need it.
if importlib.util.find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def turnout_client(nats_server: NatsServer) -> AsyncIterator[Any]:
        """A connected `turnout.Client` with a namespace of its own, which is removed from the server after the test."""
        from turnout.testing.fixtures import own_namespace

        async with own_namespace(nats_server) as client:
            yield client

    @pytest_asyncio.fixture
    async def turnout_worker(turnout_client: Any) -> AsyncIterator[Any]:
        """Makes running workers for `turnout_client`: `async with turnout_worker(activity, concurrency=2): ...`"""
        from turnout.testing.fixtures import WorkerFactory

        async with WorkerFactory(turnout_client) as factory:
            yield factory

    @pytest_asyncio.fixture
    async def workflow_environment() -> AsyncIterator[Any]:
        """Makes environments without a server: `env = await workflow_environment(workflows=[order])`."""
        from turnout.testing.fixtures import EnvironmentFactory

        async with EnvironmentFactory() as factory:
            yield factory
else:

    @pytest.fixture(name="workflow_environment")
    def no_environment() -> None:
        """Tells what is missing."""
        pytest.fail("the fixture workflow_environment needs pytest-asyncio: pip install pytest-asyncio")

    @pytest.fixture(name="turnout_client")
    def no_client() -> None:
        """Tells what is missing."""
        pytest.fail("the fixtures turnout_client and turnout_worker need pytest-asyncio: pip install pytest-asyncio")

    @pytest.fixture(name="turnout_worker")
    def no_worker(turnout_client: None) -> None:
        """Tells what is missing, through `turnout_client`."""
