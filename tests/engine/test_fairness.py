"""Fairness: of those that wait, each key of the payload has its turn, however many the others have waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import attrs
import pytest
from pydantic import BaseModel, Field

from tests.support.supervising import supervised
from tests.support.waiting import until
from turnout import (
    Activity,
    Client,
    DefinitionError,
    InvalidValue,
    JobCancelled,
    JobExists,
    JobState,
    Limit,
    RetryPolicy,
    activity,
    activity_ref,
)
from turnout.core.effects import Replace, Save
from turnout.core.events import PriorityRequested
from turnout.core.lifecycle import decide
from turnout.core.spec import EXPRESS
from turnout.store.consumers import consumer_of, consumers_of
from turnout.store.perform import Performer
from turnout.store.topology import ConsumerOptions, Topology
from turnout.supervisor.apply import Applier
from turnout.supervisor.turns import FEWEST, Turns

BIG = 1500
FEW = 10
_LATEST = 300
"""How many of the big tenant's may have started before the last of the few: some start before anybody has looked, and
a machine that is busy looks late. In the order of their submission it would be all of them."""

started: list[str] = []


@pytest.fixture(autouse=True)
def nothing_started() -> None:
    started.clear()


@activity(concurrency=4, fairness="{tenant}")
async def serve(tenant: str, n: int = 0) -> str:
    started.append(tenant)
    await asyncio.sleep(0.05)
    return tenant


def payloads(tenant: str, count: int) -> list[dict[str, Any]]:
    return [{"tenant": tenant, "n": n} for n in range(count)]


async def publish_bare(client: Client, bodies: Iterable[bytes]) -> None:
    subject = client.store.names.bare("serve")
    await asyncio.gather(*(client.store.connection.store(subject, body) for body in bodies))


async def all_started(tenant: str, count: int) -> None:
    await until(lambda: asyncio.sleep(0, started.count(tenant) >= count), within_s=60)


def before_the_last_of(tenant: str, others: str) -> int:
    """How many of the others had started when the last of this tenant's did."""
    last = len(started) - started[::-1].index(tenant)
    return started[:last].count(others)


async def test_a_few_of_one_tenant_do_not_wait_for_all_of_another(turnout_client: Client, turnout_worker: Any) -> None:
    """Though all is queued before any worker starts; typed, by name, and bare."""
    client = turnout_client
    await client.submit_many(serve, payloads("big", BIG))
    await client.submit_many(serve, payloads("typed", FEW))
    await client.submit_many(activity_ref("serve"), payloads("named", FEW))
    await publish_bare(client, [b'{"tenant": "bare"}'] * FEW)
    async with turnout_worker(serve):
        for tenant in ("typed", "named", "bare"):
            await all_started(tenant, FEW)
    for tenant in ("typed", "named", "bare"):
        assert before_the_last_of(tenant, "big") < _LATEST, started


async def test_what_comes_while_the_worker_is_busy_has_its_turn(turnout_client: Client, turnout_worker: Any) -> None:
    """And the big one goes on in turn: nobody starves."""
    client = turnout_client
    async with turnout_worker(serve):
        await client.submit_many(serve, payloads("big", BIG))
        await all_started("big", 20)
        await client.submit_many(serve, payloads("few", 40))
        began = len(started)
        await all_started("few", 40)
    assert before_the_last_of("few", "big") < began + _LATEST
    last = len(started) - started[::-1].index("few")
    first = started.index("few")
    assert started[first:last].count("big") >= 20, started[first:last]


async def test_one_tenant_alone_has_it_all(turnout_client: Client, turnout_worker: Any) -> None:
    """Nothing is moved, and all of it runs."""
    client = turnout_client

    @activity(name="serve", concurrency=20, fairness="{tenant}")
    async def quick(tenant: str, n: int = 0) -> None:
        started.append(tenant)

    await client.submit_many(quick, payloads("big", 500))
    async with turnout_worker(quick):
        await all_started("big", 500)
    assert await client.store.lanes.all() == {}


