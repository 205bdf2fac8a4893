"""Two who do opposite things to one id at the same time: one of them wins, and the other is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.waiting import until
from turnout import (
    Client,
    Fatal,
    InvalidState,
    JobExists,
    JobNotFound,
    JobState,
    OutcomeUnknown,
    PermissionDenied,
    activity,
)
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory


@activity
async def one(text: str = "") -> int:
    return len(text)


@activity
async def other(text: str = "") -> int:
    return len(text)


@activity
async def size(text: str, fail: bool) -> int:
    if fail:
        raise Fatal("no")
    return len(text)


@pytest.mark.parametrize("delays", [(None, None), (60.0, 60.0), (None, 60.0)], ids=["now", "later", "mixed"])
async def test_one_id_of_two_activities_at_once(turnout_client: Client, delays: tuple[float | None, ...]) -> None:
    """Of two submits of an id to two activities one is the job; the other gets JobExists, and leaves nothing."""
    async with await Client.connect(turnout_client.connect_options.servers, namespace=turnout_client.namespace) as far:
        for n in range(20):
            submits = [
                client.submit(activity.options(id=f"same-{n}", delay=delay))
                for client, activity, delay in ((turnout_client, one, delays[0]), (far, other, delays[1]))
            ]
            if n % 2:
                submits.reverse()
            got = await asyncio.gather(*submits, return_exceptions=True)
            winners = [each for each in got if not isinstance(each, BaseException)]
            losers = [each for each in got if isinstance(each, JobExists)]
            assert (len(winners), len(losers)) == (1, 1), got
            info = await turnout_client.job(f"same-{n}").info()
            assert info.activity == winners[0].activity == losers[0].handle.activity
    assert sum((await turnout_client.count()).values()) == 20


async def test_deleted_or_retried_and_never_half_of_both(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Of a deletion and a retry at once one wins: the job is gone, or it runs with the payload that it had."""
    gone: dict[int, bool] = {}
    async with await Client.connect(turnout_client.connect_options.servers, namespace=turnout_client.namespace) as far:

        async def both(n: int) -> None:
            handle = await turnout_client.submit(size.options(id=f"c{n}"), "x" * 40_000, False)
            await handle.cancel("no")
            acts: list[Any] = [handle.delete(), far.job(f"c{n}", "size").retry()]
            deleted, retried = await asyncio.gather(*acts, return_exceptions=True)
            gone[n] = isinstance(retried, JobNotFound) and deleted is None
            assert gone[n] or (isinstance(deleted, InvalidState) and retried is None), (deleted, retried)
            if gone[n]:
                with pytest.raises(JobNotFound):
                    await handle.info()

        for first in range(0, 24, 8):
            await asyncio.gather(*(both(n) for n in range(first, first + 8)))
    async with turnout_worker(size):
        for n in range(24):
            handle = turnout_client.job(f"c{n}", size)

            async def ended_or_gone(handle: Any = handle) -> str | None:
                try:
                    info = await handle.info()
                except JobNotFound:
                    return "gone"
                return str(info.state) if info.state.final else None

            state = await until(ended_or_gone)
            assert state == ("gone" if gone[n] else "completed")


MAY = """
authorization { users: [
    {user: all, password: p},
    {user: few, password: p, permissions: {publish: {deny: ["%s"]}}}
] }
"""


@pytest.mark.parametrize(
    ("denied", "options", "error"),
    [
        ("turnout.timers.>", {"delay": 1.0}, PermissionDenied),
        ("$KV.turnout_jobs.>", {"delay": 1.0}, PermissionDenied),
        ("$KV.turnout_jobs.>", {"expires_in": 3600.0}, OutcomeUnknown),
    ],
    ids=["timer", "record", "deadline"],
)
async def test_a_submit_that_raises_is_undone_or_says_so(
    denied: str, options: dict[str, Any], error: type[Exception]
) -> None:
    """What a submit has stored before it was refused is taken back; where it may run all the same, that is said."""
    with NatsServer(config=MAY % denied) as server:
        async with Client.connect(server.url, user="all", password="p") as admin:
            async with Client.connect(server.url, user="few", password="p") as client:
                with pytest.raises(error):
                    await client.submit(one.options(id="mine", **options))
            if error is OutcomeUnknown:
                assert (await admin.job("mine").info()).state is JobState.queued
            else:
                with pytest.raises(JobNotFound):
                    await admin.job("mine").info()
                await admin.submit(other.options(id="mine"))
