"""Two versions of turnout, or of an activity, side by side on a real server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.waiting import running, until
from turnout import Activity, Client, RetryPolicy, UnreadableRecord, Worker, activity, current_job, wire
from turnout.nats.stream import kv_stream
from turnout.testing import NatsServer
from turnout.worker import executor


def work(release: asyncio.Event, **options: Any) -> Activity[..., Any]:
    """An activity `work` with these options, which waits."""

    @activity(name="work", retry=RetryPolicy.none(), **options)
    async def work() -> int:
        await release.wait()
        return current_job().attempt

    return work


class Consumer:
    """Counts what is done to the consumer of `work`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.writes: list[float] = []

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        def note(received: Any) -> None:
            self.writes.append(json.loads(received.data)["config"]["ack_wait"] / 1e9)

        subject = f"$JS.API.CONSUMER.CREATE.{self._client.store.names.work}.work"
        subscription = await self._client.store.connection.subscribe(subject, note)
        try:
            yield
        finally:
            await subscription.close()

    async def info(self) -> Any:
        return await self._client.store.connection.api(f"CONSUMER.INFO.{self._client.store.names.work}.work")


async def test_the_worker_that_starts_last_decides_and_nothing_flaps() -> None:
    """One update per start of a worker with other options; a server that restarts makes nobody change it back."""
    release = asyncio.Event()
    with NatsServer() as server:
        async with Client.connect(server.url) as client:
            consumer = Consumer(client)
            async with (
                consumer.watched(),
                Worker(client, activities=[work(release, lease=30)]) as old,
                Worker(client, activities=[work(release, lease=20)]) as new,
                Worker(client, activities=[work(release, lease=20)]) as newer,
            ):
                assert consumer.writes == [30, 20]
                await asyncio.to_thread(server.restart)

                async def all_pull() -> bool:
                    return old.ready and new.ready and newer.ready

                await asyncio.sleep(0.5)
                await until(all_pull, 30)
                release.set()
                handles = [await client.submit("work", {}) for _ in range(20)]
                assert [await handle.result(timeout=30) for handle in handles] == [1] * 20
                assert (await consumer.info())["config"]["ack_wait"] == 20e9
                assert consumer.writes == [30, 20]


async def test_a_consumer_that_is_gone_is_made_anew_once(turnout_client: Client, turnout_worker: Any) -> None:
    """Whoever notices first makes it; the others take what is there, whatever their own options say."""
    release = asyncio.Event()
    release.set()
    consumer = Consumer(turnout_client)
    async with turnout_worker(work(release, lease=30)), turnout_worker(work(release, lease=20)), consumer.watched():
        await turnout_client.store.connection.api(f"CONSUMER.DELETE.{turnout_client.store.names.work}.work")
        handle = await turnout_client.submit("work", {})
        assert await handle.result(timeout=30) == 1
        await asyncio.sleep(1)
        assert (await consumer.info())["config"]["ack_wait"] in (30e9, 20e9)
        assert 1 <= len(consumer.writes) <= 2  # both may have tried, and the second is refused


async def test_a_shortened_lease_is_noticed(turnout_client: Client, turnout_worker: Any) -> None:
    """A job that runs under the longer lease goes on in the same attempt, and soon is handed out no more."""
    release = asyncio.Event()
    async with turnout_worker(work(release, lease=30)):
        handle = await turnout_client.submit("work", {})
        await running(handle)
        async with turnout_worker(work(release, lease=1)):
            consumer = Consumer(turnout_client)

            async def redelivered() -> bool:
                return int((await consumer.info())["num_redelivered"]) > 0

            await until(redelivered)
            store = turnout_client.store

            async def delivered() -> int:
                return int((await consumer.info())["delivered"]["consumer_seq"])

            async def quiet() -> bool:
                before = await delivered()
                await asyncio.sleep(3)
                return await delivered() == before

            await until(quiet)
            release.set()
            assert await handle.result(timeout=30) == 1
            assert len((await handle.info()).attempts) == 1

            async def settled() -> bool:
                return await store.queue.find("work", handle.id) is None

            await until(settled)  # the message goes after the record that tells the result


