"""What a node asks for and takes: many activities, few slots."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest

from tests.support.waiting import until
from turnout import Activity, Client, JobState, activity, current_job
from turnout.core.record import JobRecord
from turnout.core.spec import Body, JobSpec

order: list[str] = []
NO_ARGUMENTS = Body(text="{}", size=2)
gates: list[asyncio.Event] = []


def make(name: str, **options: Any) -> Activity[..., Any]:
    @activity(name=name, **options)
    async def one(pause: float = 0.0) -> str:
        order.append(name)
        await asyncio.sleep(pause)
        return name

    return one


@activity
async def held() -> None:
    """Runs until the test says so."""
    await gates[-1].wait()


async def deliveries(client: Client, names: list[str]) -> int:
    """How many deliveries the server has made of these activities' jobs."""
    work = client.store.names.work
    infos = [await client.store.connection.api(f"CONSUMER.INFO.{work}.{name}") for name in names]
    return sum(int(info["delivered"]["consumer_seq"]) for info in infos)


async def test_two_hundred_activities_on_one_slot(turnout_client: Client, turnout_worker: Any) -> None:
    """Each job is handed over once, run once, and never given back, though the node has room for one of them."""
    activities = [make(f"a{number}") for number in range(200)]
    handles = [h for each in activities for h in await turnout_client.submit_many(each, [{}])]
    handles += await turnout_client.submit_many(activities[0], [{}] * 50)
    async with turnout_worker(*activities, concurrency=1):

        async def all_done() -> bool:
            return (await turnout_client.count())[JobState.completed] == 250

        await until(all_done, 60)
    infos = [await handle.info() for handle in handles]
    assert all((info.attempt, info.losses, info.aborts) == (1, 0, 0) for info in infos)
    assert await deliveries(turnout_client, [each.name for each in activities]) == 250
    alarms = await turnout_client.store.connection.api(f"STREAM.INFO.{turnout_client.store.names.alarms}")
    assert alarms["state"]["last_seq"] == 0


async def test_activities_take_turns(turnout_client: Client, turnout_worker: Any) -> None:
    """A backlog of one activity does not keep the few jobs of others waiting for its end."""
    order.clear()
    many, few, one = make("many"), make("few"), make("one")
    await turnout_client.submit_many(many, [{"pause": 0.01}] * 60)
    async with turnout_worker(many, few, one, concurrency=1):

        async def begun() -> bool:
            return len(order) >= 5

        await until(begun)
        before = len(order)
        handles = [*await turnout_client.submit_many(few, [{"pause": 0.01}] * 4), await turnout_client.submit(one)]
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
        others = [name for name in order[before:] if name != "many"]
        last = max(number for number, name in enumerate(order) if name != "many")
        assert sorted(others) == ["few"] * 4 + ["one"]
        assert last - before <= 16, order[before:]  # five of others, as many of the backlog, and what was under way


async def test_an_idle_node_takes_a_job_of_any_activity_at_once(turnout_client: Client, turnout_worker: Any) -> None:
    """With thirty activities on two slots a job of each begins within a moment of its submission."""
    activities = [make(f"b{number}") for number in range(30)]
    async with turnout_worker(*activities, concurrency=2):
        took = []
        for each in activities:
            at = time.monotonic()
            await (await turnout_client.submit(each)).result(timeout=30)
            took.append(time.monotonic() - at)
    assert sorted(took)[len(took) // 2] < 0.25
    assert max(took) < 10.0


async def test_one_activity_may_have_all_slots(turnout_client: Client, turnout_worker: Any) -> None:
    """What others do not use goes to the one that has work: ten at once of one activity among five."""
    gates.append(gate := asyncio.Event())
    others = [make(f"c{number}") for number in range(4)]
    async with turnout_worker(held, *others, concurrency=10):
        handles = await turnout_client.submit_many(held, [{}] * 10)

        async def all_run() -> bool:
            return (await turnout_client.count())[JobState.running] == 10

        await until(all_run)
        gate.set()
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))


async def test_a_full_node_leaves_jobs_to_others(turnout_client: Client, turnout_worker: Any) -> None:
    """Jobs of a node whose slots are taken begin at another one, at once, and are not handed to the full one."""
    gates.append(gate := asyncio.Event())
    quick = [make(f"d{number}") for number in range(5)]
    async with turnout_worker(held, *quick, concurrency=2, name="full"):
        busy = await turnout_client.submit_many(held, [{}] * 2)

        async def full() -> bool:
            return (await turnout_client.count())[JobState.running] == 2

        await until(full)
        async with turnout_worker(*quick, concurrency=2, name="free"):
            at = time.monotonic()
            handles = [await turnout_client.submit(each) for each in quick * 4]
            await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
            assert time.monotonic() - at < 20
            nodes = {(await handle.info()).attempts[0].node.rpartition("-")[0] for handle in handles}
        gate.set()
        await asyncio.gather(*(handle.result(timeout=30) for handle in busy))
    assert nodes == {"free"}