async def test_each_of_several_tenants_has_its_turn(turnout_client: Client, turnout_worker: Any) -> None:
    """Large ones as well: while all have jobs, none has many more starts than another."""
    client = turnout_client
    await client.submit_many(serve, payloads("big", 600))
    for tenant in ("a", "b"):
        await client.submit_many(serve, payloads(tenant, 60))
    await client.submit_many(serve, payloads("few", FEW))
    async with turnout_worker(serve):
        await all_started("few", FEW)
        await all_started("a", 60)
        await all_started("b", 60)
    assert before_the_last_of("few", "big") < _LATEST
    few = started.index("few")
    last = len(started) - started[::-1].index("few")
    for tenant in ("a", "b"):
        assert started[few:last].count(tenant) >= FEW // 2, started[few:last]


async def test_fairness_is_within_a_priority(turnout_client: Client, turnout_worker: Any) -> None:
    """A higher one goes first, whosever it is; within it each tenant has its turn."""
    client = turnout_client
    await client.submit_many(serve, payloads("big", 100))
    await client.submit_many(serve.options(priority=1), payloads("urgent", 700))
    await client.submit_many(serve.options(priority=1), payloads("few", FEW))
    async with turnout_worker(serve):
        await all_started("few", FEW)
    assert before_the_last_of("few", "urgent") < _LATEST
    first = before_the_last_of("few", "urgent") + FEW
    assert started[:first].count("big") < first // 2, started


# --- jobs that were let past others -----------------------------------------------------------------------------------


async def declare(client: Client, ref: Activity[..., Any] = serve) -> None:
    """As a worker does when it begins, without taking a job."""
    fairness = ref.fairness.dumps() if ref.fairness is not None else ""
    options = ConsumerOptions(lease=30.0, max_attempts=3, max_lost=3, fairness=fairness)
    await Topology(client.store.connection, client.store.names).ensure_consumer("serve", options)


async def deal(client: Client) -> None:
    """One look of a supervisor that has just begun to act."""
    looks = iter([await consumers_of(client.store.connection, client.store.names)])
    await Turns(client.store, Applier(Performer(client.store)), lambda: next(looks, [])).look()


async def let_past(client: Client, lane: int = 3) -> list[str]:
    """The jobs in an express lane, in its order."""
    (subject,) = client.store.names.waiting("serve", lane + EXPRESS)
    return [found.id async for found in client.store.queue.scan_subject(subject)]


async def test_the_first_of_each_key_in_turn_are_let_past(turnout_client: Client) -> None:
    """A few in advance, and no more when nobody has taken them."""
    client = turnout_client
    await declare(client)
    big = await client.submit_many(serve, payloads("big", 20))
    few = await client.submit_many(serve, payloads("few", 2))
    one = await client.submit_many(serve, payloads("one", 1))
    turns = [big[0], few[0], one[0], big[1], few[1], big[2], big[3], big[4]]
    for _ in range(2):
        await deal(client)
        assert sorted(await let_past(client)) == sorted(handle.id for handle in turns)


async def test_where_all_wait_for_one_key_nothing_is_moved(turnout_client: Client) -> None:
    """Nor without a fairness, nor where the one that says it has said since that there is none."""
    client = turnout_client
    await declare(client)
    await client.submit_many(serve, payloads("big", 20))
    await deal(client)
    assert await let_past(client) == []
    await client.submit_many(serve, payloads("few", 2))
    plain = activity(name="serve")(serve.fn)
    await declare(client, plain)
    await deal(client)
    assert await let_past(client) == []
    assert await client.store.lanes.all() == {}


