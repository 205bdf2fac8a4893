"""A server that takes less in one message than usual: bodies, records and objects follow what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support.waiting import letters
from turnout import (
    Client,
    Fatal,
    JobFaulted,
    RetryPolicy,
    Worker,
    activity,
    current_job,
    workflow,
)
from turnout.core.record import ATTEMPTS_KEPT
from turnout.testing import NatsServer

MOST = 64 * 1024
ONCE = RetryPolicy.none()
runs: list[str] = []


@pytest.fixture(scope="module")
def small_server() -> Iterator[NatsServer]:
    with NatsServer(config=f"max_payload: {MOST}") as server:
        yield server


@pytest_asyncio.fixture
async def client(small_server: NatsServer) -> AsyncIterator[Client]:
    runs.clear()
    async with Client.connect(small_server.url) as client:
        yield client


@activity(retry=ONCE, lease=1)
async def echo(text: str) -> str:
    runs.append(text[:1])
    await current_job().checkpoint(text)
    return text


@activity(retry=RetryPolicy(delays=[0.01] * 100))
async def complain(times: int) -> None:
    runs.append("")
    if len(runs) == times:
        raise Fatal("渡" * 5_000)
    raise ValueError("渡" * 5_000)


@activity(retry=ONCE, lease=1)
async def grow(size: int) -> str:
    runs.append("")
    return "r" * size


@workflow
async def collects(text: str) -> int:
    texts = [text, *await asyncio.gather(*(echo(text) for _ in range(20)))]
    return sum(map(len, texts))


@pytest.mark.parametrize("size", [3_000, 30_000, 300_000])
async def test_bodies_of_any_size(client: Client, size: int) -> None:
    """Payload, checkpoint and result come back, in one attempt."""
    async with Worker(client, activities=[echo]):
        handle = await client.submit(echo, '"' * size)
        assert await handle.result(timeout=60) == '"' * size
        info = await handle.info()
        assert (info.attempt, info.losses, info.checkpoint) == (1, 0, '"' * size)


async def test_many_long_errors(client: Client) -> None:
    """What a record tells of its attempts is cut short before it is too large to be stored."""
    async with Worker(client, activities=[complain]):
        handle = await client.submit(complain, ATTEMPTS_KEPT + 10)
        with pytest.raises(JobFaulted, match="渡"):
            await handle.result(timeout=120)
        info = await handle.info()
        assert (info.attempt, info.losses, info.reason) == (ATTEMPTS_KEPT + 10, 0, "fatal")
        assert [letter.id for letter in await letters(client, 1)] == [handle.id]


async def test_an_end_that_cannot_be_stored_says_why(client: Client) -> None:
    """The job is faulted for that, after one attempt, and not for a node that would have vanished."""
    policy = RetryPolicy(max_attempts=3, never_on=tuple(f"{n:03}{'渡' * 207}" for n in range(99)))
    options = grow.options(retry=policy)
    async with Worker(client, activities=[grow]):
        handle = await client.submit(options, 4_000)
        with pytest.raises(JobFaulted, match=f"max_payload of {MOST}"):
            await handle.result(timeout=60)
        info = await handle.info()
        assert (len(runs), info.attempt, info.losses, info.reason) == (1, 1, 0, "invalid_result")
        small = await client.submit(options, 10)
        assert await small.result(timeout=60) == "r" * 10


async def test_workflows_too(client: Client) -> None:
    """Arguments, results of activities, and records that name them."""
    async with Worker(client, activities=[echo], workflows=[collects]):
        handle = await client.start(collects, "x" * 20_000)
        assert await handle.result(timeout=120) == 21 * 20_000
