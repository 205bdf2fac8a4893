"""Limits that hold over more than one node or one activity, and what the server itself enforces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.rawsocket import raw_publish
from tests.support.waiting import until
from turnout import AmbiguousJob, Client, JobState, RetryPolicy, activity
from turnout.nats.connection import ApiError
from turnout.testing import NatsServer

MOST = 3
running = {"now": 0, "most": 0}
met: list[asyncio.Event] = []
"""The last of them is set when as many run as may."""


@activity(global_concurrency=MOST)
async def scarce() -> None:
    running["now"] += 1
    running["most"] = max(running["most"], running["now"])
    if running["now"] == MOST:
        met[-1].set()
    await met[-1].wait()
    await asyncio.sleep(0.02)
    running["now"] -= 1


@activity(global_concurrency=1, retry=RetryPolicy(delays=[3600]))
async def fails(ends: bool = False) -> str:
    if not ends:
        raise ValueError("not today")
    return "at last"


@activity
async def one() -> str:
    return "one"


@activity
async def two() -> str:
    return "two"


async def test_global_concurrency_holds_over_all_nodes(turnout_client: Client, turnout_worker: Any) -> None:
    """Three at once over two nodes that have room for two each: never more, and no fewer."""
    met.append(asyncio.Event())
    async with turnout_worker(scarce, name="a", concurrency=2), turnout_worker(scarce, name="b", concurrency=2):
        handles = await turnout_client.submit_many(scarce, [{}] * 24)
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
        nodes = {(await handle.info()).attempts[0].node for handle in handles}
    assert running["most"] == MOST
    assert len(nodes) == 2


async def test_what_waits_for_its_retry_does_not_count(turnout_client: Client, turnout_worker: Any) -> None:
    """`global_concurrency` is a limit of the activity's own: a job that waits for its next attempt has no place."""
    async with turnout_worker(fails):
        waits = await turnout_client.submit(fails)

        async def retrying() -> bool:
            return (await waits.info()).state is JobState.retrying

        await until(retrying)
        assert await (await turnout_client.submit(fails, ends=True)).result(timeout=30) == "at last"
        [limit] = [each async for each in turnout_client.limits()]
        assert (limit.name, limit.concurrency) == ("activity:fails", 1)


async def test_an_id_under_two_activities_is_asked_about_with_its_activity(
    turnout_client: Client, turnout_worker: Any, nats_server: NatsServer
) -> None:
    """Bare publishers can't be kept from it: the look-up by id alone says so, the one with an activity works."""
    for name in ("one", "two"):
        raw_publish(nats_server.url, f"{turnout_client.namespace}.jobs.{name}.same", b"{}")
    async with turnout_worker(one, two):

        async def both_done() -> bool:
            return (await turnout_client.count())[JobState.completed] == 2

        await until(both_done)
    with pytest.raises(AmbiguousJob, match="one, two"):
        await turnout_client.job("same").info()
    assert await turnout_client.job("same", one).result(timeout=30) == "one"
    assert await turnout_client.job("same", two).result(timeout=30) == "two"


async def test_the_server_does_not_take_schedules_together_with_discard_new(turnout_client: Client) -> None:
    """Why the work stream has no limits of its own; a later server that allows both reopens the decision."""
    config = {
        "name": f"{turnout_client.namespace}_probe",
        "subjects": [f"{turnout_client.namespace}.probe.>"],
        "allow_msg_schedules": True,
        "discard": "new",
    }
    with pytest.raises(ApiError, match="discard new"):
        await turnout_client.store.connection.api(f"STREAM.CREATE.{config['name']}", config)
