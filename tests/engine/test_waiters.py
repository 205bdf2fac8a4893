"""Who of those that wait for a limit has his turn: by priority, and nobody waits for ever. On a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest

from tests.support.waiting import parked, until
from turnout import Client, JobHandle, JobState, Limit, activity
from turnout.core.effects import Rank, Save
from turnout.core.events import PriorityRequested
from turnout.core.lifecycle import decide
from turnout.core.limits import hashed
from turnout.core.record import JobRecord
from turnout.nats.stream import Stream
from turnout.store.perform import Performer
from turnout.supervisor.apply import Applier
from turnout.supervisor.owners import Owners
from turnout.supervisor.records import Records

started: list[str] = []
gates: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def nothing_started() -> None:
    started.clear()
    gates.clear()


async def begin(name: str) -> str:
    started.append(name)
    if name.startswith("holder"):
        await gates.setdefault(name, asyncio.Event()).wait()
    return name


@activity(limits=[Limit("one", concurrency=1)])
async def alone(name: str) -> str:
    return await begin(name)


@activity(limits=[Limit("one", concurrency=1)])
async def other(name: str) -> str:
    return await begin(name)


@activity(limits=[Limit("of:{tenant}", concurrency=1)])
async def serve(tenant: str, name: str) -> str:
    return await begin(name)


@activity(limits=[Limit("mail", rate=20, burst=1)])
async def send(name: str) -> str:
    return await begin(name)


async def has_begun(name: str) -> bool:
    return name in started


async def held(client: Client, ref: Any = alone, **payload: str) -> JobHandle[Any]:
    """A job that runs until `gates["holder"]` is set."""
    handle = await client.submit(ref, name="holder", **payload)
    await until(partial(has_begun, "holder"))
    return handle


async def park(client: Client, ref: Any, **payload: str) -> JobHandle[Any]:
    handle = await client.submit(ref, **payload)
    await until(partial(parked, client, handle.id))
    return handle


async def all_done(handles: Iterable[JobHandle[Any]]) -> None:
    await asyncio.gather(*(handle.result(timeout=30) for handle in handles))


async def entries(client: Client) -> list[str]:
    """The subjects on which somebody waits in a line."""
    store = client.store
    work = store.names.work
    info = await store.connection.api(f"STREAM.INFO.{work}", {"subjects_filter": f"{store.names.ns}.parked.>"})
    return sorted(info["state"].get("subjects") or {})


async def test_waiters_are_served_by_priority(turnout_client: Client, turnout_worker: Any) -> None:
    """Then in the order in which they came, over two nodes; nothing of them is left in the line."""
    client = turnout_client
    async with turnout_worker(alone, name="a"), turnout_worker(alone, name="b"):
        holder = await held(client)
        handles = [
            await park(client, alone.options(priority=priority), name=f"{priority}{each}")
            for each in "ab"
            for priority in (3, 5, 1)
        ]
        gates["holder"].set()
        await all_done([holder, *handles])
        assert started == ["holder", "1a", "1b", "3a", "3b", "5a", "5b"]
        await until(lambda: nobody_waits(client))


async def nobody_waits(client: Client) -> bool:
    return not await entries(client)


async def test_so_are_those_of_each_key_and_of_a_rate(turnout_client: Client, turnout_worker: Any) -> None:
    """A line of a key has an order of its own; so has one in which jobs wait for a token."""
    client = turnout_client
    async with turnout_worker(serve, send):
        await client.set_limit("mail", rate=0)
        holder = await held(client, serve, tenant="a")
        handles = [
            await park(client, ref.options(priority=priority), name=f"{kind}{priority}", **more)
            for priority in (4, 2)
            for ref, kind, more in ((serve, "key", {"tenant": "a"}), (send, "rate", {}))
        ]
        gates["holder"].set()
        await client.clear_limit("mail")
        await all_done([holder, *handles])
    for kind in ("key", "rate"):
        assert [name for name in started if name.startswith(kind)] == [f"{kind}2", f"{kind}4"]


async def test_one_turn_in_twenty_is_that_of_who_has_waited_longest(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """However many of a higher priority wait: no waiter waits for ever."""
    client = turnout_client
    async with turnout_worker(alone, concurrency=10):
        holder = await held(client)
        old = [await park(client, alone.options(priority=5), name=f"old{each}") for each in range(2)]
        names = [{"name": f"first{each}"} for each in range(40)]
        first = await client.submit_many(alone.options(priority=1), names)
        for handle in first:
            await until(partial(parked, client, handle.id))
        gates["holder"].set()
        await all_done([holder, *old, *first])
    turns = [started.index(f"old{each}") - 1 for each in range(2)]
    assert turns == [19, 39], started


async def test_a_waiter_gets_another_priority(turnout_client: Client, turnout_worker: Any) -> None:
    """Up and down, and as one that shall run now; it goes to the end of its new priority, and is one job."""
    client = turnout_client
    async with turnout_worker(alone):
        holder = await held(client)
        handles = {name: await park(client, alone, name=name) for name in "abcd"}
        await handles["a"].set_priority(5)
        await handles["c"].set_priority(2)
        await handles["b"].set_priority(1)
        await handles["b"].set_priority(2)
        await handles["d"].run_now()
        for name, priority in (("a", 5), ("b", 2), ("c", 2), ("d", 1)):
            assert (await handles[name].info()).priority == priority
        assert len(await entries(client)) == 4
        assert (await client.count())[JobState.queued] == 4
        gates["holder"].set()
        await all_done([holder, *handles.values()])
    assert started == ["holder", "d", "c", "b", "a"]


async def test_a_waiter_of_a_priority_is_cancelled(turnout_client: Client, turnout_worker: Any) -> None:
    """It leaves the line, and the next one has its turn."""
    client = turnout_client
    async with turnout_worker(alone):
        holder = await held(client)
        last = await park(client, alone.options(priority=5), name="last")
        first = await park(client, alone.options(priority=1), name="first")
        await first.cancel("no more")
        assert len(await entries(client)) == 1
        gates["holder"].set()
        await all_done([holder, last])
    assert started == ["holder", "last"]


@pytest.mark.parametrize(("priority", "order"), [(1, "bac"), (5, "acb")])
async def test_a_change_of_a_waiter_that_was_cut_short(
    turnout_client: Client, turnout_worker: Any, priority: int, order: str
) -> None:
    """Whoever changed it died when he had recorded it: a supervisor puts it where it belongs."""
    client, store = turnout_client, turnout_client.store
    async with turnout_worker(alone):
        holder = await held(client)
        handles = {name: await park(client, alone, name=name) for name in "abc"}
        await recorded(client, handles["b"].id, priority)
        assert not any("~" in subject for subject in await entries(client))
        apply = Applier(Performer(store))
        records = Records(store, apply, Owners(store, apply, lambda: True), settling_s=0.0, every_s=30.0)

        async def moved() -> bool:
            await records.read()
            await records.look()
            places = (await store.places.load("one"))[0]  # that is noted by the supervisor of the worker
            return len(await entries(client)) == 3 and places is not None and set(places.lanes) == {3, priority}

        await until(moved)
        gates["holder"].set()
        await all_done([holder, *handles.values()])
    assert started == ["holder", *order]


async def recorded(client: Client, job_id: str, priority: int) -> JobRecord:
    """The first step of a change of priority."""
    store = client.store
    loaded = await store.registry.load("alone", job_id)
    event = PriorityRequested(priority=priority, now=store.connection.now(), nonce="n")
    save, rank = decide(loaded.record, event)
    assert isinstance(save, Save)
    assert isinstance(rank, Rank)
    await store.registry.save(save.record, loaded.revision)
    return save.record


@pytest.mark.parametrize("again", [False, True])
async def test_a_waiter_that_lies_where_it_no_longer_belongs(
    turnout_client: Client, turnout_worker: Any, again: bool
) -> None:
    """Has not the turn of its earlier priority: neither one that was to be moved nor one that was moved by halves; and
    whoever asks for the same again has it moved."""
    client, store = turnout_client, turnout_client.store
    async with turnout_worker(alone):
        holder = await held(client)
        handles = {name: await park(client, alone.options(priority=1), name=name) for name in "abc"}
        await recorded(client, handles["a"].id, 5)
        if again:
            await handles["a"].set_priority(5)
            assert len(await entries(client)) == 3
        record = await recorded(client, handles["b"].id, 3)
        if again:
            await store.places.lines.enter(record)  # it waits there as well: the other entry was not removed
        gates["holder"].set()
        await all_done([holder, *handles.values()])
        assert started == ["holder", *"cba"]
        await until(lambda: nobody_waits(client))


async def test_lanes_that_nobody_has_noted_are_found(turnout_client: Client, turnout_worker: Any) -> None:
    """Whoever has joined the line died before he could note his priority: a supervisor does."""
    client, store = turnout_client, turnout_client.store
    async with turnout_worker(alone):
        await client.set_limit("one", 0)
        handle = await park(client, alone.options(priority=2), name="a")
        await Stream(store.connection, store.names.limits).purge(store.names.places(hashed("one")))
        await store.limits.give("one", None)  # so that nobody looks at the line for that
        await all_done([handle])
