"""Jobs that wait for a limit and that nobody can start now are passed over, and keep their turn. On a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest

from tests.support.waiting import parked, until
from turnout import Client, JobHandle, JobState, Limit, activity
from turnout.store.pauses import Pause

started: list[str] = []
gates: dict[str, asyncio.Event] = {}

SOON_S = 30.0
"""A place is kept for 15 s for each job that nobody receives."""


@pytest.fixture(autouse=True)
def nothing_started() -> None:
    started.clear()
    gates.clear()


async def begin(name: str) -> None:
    started.append(name)
    if name.startswith("holder"):
        await gates.setdefault(name, asyncio.Event()).wait()


@activity(limits=[Limit("one", concurrency=1)])
async def paint(name: str) -> None:
    await begin(name)


@activity(limits=[Limit("one", concurrency=1)])
async def wash(name: str) -> None:
    await begin(name)


@activity(limits=[Limit("mail", rate=20, burst=1)])
async def send(name: str) -> None:
    await begin(name)


@activity(limits=[Limit("mail", rate=20, burst=1)])
async def call(name: str) -> None:
    await begin(name)


async def has_begun(name: str) -> bool:
    return name in started


async def hold(client: Client, name: str = "holder") -> JobHandle[Any]:
    """A job that has the place until `gates[name]` is set."""
    handle = await client.submit(wash, name)
    await until(partial(has_begun, name))
    return handle


async def park(client: Client, ref: Any, *names: str) -> list[JobHandle[Any]]:
    """Jobs that wait for their limit, one behind the other."""
    handles = []
    for name in names:
        handles.append(await client.submit(ref, name))
        await until(partial(parked, client, handles[-1].id))
    return handles


async def all_done(handles: Iterable[JobHandle[Any]]) -> None:
    await asyncio.gather(*(handle.result(timeout=SOON_S) for handle in handles))


async def passed_over(client: Client, *activities: str) -> bool:
    """Whether just these are noted at the limit."""
    places = (await client.store.places.load("one"))[0]
    return places is not None and places.idle == activities


async def test_a_paused_activity_does_not_hold_up_others(turnout_client: Client, turnout_worker: Any) -> None:
    """Jobs of another that wait behind its own go on at once; resumed, those have the turn that they had."""
    client = turnout_client
    async with turnout_worker(paint, wash, name="a"), turnout_worker(paint, wash, name="b"):
        first = await hold(client)
        paints = await park(client, paint, "p0", "p1", "p2")
        paints += await park(client, paint.options(priority=1), "urgent")
        washes = await park(client, wash, "w0", "w1", "w2")
        await client.pause(paint)
        gates["holder"].set()
        await all_done([first, *washes])
        assert started == ["holder", "w0", "w1", "w2"]
        second = await hold(client, "holder again")
        late = await park(client, wash, "late")
        await client.resume(paint)
        gates["holder again"].set()
        await all_done([second, *paints, *late])
        assert started[4:] == ["holder again", "urgent", "p0", "p1", "p2", "late"]
        await until(partial(passed_over, client))


async def test_nor_does_it_where_jobs_wait_for_a_token(turnout_client: Client, turnout_worker: Any) -> None:
    """It takes none of a rate, and what waits is woken when it is resumed."""
    client = turnout_client
    async with turnout_worker(send, call):
        await client.set_limit("mail", rate=0)
        sends = await park(client, send, *(f"s{each}" for each in range(5)))
        calls = await park(client, call, "c0", "c1")
        await client.pause(send)
        await client.clear_limit("mail")
        await all_done(calls)
        assert started == ["c0", "c1"]
        await client.resume(send)
        await all_done(sends)


@pytest.mark.parametrize("ends_by_itself", [True, False])
async def test_a_pause_that_the_limit_was_not_told_of(
    turnout_client: Client, turnout_worker: Any, ends_by_itself: bool
) -> None:
    """Whoever paused, or resumed, has died before he could say so: a supervisor does, and frees the place that was kept
    for a job that nobody can receive."""
    client, pauses = turnout_client, turnout_client.store.pauses
    async with turnout_worker(paint, wash):
        holder = await hold(client)
        paints = await park(client, paint, "p0", "p1", "p2")
        washes = await park(client, wash, "w0", "w1", "w2")
        now = client.store.connection.now
        await pauses.put("paint", Pause(now()))
        gates["holder"].set()
        await all_done([holder, *washes])
        assert not {"p0", "p1", "p2"} & set(started)
        if ends_by_itself:
            await pauses.put("paint", Pause(now(), now() + 1.0))
        else:
            await pauses.end("paint")
        await all_done(paints)


async def test_an_activity_without_a_node_does_not_hold_up_others(turnout_client: Client, turnout_worker: Any) -> None:
    """Its jobs wait for a node that works on it, and have their turn when there is one."""
    client = turnout_client
    async with turnout_worker(wash, name="stays"):
        holder = await hold(client)
        async with turnout_worker(paint, name="goes"):
            paints = await park(client, paint, "p0", "p1", "p2")
        washes = await park(client, wash, "w0", "w1", "w2")
        await until(partial(passed_over, client, "paint"))
        gates["holder"].set()
        await all_done([holder, *washes])
        assert started == ["holder", "w0", "w1", "w2"]
        async with turnout_worker(paint, name="comes"):
            await all_done(paints)
        assert started[4:] == ["p0", "p1", "p2"]


EAST = {"zone": "east"}


@activity(limits=[Limit("one", concurrency=1)], requires=EAST)
async def sort(name: str) -> None:
    await begin(name)


@activity
async def keep_busy() -> None:
    await asyncio.Event().wait()


async def test_jobs_that_require_what_no_node_has_hold_up_no_others(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """Whoever is handed such a job sends it on and frees its place, though nobody supervises; a node that has what
    they require runs them."""
    client = turnout_client
    leader = client.store.names.node("leader.supervisor")
    await client.store.connection.store(leader, b'{"supervisor": "nobody", "term": 1, "ttl": 600}')
    async with turnout_worker(wash, sort, name="west"):
        holder = await hold(client)
        async with turnout_worker(sort, name="east", properties=EAST):
            sorts = await park(client, sort, "s0", "s1", "s2")
        washes = await park(client, wash, "w0", "w1", "w2")
        gates["holder"].set()
        await all_done([holder, *washes])
        assert started == ["holder", "w0", "w1", "w2"]
        async with turnout_worker(sort, name="east-again", properties=EAST):
            await all_done(sorts)
        assert sorted(started[4:]) == ["s0", "s1", "s2"]


async def test_nor_do_those_that_nobody_is_handed(turnout_client: Client, turnout_worker: Any) -> None:
    """Where all slots of the nodes that would send them on are taken, a supervisor sees that nobody fits."""
    client = turnout_client
    async with turnout_worker(wash, name="washes"):
        holder = await hold(client)
        async with turnout_worker(sort, name="east", properties=EAST):
            sorts = await park(client, sort, "s0", "s1", "s2")
        washes = await park(client, wash, "w0", "w1", "w2")
        async with turnout_worker(keep_busy, sort, name="west", concurrency=1):
            await until(partial(runs, await client.submit(keep_busy)))
            gates["holder"].set()
            await all_done([holder, *washes])
            assert started == ["holder", "w0", "w1", "w2"]
            async with turnout_worker(sort, name="east-again", properties=EAST):
                await all_done(sorts)
    assert sorted(started[4:]) == ["s0", "s1", "s2"]


async def runs(handle: JobHandle[Any]) -> bool:
    return (await handle.info()).state is JobState.running
