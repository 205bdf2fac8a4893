"""Jobs that a node has in hand while they wait for a place of a limit: without a slot, before they join the line."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from tests.support.waiting import parked, until
from turnout import Client, JobHandle, JobState, Limit, activity
from turnout.core import limits
from turnout.core.limits import Entry, Holder, LimitKey, Rule
from turnout.store.consumers import consumer_of
from turnout.worker import admission

order: list[str] = []
"""What has begun, in order."""
at_once: list[int] = []
"""How many ran whenever one began."""
running: set[object] = set()
gates: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    for each in (order, at_once, running):
        each.clear()
    gates[:] = [asyncio.Event()]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait in hand for as long as a test may take."""
    for patience in ("YOUNG_S", "BRISK_YOUNG_S"):
        monkeypatch.setattr(admission, patience, 600.0)


@activity(limits=[Limit("few", concurrency=2)])
async def narrow(name: str = "") -> None:
    order.append(name)
    running.add(me := object())
    at_once.append(len(running))
    while max(at_once) < 2:  # until as many run as may, however slow the machine is
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    running.remove(me)


@activity(limits=[Limit("one", concurrency=1)])
async def held(name: str = "") -> None:
    order.append(name)
    await gates[0].wait()


@activity(limits=[Limit("another", concurrency=1), Limit("one", concurrency=1)])
async def picky(name: str = "") -> None:
    order.append(name)
    await gates[0].wait()


@activity
async def free() -> str:
    return "done"


@activity
async def occupy() -> None:
    order.append("occupies")
    await gates[0].wait()


async def begun() -> bool:
    return bool(order)


async def handed_over(client: Client, name: str, count: int) -> bool:
    consumer = await consumer_of(client.store.connection, client.store.names, name)
    return consumer is not None and consumer.deliveries >= count


async def is_parked(client: Client, job_id: str) -> bool:
    """Whether it is in the line, and whoever frees a place knows: its message is acknowledged then."""
    return await parked(client, job_id) and await client.store.queue.find_named("held", job_id) is None


async def one_that_runs(client: Client) -> JobHandle[Any]:
    """It has the place, and keeps it until its gate is open."""
    handle = await client.submit(held)
    assert await until(begun)
    return handle


async def one_in_hand(client: Client) -> JobHandle[Any]:
    """A second job, which a node has been handed."""
    handle = await client.submit(held)
    assert await until(partial(handed_over, client, "held", 2))
    return handle


async def test_what_waits_in_hand_holds_no_slot(turnout_client: Client, turnout_worker: Any, patient: None) -> None:
    """Others have it meanwhile; and who waits needs one again when he has a place."""
    async with turnout_worker(held, free, concurrency=2):
        first, second = await turnout_client.submit_many(held, [{}, {}])
        assert await until(partial(handed_over, turnout_client, "held", 2))
        assert [await (await turnout_client.submit(free)).result(timeout=30) for _ in range(3)] == ["done"] * 3
        assert (await second.info()).state is JobState.queued
        gates[0].set()
        await asyncio.gather(first.result(timeout=30), second.result(timeout=30))


async def test_a_node_keeps_few_in_hand(turnout_client: Client, turnout_worker: Any, patient: None) -> None:
    """The rest waits at the server, where it costs nothing, and all of it is done in the end, never more at once."""
    handles = await turnout_client.submit_many(narrow, [{}] * 60)
    async with turnout_worker(narrow, concurrency=8):
        await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
    assert max(at_once) == 2