async def test_what_was_let_past_is_a_job_like_any(turnout_client: Client, turnout_worker: Any) -> None:
    """Ids, lists, counts, cancel, another priority, deletion; submitted when it was, of its own priority."""
    client = turnout_client
    await declare(client)
    big = await client.submit_many(serve, payloads("big", 20))
    few = [await client.submit(serve.options(id=name), "few") for name in ("cancelled", "urgent", "same", "runs")]
    before = (await few[3].info()).submitted_at
    await deal(client)
    assert {"cancelled", "urgent", "same", "runs"} <= set(await let_past(client))
    assert (await client.count(activity="serve"))[JobState.queued] == 24
    infos = [info async for info in client.jobs(activity="serve")]
    assert sorted(info.id for info in infos) == sorted(handle.id for handle in (*big, *few))
    assert {(info.state, info.priority) for info in infos} == {(JobState.queued, 3)}
    assert (await few[3].info()).submitted_at == before
    with pytest.raises(JobExists):
        await client.submit(serve.options(id="runs"), "few")
    await few[0].cancel("enough")
    with pytest.raises(JobCancelled):
        await few[0].result(timeout=30)
    await few[1].set_priority(1)
    await few[2].set_priority(3)
    assert [(await handle.info()).priority for handle in few[1:3]] == [1, 3]
    assert "urgent" not in await let_past(client)
    assert {"same", "runs"} <= set(await let_past(client))
    async with turnout_worker(serve):
        await until(lambda: asyncio.sleep(0, len(started) >= 23), within_s=60)
        assert [await handle.result(timeout=30) for handle in few[1:]] == ["few"] * 3

        async def all_ended() -> bool:
            return (await client.count())[JobState.completed] == 23

        await until(all_ended, within_s=60)
    assert len(started) == 23
    for handle in few:
        await handle.delete()
    assert (await client.count(activity="serve"))[JobState.completed] == 20


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
async def test_a_move_that_was_cut_short(
    turnout_client: Client, turnout_worker: Any, steps: int, *, bare: bool
) -> None:
    """The job's message is where it was, or in two lanes: it is one job, can be cancelled, and runs once."""
    client, store = turnout_client, turnout_client.store
    await declare(client)
    ids = ["runs", "cancelled"]
    for job_id in ids:
        if bare:
            headers = {"Nats-Msg-Id": job_id}
            await store.connection.store(store.names.bare("serve"), b'{"tenant": "few"}', headers)
        else:
            await client.submit(serve.options(id=job_id), "few")
        found = await store.queue.find("serve", job_id)
        event = PriorityRequested(priority=3 + EXPRESS, now=store.connection.now(), nonce="n", delivery=found)
        for effect in decide(None, event)[:steps]:
            if isinstance(effect, Save):
                await store.registry.save(effect.record, 0)
            elif isinstance(effect, Replace):
                await store.queue.replace(effect.spec, effect.expected_seq, effect.replaced, job_id)
    assert sorted([info.id async for info in client.jobs(activity="serve")]) == sorted(ids)
    assert (await client.count())[JobState.queued] == 2
    await client.job("cancelled").cancel()
    await client.submit_many(serve, payloads("big", 3))
    await deal(client)

    async def gone() -> bool:
        return [each async for each in store.queue.scan()] == []

    async with supervised(client), turnout_worker(serve):
        assert await client.job("runs").result(timeout=30) == "few"
        await until(gone, within_s=60)
    assert sorted(started) == ["big", "big", "big", "few"]
    assert (await client.job("cancelled").info()).state is JobState.cancelled


async def test_a_retry_by_hand_waits_for_its_turn_anew(turnout_client: Client, turnout_worker: Any) -> None:
    """In the lane where all of its priority wait; also where a move was cut short that left its first message there."""
    client, store = turnout_client, turnout_client.store
    fail = True

    @activity(name="serve", concurrency=1, fairness="{tenant}", retry=RetryPolicy.none())
    async def fails(tenant: str) -> str:
        started.append(tenant)
        if fail:
            raise ValueError("not yet")
        return tenant

    await declare(client, fails)
    handle = await client.submit(fails.options(id="few"), "few")
    await client.submit(fails, "big")
    found = await store.queue.find("serve", "few")
    event = PriorityRequested(priority=3 + EXPRESS, now=store.connection.now(), nonce="n", delivery=found)
    for effect in decide(None, event)[:2]:
        if isinstance(effect, Save):
            await store.registry.save(effect.record, 0)
        elif isinstance(effect, Replace):
            await store.queue.replace(effect.spec, effect.expected_seq, effect.replaced, "n")
    async with turnout_worker(fails):
        with pytest.raises(Exception, match="not yet"):
            await handle.result(timeout=30)
    fail = False
    await handle.retry()
    assert (await handle.info()).state is JobState.queued
    again = await store.queue.find_named("serve", "few", 3)
    assert again is not None
    assert again.generation == 2
    assert "few" in [info.id async for info in client.jobs(state="queued")]
    async with turnout_worker(fails):
        assert await handle.result(timeout=30) == "few"


