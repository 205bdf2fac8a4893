"""Pausing an activity: no attempt of it begins, on any node, whoever starts, dies or restarts meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

from tests.support.supervising import supervised
from tests.support.waiting import running, until
from turnout import ActivityNotFound, Client, InvalidValue, JobState, RetryPolicy, Waiting, activity, current_job
from turnout.store.consumers import consumer_of
from turnout.store.pauses import Pause
from turnout.supervisor.supervisor import SupervisorOptions
from turnout.testing import NatsServer

SOON_S = 30.0
"""Within this a resumed job has run, on a busy machine as well, and not when its lease is over."""

fails: list[asyncio.Event] = []
"""When the last of them is set `fails_once` fails."""


@activity
async def paint(colour: str = "red") -> str:
    return colour


@activity
async def wash() -> str:
    return "clean"


@activity(retry=RetryPolicy(delays=[0.1]))
async def fails_once() -> str:
    if current_job().attempt == 1:
        await fails[-1].wait()
        raise ValueError("not yet")
    return "at last"


@activity(concurrency=1)
async def slow() -> None:
    await asyncio.sleep(3600)


async def paused(client: Client, name: str) -> bool:
    found = await consumer_of(client.store.connection, client.store.names, name)
    return found is not None and found.paused


async def waits(client: Client, job_id: str) -> Waiting | None:
    return (await client.job(job_id).info()).waiting_for


async def test_a_paused_activity_waits_until_it_is_resumed(turnout_client: Client, turnout_worker: Any) -> None:
    """Its jobs are stored and say what they wait for, those of others run; resumed, they run at once."""
    async with turnout_worker(paint, wash, concurrency=2):
        await turnout_client.pause(paint, "the brush is lost")
        handle = await turnout_client.submit(paint)
        assert await (await turnout_client.submit(wash)).result(timeout=30) == "clean"
        waiting = await waits(turnout_client, handle.id)
        assert waiting is not None
        assert (waiting.kind, waiting.name) == ("paused", "paint")
        assert waiting.since is not None
        assert waiting.since.tzinfo is not None
        listed = [info.waiting_for async for info in turnout_client.jobs(state="queued")]
        assert [each.kind for each in listed if each is not None] == ["paused"]
        states = {each.name: (each.paused, each.note) for each in await turnout_client.activities()}
        assert states == {"paint": (True, "the brush is lost"), "wash": (False, "")}

        await turnout_client.resume("paint")
        assert await handle.result(timeout=SOON_S) == "red"
        assert {each.paused for each in await turnout_client.activities()} == {False}


async def test_a_pause_holds_over_restarts_of_everything(
    turnout_client: Client, turnout_worker: Any, nats_server: NatsServer
) -> None:
    """Neither a killed server nor a new worker ends it, nor that the consumer is made anew."""
    async with turnout_worker(paint):
        await turnout_client.pause(paint, "holidays")
    handle = await turnout_client.submit(paint)
    await asyncio.to_thread(nats_server.kill)
    await asyncio.to_thread(nats_server.start)
    await turnout_client.store.connection.wait_up()
    await until(lambda: paused(turnout_client, "paint"))
    await turnout_client.store.connection.api(f"CONSUMER.DELETE.{turnout_client.store.names.work}.paint")
    async with turnout_worker(paint, wash):
        assert await paused(turnout_client, "paint")
        assert await (await turnout_client.submit(wash)).result(timeout=30) == "clean"
        assert (await handle.info()).state is JobState.queued
        await turnout_client.resume(paint)
        assert await handle.result(timeout=SOON_S) == "red"


async def test_a_pause_of_some_seconds_ends_by_itself(turnout_client: Client, turnout_worker: Any) -> None:
    """Not before its time, and soon after it."""
    async with turnout_worker(paint):
        began = asyncio.get_running_loop().time()
        await turnout_client.pause(paint, duration=dt.timedelta(seconds=1))
        handle = await turnout_client.submit(paint)
        assert await handle.result(timeout=1 + SOON_S) == "red"
        assert asyncio.get_running_loop().time() - began > 0.9
        assert not (await turnout_client.activities())[0].paused


async def test_what_waits_for_its_retry_waits_for_the_end_of_the_pause(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """And is neither taken for stuck meanwhile nor given up, however many leases that takes."""
    options = SupervisorOptions(liveness_ttl=1.0, look_every=0.1, sweep_every=0.2, stuck_leases=0.01)
    async with supervised(turnout_client, options), turnout_worker(fails_once):
        fails.append(asyncio.Event())
        handle = await turnout_client.submit(fails_once)
        await running(handle)
        await turnout_client.pause(fails_once)
        fails[-1].set()

        async def overdue() -> bool:
            waiting = await waits(turnout_client, handle.id)
            return waiting is not None and waiting.kind == "paused" and waiting.since is not None

        await until(overdue)
        await asyncio.sleep(2.0)  # twenty looks of the supervisor, by whose measure the job is stuck after 0.3 s
        found = await turnout_client.store.queue.find("fails_once", handle.id)
        assert found is not None
        assert found.replaced == 0
        await turnout_client.resume(fails_once)
        assert await handle.result(timeout=SOON_S) == "at last"


async def test_a_pause_that_its_writer_could_not_apply_is_applied(turnout_client: Client, turnout_worker: Any) -> None:
    """Whoever dies between the record and the consumer leaves it to the acting supervisor, in both directions."""
    async with turnout_worker(paint):
        pauses, connection, names = (
            turnout_client.store.pauses,
            turnout_client.store.connection,
            turnout_client.store.names,
        )
        await pauses.put("paint", Pause(connection.now()))
        await connection.api(f"CONSUMER.PAUSE.{names.work}.paint", {"pause_until": "0001-01-01T00:00:00Z"})
        await pauses.set_right()
        assert await paused(turnout_client, "paint")
        await pauses.end("paint")
        await connection.api(f"CONSUMER.PAUSE.{names.work}.paint", {"pause_until": "2100-01-01T00:00:00Z"})
        await pauses.set_right()
        assert not await paused(turnout_client, "paint")


async def test_a_job_says_that_no_node_works_on_it_or_that_all_are_busy(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """`waiting_for` of a queued job is a node, or a slot of one; of a running job it is nothing."""
    first = await turnout_client.submit(slow)
    waiting = await waits(turnout_client, first.id)
    assert waiting is not None
    assert (waiting.kind, waiting.name) == ("node", "slow")
    async with turnout_worker(slow):

        async def runs() -> bool:
            return (await first.info()).state is JobState.running

        await until(runs)
        assert (await first.info()).waiting_for is None
        second = await turnout_client.submit(slow)
        waiting = await waits(turnout_client, second.id)
        assert waiting is not None
        assert (waiting.kind, waiting.name) == ("slot", "slow")


@pytest.mark.parametrize("duration", [0, -1, float("inf"), "soon", 1e12])
async def test_a_pause_that_cannot_be_is_refused(turnout_client: Client, turnout_worker: Any, duration: Any) -> None:
    """Before anything is stored; an activity that nobody has declared is told with those that are."""
    async with turnout_worker(paint):
        with pytest.raises(InvalidValue, match="duration"):
            await turnout_client.pause(paint, duration=duration)
        with pytest.raises(InvalidValue, match="note"):
            await turnout_client.pause(paint, 7)  # type: ignore[arg-type]
        with pytest.raises(ActivityNotFound, match="plaint; those known are: paint"):
            await turnout_client.pause("plaint")
        with pytest.raises(ActivityNotFound, match="plaint"):
            await turnout_client.resume("plaint")
        assert not (await turnout_client.activities())[0].paused
