"""A fleet of worker processes for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.crash.fleet import Fleet
from turnout import Client
from turnout.testing import NatsServer


@pytest_asyncio.fixture
async def fleet(nats_server: NatsServer, turnout_client: Client, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Worker processes for the test's namespace; none survives the test."""
    async with Fleet(nats_server.url, turnout_client.namespace, tmp_path) as fleet:
        yield fleet