async def test_limits_that_fit_are_asked_for_at_once(turnout_client: Client, turnout_worker: Any) -> None:
    """Where the activities' own limits fit into the node's slots, each has its own, whatever the others do."""
    gates.append(gate := asyncio.Event())
    left, right = activity(name="left", concurrency=2)(held.fn), make("right", concurrency=3)
    async with turnout_worker(left, right, concurrency=5):
        await turnout_client.submit_many(left, [{}] * 20)
        handles = await turnout_client.submit_many(right, [{"pause": 0.01}] * 9)
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
        gate.set()


async def test_a_changed_place_does_not_cost_a_turn(turnout_client: Client, turnout_worker: Any) -> None:
    """Two nodes of one slot share out what waits for six activities, each job once."""
    activities = [make(f"e{number}") for number in range(6)]
    for each in activities:
        await turnout_client.submit_many(each, [{"pause": 0.005}] * 15)
    async with (
        turnout_worker(*activities, concurrency=1, name="a"),
        turnout_worker(*activities, concurrency=1, name="b"),
    ):

        async def all_done() -> bool:
            return (await turnout_client.count())[JobState.completed] == 90

        await until(all_done, 30)
    assert await deliveries(turnout_client, [each.name for each in activities]) == 90


@activity(max_lost=1)
async def suspect() -> int:
    """Runs until the test says so; how many others ran when it began."""
    await gates[-1].wait()
    return current_job().attempt


async def test_a_job_whose_losses_are_used_up_runs_alone(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for what runs there to end, and until it has ended itself nothing else is taken."""
    gates.append(busy_gate := asyncio.Event())
    quick = make("quick")
    async with turnout_worker(held, quick, suspect, concurrency=5):
        busy = await turnout_client.submit(held)
        await until(lambda: in_state(busy, JobState.running))
        gates.append(suspect_gate := asyncio.Event())
        spec = JobSpec("suspect-1", "suspect", submitted_at=turnout_client.store.connection.now(), payload=NO_ARGUMENTS)
        await turnout_client.store.registry.save(JobRecord(spec, JobState.queued, losses=1), 0)
        await turnout_client.store.queue.publish(spec, "nonce")
        handle = turnout_client.job("suspect-1", suspect)

        async def waits() -> bool:
            return "has to run alone" in caplog.text

        await until(waits)
        later = await turnout_client.submit(quick)
        assert (await handle.info()).state is JobState.queued
        busy_gate.set()
        await until(lambda: in_state(handle, JobState.running))
        assert (await later.info()).state is JobState.queued
        suspect_gate.set()
        assert await handle.result(timeout=30) == 1
        assert await later.result(timeout=30) == "quick"
    record = (await turnout_client.store.registry.load("suspect", "suspect-1")).record
    assert record is not None
    assert record.attempts[-1].alone


async def test_several_that_have_to_run_alone_do_so_one_after_the_other(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """Handed over together, none waits for the others to end: those that wait to be alone run no longer."""
    gates.append(gate := asyncio.Event())
    gate.set()
    store, ids = turnout_client.store, list[str]()
    async with turnout_worker(suspect, concurrency=5):
        for turn in range(10):
            ids = [f"suspect-{turn}-{number}" for number in range(4)]
            specs = [
                JobSpec(each, "suspect", submitted_at=store.connection.now(), payload=NO_ARGUMENTS) for each in ids
            ]
            for spec in specs:
                await store.registry.save(JobRecord(spec, JobState.queued, losses=1), 0)
            await asyncio.gather(*(store.queue.publish(spec, "nonce") for spec in specs))
            for each in ids:
                assert await turnout_client.job(each, suspect).result(timeout=30) == 1
    attempts = [(await turnout_client.job(each, suspect).info()).attempts[-1] for each in ids]
    times = sorted((each.started_at, each.ended_at or each.started_at) for each in attempts)
    assert all(ended <= begun for (_, ended), (begun, _) in itertools.pairwise(times))


async def in_state(handle: Any, state: JobState) -> bool:
    return bool((await handle.info()).state is state)