async def test_who_waits_is_not_parked_while_places_change_hands_quickly(
    turnout_client: Client, turnout_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor at the node that has no place: the line would cost all others more than the waiting."""
    monkeypatch.setattr(limits, "BRISK_S", 600.0)  # however slow the machine is
    monkeypatch.setattr(admission, "BRISK_YOUNG_S", 600.0)
    monkeypatch.setattr(admission, "YOUNG_S", 0.0)
    async with turnout_worker(held, name="a", concurrency=1):
        first = await one_that_runs(turnout_client)
        async with turnout_worker(held, name="b", concurrency=4):
            second = await one_in_hand(turnout_client)
            await asyncio.sleep(0.3)  # the node has looked whether it lasts by then
            gates[0].set()
            await asyncio.gather(first.result(timeout=30), second.result(timeout=30))
    assert not await turnout_client.store.lanes.all()  # of jobs that were let past others, say


async def test_who_waits_in_hand_has_his_turn_by_priority(turnout_client: Client) -> None:
    """Then in the order in which they came."""
    places, key = turnout_client.store.places, LimitKey("one", "one", Rule(1))

    class Patient:
        def lasts(self, *, brisk: bool) -> bool:
            return True

    async def run(name: str, rank: int) -> None:
        holder = Holder("held", name, 1, 1, 0.0, "a")
        assert await places.take(key, holder, rank, Patient()) is Entry.held
        order.append(name)
        await gates[0].wait()
        await places.leave(key, holder)

    async with asyncio.TaskGroup() as running:
        running.create_task(run("first", 3))
        assert await until(begun)
        for name, rank in (("d", 3), ("e", 3), ("f", 5), ("b", 2), ("a", 1), ("c", 2)):
            running.create_task(run(name, rank))
        await asyncio.sleep(0)
        gates[0].set()
    assert order == ["first", *"abcdef"]


async def test_more_than_there_are_slots_have_their_turn_in_order(turnout_client: Client, turnout_worker: Any) -> None:
    """None joins the line at once, past those that wait in hand and came before it."""

    async def all_wait() -> bool:
        return [limit.waiting async for limit in turnout_client.limits()] == [8]

    async with turnout_worker(held, concurrency=2):
        await one_that_runs(turnout_client)
        handles = [await turnout_client.submit(held, str(number)) for number in range(8)]
        assert await until(all_wait)
        gates[0].set()
        await handles[-1].result(timeout=30)
    assert order == ["", *map(str, range(8))]


async def test_who_joins_the_line_at_once_takes_those_along_that_came_before(
    turnout_client: Client, turnout_worker: Any, patient: None
) -> None:
    """One that has a place of another limit already does not wait in hand; those of a lower priority stay."""

    async def both_wait() -> bool:
        return sum([limit.waiting async for limit in turnout_client.limits()]) == 2

    async with turnout_worker(held, picky, concurrency=3):
        await one_that_runs(turnout_client)
        last = await turnout_client.submit(held.options(priority=5), "z")
        await turnout_client.submit(held, "a")
        assert await until(partial(handed_over, turnout_client, "held", 2))
        await turnout_client.submit(picky, "b")
        assert await until(both_wait)
        gates[0].set()
        await last.result(timeout=30)
    assert order == ["", *"abz"]


async def test_what_is_freed_elsewhere_is_heard_of(turnout_client: Client, turnout_worker: Any, patient: None) -> None:
    """A node whose jobs wait in hand looks again and again, though nothing is freed there."""
    async with turnout_worker(held, name="a", concurrency=1):
        first = await one_that_runs(turnout_client)
        async with turnout_worker(held, name="b", concurrency=4):
            second = await one_in_hand(turnout_client)
            gates[0].set()
            await first.result(timeout=30)
            await second.result(timeout=30)


async def test_a_node_that_stops_puts_what_it_has_in_hand_into_the_line(
    turnout_client: Client, turnout_worker: Any, patient: None
) -> None:
    """Whoever frees a place hands it on to that."""
    async with turnout_worker(held, name="a", concurrency=1):
        first = await one_that_runs(turnout_client)
        async with turnout_worker(held, name="b", concurrency=4):
            second = await one_in_hand(turnout_client)
        assert await until(partial(parked, turnout_client, second.id))
        gates[0].set()
        await asyncio.gather(first.result(timeout=30), second.result(timeout=30))


async def test_who_has_waited_in_the_line_is_let_past_those_who_have_not_come_so_far(
    turnout_client: Client, turnout_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """His place would be held for nothing while all that waits at the server is handed over before him."""
    async with turnout_worker(held, name="a", concurrency=2):
        first = await turnout_client.submit(held, "first")
        second = await turnout_client.submit(held, "second")
        assert await until(partial(is_parked, turnout_client, second.id))
        others = await turnout_client.submit_many(held, [{"name": "other"}] * 40)
        gates[0].set()
        await asyncio.gather(*(handle.result(timeout=60) for handle in (first, second, *others)))
    assert order[:2] == ["first", "second"]
    assert (await second.info()).priority == 3


@activity(global_concurrency=1)
async def one_at_a_time() -> None:
    order.append("")
    await gates[0].wait()


@pytest.mark.parametrize(("ref", "limit"), [(held, "one"), (one_at_a_time, "activity:one_at_a_time")])
async def test_it_says_at_once_what_it_waits_for(
    turnout_client: Client, turnout_worker: Any, patient: None, ref: Any, limit: str
) -> None:
    """Nothing of it is on record while it waits in hand, nor of those behind it that nobody asks for; and none waits
    for the limit when there is a place."""
    client = turnout_client
    async with turnout_worker(ref, concurrency=5):
        holder = await client.submit(ref)
        await until(begun)
        assert (await holder.info()).waiting_for is None
        handles = await client.submit_many(ref, [{}] * 20)
        for handle in handles:
            waiting = (await handle.info()).waiting_for
            assert waiting is not None
            assert (waiting.kind, waiting.name) == ("limit", limit)
            assert not await parked(client, handle.id)
        told = [info.waiting_for async for info in client.jobs(state="queued")]
        assert {(each.kind, each.name) for each in told if each is not None} == {("limit", limit)}
        assert len(told) == 20
        await client.set_limit(limit, 0)
        gates[0].set()
        await holder.result(timeout=30)
        await client.cancel_jobs(activity=ref)
        await client.clear_limit(limit)
    gates[0].clear()
    order.clear()
    async with turnout_worker(occupy, ref, concurrency=1):
        await client.submit(occupy)
        await until(begun)
        waiting = (await (await client.submit(ref)).info()).waiting_for
        assert waiting is not None
        assert (waiting.kind, waiting.name) == ("slot", ref.name)