async def rewrite(client: Client, job_id: str, **changes: Any) -> None:
    """Let a newer version have written the record of a job of `work`."""
    connection, subject = client.store.connection, client.store.names.record("work", job_id)
    stored = await connection.get_message(kv_stream(client.store.names.jobs_bucket), last_by_subj=subject)
    raw = json.loads(stored.data) if stored is not None else {}
    await connection.store(subject, json.dumps({**raw, **changes}).encode(), {})


async def test_a_record_of_a_newer_version_is_left_alone(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks is told to upgrade; a worker gives the job back for a while; all other jobs go on meanwhile."""
    release = asyncio.Event()
    release.set()
    handle = await turnout_client.submit("work", {})
    await rewrite(turnout_client, handle.id, v=wire.VERSION + 1, id=handle.id, activity="work", state="paused")
    store = turnout_client.store
    revision = await record_revision(turnout_client, handle.id)
    with pytest.raises(UnreadableRecord, match="upgrade"):
        await handle.info()
    with caplog.at_level(logging.WARNING):
        async with turnout_worker(work(release, lease=1)):
            others = [await turnout_client.submit("work", {}) for _ in range(10)]
            assert [await other.result(timeout=30) for other in others] == [1] * 10
            await asyncio.sleep(3)
    told = [record for record in caplog.records if "is given back" in record.getMessage()]
    assert 1 <= len(told) <= 2  # twice if the first word of it came after the lease
    assert await store.queue.find("work", handle.id) is not None
    assert await record_revision(turnout_client, handle.id) == revision
    assert handle.id not in {job.id async for job in turnout_client.jobs()}
    assert sum((await turnout_client.count()).values()) == 10


async def record_revision(client: Client, job_id: str) -> int:
    subject = client.store.names.record("work", job_id)
    stream = kv_stream(client.store.names.jobs_bucket)
    stored = await client.store.connection.get_message(stream, last_by_subj=subject)
    assert stored is not None
    return stored.seq


async def test_the_newer_version_takes_over_what_was_left_alone(
    turnout_client: Client, turnout_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the pause the job is handed out again, and whoever can read its record runs it."""
    monkeypatch.setattr(executor, "UNREADABLE_PAUSE_S", 1.0)
    release = asyncio.Event()
    release.set()
    handle = await turnout_client.submit(activity_expiring("work"), {})
    await rewrite(turnout_client, handle.id, v=wire.VERSION + 1)
    async with turnout_worker(work(release)):
        await asyncio.sleep(1.5)
        await rewrite(turnout_client, handle.id, v=wire.VERSION)  # as if this worker were of the newer version now
        assert await handle.result(timeout=30) == 1


def activity_expiring(name: str) -> Any:
    """A submission that has a record from the start."""
    from turnout import activity_ref

    return activity_ref(name).options(expires_in=600)


async def test_nodes_and_activities_of_a_newer_version_are_seen(turnout_client: Client, turnout_worker: Any) -> None:
    """A node that can't be read lives, an activity exists; nobody stumbles over what they say of themselves."""
    store = turnout_client.store
    entry = json.dumps({"v": wire.VERSION + 1, "id": 7}).encode()
    await store.connection.store(store.names.node("newer-a1b2c3"), entry, {"Nats-TTL": "60s"})
    await store.connection.store(store.names.activity("newer"), entry, {})
    assert [(node.id, node.name) for node in await turnout_client.nodes()] == [("newer-a1b2c3", "newer")]
    assert [each.name for each in await turnout_client.activities()] == ["newer"]
    release = asyncio.Event()
    release.set()
    async with turnout_worker(work(release)):
        assert await (await turnout_client.submit("work", {})).result(timeout=30) == 1
