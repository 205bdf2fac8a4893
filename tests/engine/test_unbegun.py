"""Deleting jobs that nobody has begun: the way out where those that wait have filled the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio

from tests.support.waiting import listed, running, until
from turnout import (
    Client,
    InvalidState,
    JobHandle,
    JobNotFound,
    JobState,
    Limit,
    RetryPolicy,
    StorageRefused,
    activity,
    current_job,
    workflow,
)
from turnout.core.effects import Drop
from turnout.core.events import Received
from turnout.core.record import Delivery, Policy
from turnout.store.perform import Performer
from turnout.store.records import Versioned
from turnout.store.topology import ConsumerOptions, Topology
from turnout.supervisor.groups import GroupWatch
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory

CONFIG = """
accounts {
  SMALL: {
    users: [{ user: ann, password: secret }]
    jetstream: { max_file: 1MB }
  }
}
"""
LEASE = ConsumerOptions(lease=600, max_attempts=1, max_lost=3)
ran: list[str] = []


@activity
async def later(text: str = "") -> int:
    ran.append(current_job().id)
    return len(text)


@activity
async def hold() -> None:
    await asyncio.Event().wait()


@activity(retry=RetryPolicy(delays=[3600]))
async def fails() -> None:
    raise ValueError("not today")


@activity(limits=[Limit("one", concurrency=1)])
async def alone() -> None:
    await asyncio.Event().wait()


@workflow
async def asks() -> int:
    return await later("once")


@pytest.fixture
def small_server() -> Iterator[NatsServer]:
    with NatsServer(config=CONFIG) as server:
        yield server


@pytest_asyncio.fixture
async def small(small_server: NatsServer) -> AsyncIterator[Client]:
    """A client of an account of 1 MB."""
    async with Client.connect(small_server.url.replace("://", "://ann:secret@")) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


async def fill(client: Client, activity: Any = later, **payload: Any) -> None:
    """Submit until nothing more can be stored; the last few bytes are taken by bare jobs of `later`."""

    async def many() -> None:
        while True:
            await asyncio.gather(*(client.submit(activity, **payload) for _ in range(100)))

    with pytest.raises(StorageRefused, match="the same with --unbegun"):
        await many()
    await fill_up(client)


async def fill_up(client: Client) -> None:
    async def bare() -> None:
        while True:
            await client.store.connection.store(client.store.names.bare("later"), b"{}", {})

    with pytest.raises(StorageRefused):
        await bare()


async def hand_out(client: Client, name: str, count: int) -> list[Any]:
    """Have so many messages of an activity handed to somebody who does nothing with them."""
    connection, received = client.store.connection, list[Any]()
    inbox = f"_INBOX.{client.namespace}.{name}"
    subscription = await connection.subscribe(inbox, received.append)
    connection.send(f"$JS.API.CONSUMER.MSG.NEXT.{client.store.names.work}.{name}", b'{"batch":%d}' % count, reply=inbox)

    async def all_there() -> bool:
        return len(received) == count

    await until(all_there)
    await subscription.close()
    return received


def begins(client: Client, found: Delivery, **more: Any) -> Received:
    """What a worker says that was handed this message."""
    now = client.store.connection.now()
    return Received(delivery=found, node="ghost-1", nonce="n", now=now, rules=Policy(lease=1), **more)


async def kept(client: Client) -> int:
    """How many messages and records there are of jobs."""
    names = client.store.names
    infos = [
        await client.store.connection.api(f"STREAM.INFO.{stream}") for stream in (names.work, f"KV_{names.jobs_bucket}")
    ]
    return sum(int(info["state"]["messages"]) for info in infos)


async def test_a_store_that_waiting_jobs_have_filled_is_emptied(small: Client, turnout_worker: WorkerFactory) -> None:
    """There is no room for a cancel, nor for the marker of a deletion; what waits, in whatever way, is deleted all the
    same, by its id or by filters, and leaves nothing. After that jobs are stored and run again."""
    async with turnout_worker(later, client=small):
        ended = await small.submit(later, "it is deleted as ever")
        await ended.result(timeout=30)
    await small.submit(hold)
    ways: dict[str, Any] = {
        "plain": {},
        "first": {"priority": 1},
        "delayed": {"delay": 3600},
        "due": {"expires_in": 3600},
        "overdue": {"expires_in": 0.01},
        "labelled": {"labels": {"batch": "7"}},
    }
    for way, options in ways.items():
        await small.submit(later.options(id=way, **options))
    large = await small.submit(later.options(id="huge"), "x" * 100_000)
    await small.store.connection.store(small.store.names.bare("later"), b"{}", {"Nats-Msg-Id": "bare"})
    await fill(small, text="x" * 2_000)
    with pytest.raises(StorageRefused):
        await small.job("plain").cancel()
    with pytest.raises(InvalidState, match="only an ended job can be deleted"):
        await small.job("plain").delete()
    await ended.delete()
    for way in (*ways, "bare", large.id):
        await small.job(way).delete(unbegun=True)
        with pytest.raises(JobNotFound):
            await small.job(way).info()
    left = (await small.count(activity=later))[JobState.queued]
    assert left > 100
    assert await small.delete_jobs(unbegun=True, activity=later) == left
    assert await kept(small) == 1, "that of `hold`"
    assert [each async for each in small.store.payloads.objects()] == []


async def test_a_worker_goes_on_when_there_is_room_again(small: Client, turnout_worker: WorkerFactory) -> None:
    """What it was handed and could not begin for want of room it begins, but for what was deleted meanwhile."""
    async with turnout_worker(later, client=small):
        spare = await small.submit(hold)
        await fill(small, hold)
        await small.job(spare.id, hold).delete(unbegun=True)
        await fill_up(small)
        in_hand = [info.id async for info in small.jobs(activity=later)]
        consumer = f"CONSUMER.INFO.{small.store.names.work}.later"

        async def handed_out() -> bool:
            info = await small.store.connection.api(consumer)
            return bool(info["num_ack_pending"] == len(in_hand))

        await until(handed_out)
        with suppress(InvalidState):  # it may have begun, or there is no room for the marker
            await small.job(in_hand[0], later).delete(unbegun=True)
        assert await small.delete_jobs(unbegun=True, activity=hold) > 100

        async def nothing_waits() -> bool:
            return not (await small.count())[JobState.queued] and not (await small.count())[JobState.running]

        await until(nothing_waits)
        await small.submit(later.options(id="last"))
        await small.job("last", later).result(timeout=30)
    assert sorted({*ran, in_hand[0]}) == sorted({*in_hand, "last"})
    assert len(ran) == len(set(ran))


async def test_what_has_begun_or_is_awaited_stays(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A job that runs, waits for its retry, has ended, or is a workflow's: each is refused, and nothing has changed."""
    client = turnout_client
    async with turnout_worker(hold, fails, name="w"):
        runs, retries = await client.submit(hold), await client.submit(fails)
        cancelled = await client.submit(later)
        await cancelled.cancel()
        await running(runs)

        async def waits() -> bool:
            return (await retries.info()).state is JobState.retrying

        await until(waits)
    # Aborted with its node, it waits to be begun once more.
    for handle, why in ((runs, "has begun"), (retries, "has begun"), (cancelled, "it has ended")):
        before = await handle.info()
        with pytest.raises(InvalidState, match=why):
            await handle.delete(unbegun=True)
        assert await handle.info() == before
    async with turnout_worker(workflows=[asks]):
        flow = await client.start(asks)
        [job_id] = await listed(client, 1, workflow=flow.id)
        with pytest.raises(InvalidState, match=f"workflow {flow.id} waits for job {job_id}"):
            await client.job(job_id).delete(unbegun=True)
        assert await client.delete_jobs(unbegun=True, workflow=flow.id) == 0
    async with turnout_worker(later, workflows=[asks]):
        assert await flow.result(timeout=30) == 4
    with pytest.raises(JobNotFound):
        await client.job("nobody", later).delete(unbegun=True)