async def test_all_that_holds_of_jobs_holds_of_those_let_past(turnout_client: Client, turnout_worker: Any) -> None:
    """A pause, a limit over all nodes, a delay, a retry by policy, what a node requires.

    The lease is short, for a NAK right behind a pause was seen to be lost: then the supervisor brings the job back.
    """
    client = turnout_client

    @activity(
        name="serve", concurrency=4, fairness="{tenant}", limits=[Limit("{tenant}", concurrency=1)],
        retry=RetryPolicy(max_attempts=2, delays=[0.01]), lease=3,
    )  # fmt: skip
    async def limited(tenant: str, n: int = 0) -> str:
        started.append(tenant)
        if started.count(tenant) == 1:
            raise ValueError("not yet")
        return tenant

    async with turnout_worker(limited):
        await client.pause("serve")
    await client.submit_many(limited, payloads("big", 30))
    await client.submit_many(limited.options(delay=0.2), payloads("later", 3))
    await client.submit_many(limited, payloads("few", 3))
    await client.resume("serve")
    await deal(client)
    await client.pause("serve")
    assert len(await let_past(client)) == FEWEST
    async with turnout_worker(limited):
        assert started == []
        await client.resume("serve")

        async def all_ended() -> bool:
            return (await client.count())[JobState.completed] == 36

        await until(all_ended, within_s=60)
    assert {tenant: started.count(tenant) for tenant in set(started)} == {"big": 31, "later": 4, "few": 4}


# --- what the key is --------------------------------------------------------------------------------------------------


async def test_the_key_is_read_in_the_payload_as_it_was_sent(turnout_client: Client) -> None:
    """However deep, with the default that the contract tells, and in a payload that is too large for a message; what
    is no payload is all of one key."""
    client = turnout_client

    @attrs.frozen
    class Customer:
        id: str
        notes: str = ""

    @activity(name="serve", fairness="{customer.id}/{kind}")
    async def nested(customer: Customer, kind: str = "usual") -> None:
        """Nobody runs it."""

    await declare(client, nested)
    for _ in range(20):
        await client.submit(nested, Customer("big"))
    large = [await client.submit(nested, Customer("few", "x" * 100_000)) for _ in range(2)]
    kind = await client.submit(nested, Customer("big"), kind="other")
    bare = b'{"customer": {"id": "big"}}'
    names = client.store.names
    for number, body in enumerate([bare, b"no JSON", b"neither", b"[" * 50_000]):
        await client.store.connection.store(names.bare("serve"), body, {"Nats-Msg-Id": f"bare-{number}"})
    await deal(client)
    past = await let_past(client)
    assert {large[0].id, large[1].id, kind.id, "bare-1", "bare-2"} <= set(past)
    assert "bare-0" not in past


@pytest.mark.parametrize("fairness", ["tenant", "", "{}", "{tenant", "{tenant}}", "{0}", 3, "{tenant}\n", "{t}" * 100])
def test_what_names_no_field_is_refused_at_the_decoration(fairness: Any) -> None:
    """With a word of what is right."""
    with pytest.raises(InvalidValue, match=r"as in .*\{tenant\}"):
        activity(fairness=fairness)


def test_a_field_that_the_payload_does_not_have_is_refused() -> None:
    """By what it is called in a payload, for that is where it is read."""

    class Order(BaseModel):
        tenant: str = Field(alias="tenantId")

    async def place(order: Order) -> None:
        """Nobody runs it."""

    assert activity(fairness="{tenantId}")(place).settings.fairness == "{tenantId}"
    for wrong in ("{tenant}", "{order.tenant}"):
        with pytest.raises(DefinitionError, match=r"fairness '.*' names .*; the payload has tenantId"):
            activity(fairness=wrong)(place)


async def test_the_consumer_says_it_as_the_newest_worker_does(turnout_client: Client) -> None:
    """Whoever deals the turns knows it from there."""
    client = turnout_client
    plain = activity(name="serve")(serve.fn)
    for ref, expected in ((plain, False), (serve, True), (plain, False)):
        await declare(client, ref)
        found = await consumer_of(client.store.connection, client.store.names, "serve")
        assert found is not None
        assert bool(found.fairness) is expected