async def test_what_somebody_holds_can_not_be_begun_any_more(turnout_client: Client) -> None:
    """A worker that was handed the message begins nothing once the job is deleted, whether it had a record or none."""
    client = turnout_client
    await Topology(client.store.connection, client.store.names).ensure_consumer("later", LEASE)
    for way in (later, later.options(expires_in=600)):
        handle = await client.submit(way)
        found = await client.store.queue.find("later", handle.id)
        assert found is not None
        await hand_out(client, "later", 1)
        await handle.delete(unbegun=True)
        for known in (Versioned(), None):
            applied = await Performer(client.store).apply("later", handle.id, begins(client, found), known)
            assert applied.effects == (Drop(),)
        with pytest.raises(JobNotFound):
            await handle.info()
        again = await client.submit(later.options(id=handle.id))
        assert (await again.info()).state is JobState.queued
        await again.delete(unbegun=True)


async def test_deleted_or_begun_and_never_both(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Of a deletion and a worker that is handed the job at the same time one wins, and the deletion says so."""
    ways = later, later.options(expires_in=600), later.options(delay=0.05)
    async with turnout_worker(later, concurrency=20):

        async def one(n: int) -> tuple[str, bool]:
            handle = await turnout_client.submit(ways[n % 3])
            if n % 2:
                await asyncio.sleep(0.001 * (n % 60))
            try:
                await handle.delete(unbegun=True)
            except InvalidState:
                assert await handle.result(timeout=30) == 0
                return handle.id, False
            return handle.id, True

        tried = [result for _ in range(10) for result in await asyncio.gather(*map(one, range(60)))]
        await turnout_client.submit(later.options(id="last"))
        assert await turnout_client.job("last", later).result(timeout=30) == 0
    deleted = {job_id for job_id, gone in tried if gone}
    assert 0 < len(deleted) < len(tried), "both happen"
    assert sorted(ran) == sorted({job_id for job_id, gone in tried if not gone} | {"last"})
    counts = await turnout_client.count()
    assert {state for state, count in counts.items() if count} == {JobState.completed}


async def test_a_job_in_a_line_or_on_a_route(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """What a worker has parked for a limit, or sent on to nodes that there are none of, goes out of there."""
    client, names = turnout_client, turnout_client.store.names
    async with turnout_worker(alone, later, name="w"):
        holds = await client.submit(alone)
        await running(holds)
        parked = await client.submit(alone)
        routed = await client.submit(later.options(requires={"zone": "north"}))

        async def wait() -> bool:
            subjects = names.routed("*", "later", routed.id), names.parked("*", "alone", parked.id)
            found = [await client.store.connection.get_message(names.work, last_by_subj=each) for each in subjects]
            return None not in found

        await until(wait)
        for handle in (parked, routed):
            await handle.delete(unbegun=True)
            with pytest.raises(JobNotFound):
                await handle.info()
        await holds.cancel()

        async def nobody_is_left() -> bool:
            info = await client.store.connection.api(f"STREAM.INFO.{names.work}")
            return int(info["state"]["messages"]) == 0

        await until(nobody_is_left)
        assert (await client.count(activity=alone))[JobState.queued] == 0


async def test_both_messages_of_a_job_that_is_being_sent_on_go(turnout_client: Client) -> None:
    """Whoever sends it on has not acknowledged the one that he had: neither that one nor the other is left."""
    client = turnout_client
    handle = await client.submit(later.options(requires={"zone": "north"}))
    found = await client.store.queue.find("later", handle.id)
    assert found is not None
    sends = begins(client, found, requires={"zone": "north"})
    await Performer(client.store, settle=lambda *_: None).apply("later", handle.id, sends)
    assert await client.store.queue.find_routed("later", handle.id) is not None
    await handle.delete(unbegun=True)
    assert await client.store.queue.find_routed("later", handle.id) is None
    assert await client.store.queue.find("later", handle.id) is None


async def test_in_a_group_it_counts_as_cancelled(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """The group does not wait for a member that was deleted."""
    group = await turnout_client.submit_group(later, [{"text": "a"}, {"text": "bb"}])
    await turnout_client.job(f"{group.id}-0").delete(unbegun=True)
    await GroupWatch(turnout_client.store, turnout_client._performer, gone_after_s=0.0).look()
    async with turnout_worker(later):
        results = await group.results(timeout=30)
    assert results[1] == 2
    assert (await group.info()).counts[JobState.cancelled] == 1


async def test_only_waiting_jobs_can_be_meant(turnout_client: Client) -> None:
    """By filters, too: ended states are refused, and what does not match stays."""
    with pytest.raises(ValueError, match="state must be one of queued, scheduled here, not completed"):
        await turnout_client.delete_jobs(unbegun=True, state="completed")
    with pytest.raises(ValueError, match="at least one of state, activity"):
        await turnout_client.delete_jobs(unbegun=True)
    handles: list[JobHandle[Any]] = [
        await turnout_client.submit(later.options(labels={"batch": batch}, delay=delay))
        for batch, delay in (("1", None), ("1", 60.0), ("2", None))
    ]
    assert await turnout_client.delete_jobs(unbegun=True, label="batch=1") == 2
    assert [info.id async for info in turnout_client.jobs()] == [handles[2].id]
