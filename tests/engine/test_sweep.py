"""The sweep on a real server: what somebody was handed and does not begin is given back, the rest is left alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.engine.test_consumers import OPTIONS, job, message_of, pulls
from tests.support.applied import Applied
from tests.support.rawsocket import raw_publish
from tests.support.values import job_record
from tests.support.waiting import until
from turnout import Client, wire
from turnout.core.events import Event, Expired, Leftover, Stuck
from turnout.core.record import AttemptRecord, JobRecord, JobState, Token
from turnout.core.spec import SubmitOptions
from turnout.nats.stream import Stream, kv_stream
from turnout.store.consumers import consumer_of
from turnout.store.lines import Parked
from turnout.store.topology import Topology
from turnout.supervisor.judge import Pace
from turnout.supervisor.owners import Owners
from turnout.supervisor.sweep import Sweep
from turnout.testing import NatsServer

PATIENCE_S = 0.5


class Sweeper:
    """A sweep, and what it has found; `sweep()` is one turn of it."""

    def __init__(self, client: Client) -> None:
        self.applied = Applied()
        self.owners = Owners(client.store, self.applied, lambda: True)
        pace = Pace(patience=PATIENCE_S, settling=0.5, leases=2.0, relook=0.2)
        self.sweep = Sweep(client.store, self.applied, self.owners, pace)

    async def turn(self) -> None:
        await self.sweep.read()
        await self.sweep.look()

    async def for_a_while(self, seconds: float = PATIENCE_S * 4) -> None:
        """Turn after turn for so long."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            await self.turn()
            await asyncio.sleep(0.05)

    async def found(self, kind: type[Event]) -> list[str]:
        """Turn after turn until an event of this kind was found; the ids of the jobs."""

        async def turned() -> list[str]:
            await self.turn()
            return [job_id for job_id, event in self.applied.events if isinstance(event, kind)]

        return await until(turned)


async def put(client: Client, record: JobRecord) -> None:
    subject = client.store.names.record(record.activity, record.id)
    await client.store.connection.store(subject, wire.dump_record(record))


async def deliveries(pulled: Any) -> list[int]:
    """How often what comes now was delivered."""
    try:
        return [received.metadata.num_delivered for received in await pulled.fetch(10, timeout=0.5)]
    except TimeoutError:
        return []


async def test_what_was_swallowed_is_handed_to_others(turnout_client: Client) -> None:
    """Without a record, queued, and due again alike, and what came later too; the lease is two minutes."""
    sweeper = Sweeper(turnout_client)
    async with pulls(turnout_client) as pulled:
        handles = await turnout_client.submit_many(job, [{}] * 3)
        received = await pulled.fetch(3, timeout=30)
        base = job_record(id=handles[1].id, activity="job", state=JobState.queued, submitted_at=1.0)
        await put(turnout_client, base)
        await put(turnout_client, job_record(id=handles[2].id, activity="job", state=JobState.retrying, due_at=2.0))
        seqs = {message_of(each).seq for each in received}
        again: list[Any] = []

        async def all_again() -> bool:
            await sweeper.turn()
            try:
                again.extend(await pulled.fetch(3, timeout=0.1))
            except TimeoutError:
                return False
            return {message_of(each).seq for each in again} == seqs

        await until(all_again)
        assert {each.metadata.num_delivered for each in again} == {2}
    assert not sweeper.applied.events


async def forgotten_by_the_server(client: Client, pulled: Any) -> str:
    """Have the server take a message for acknowledged that is there: the id of its job.

    A purge of less than what a consumer hands over moves its ack floor past others, and the next acknowledgement does
    the rest.
    """
    first, second, _ = await client.submit_many(job, [{}] * 3)
    received = {message_of(each).seq: each for each in await pulled.fetch(3, timeout=30)}
    assert len(received) == 3
    await Stream(client.store.connection, client.store.names.work).purge(client.store.names.jobs("job", second.id))
    await received[max(received)].ack_sync()
    consumer = await consumer_of(client.store.connection, client.store.names, "job")
    assert consumer is not None
    assert consumer.acked_seq == max(received)
    return first.id


async def test_what_the_server_has_forgotten_is_put_in_anew(turnout_client: Client) -> None:
    """No NAK and no lease brings back what lies at or below the ack floor: leases of two minutes are not awaited."""
    sweeper = Sweeper(turnout_client)
    async with pulls(turnout_client) as pulled:
        job_id = await forgotten_by_the_server(turnout_client, pulled)
        await until(lambda: _found(sweeper, job_id))


async def _found(sweeper: Sweeper, job_id: str) -> bool:
    await sweeper.turn()
    return any(found == job_id and isinstance(event, Stuck) for found, event in sweeper.applied.events)


async def test_who_is_let_into_a_limit_costs_no_other_its_turn(turnout_client: Client) -> None:
    """Though the message with which it was parked is on its way out still: that one goes first, without a purge."""
    async with pulls(turnout_client) as pulled:
        other, parked = await turnout_client.submit_many(job, [{}] * 2)
        received = {message_of(each).seq: each for each in await pulled.fetch(2, timeout=30)}
        first, second = (received[seq] for seq in sorted(received))
        record = job_record(id=parked.id, activity="job", state=JobState.queued, message=message_of(second))
        await turnout_client.store.places.release(Parked(0, "", record))
        await first.nak()
        async with asyncio.timeout(60):  # the lease is two minutes
            again = [await pulled.fetch(1, timeout=30) for _ in range(2)]
    assert {each.subject.rpartition(".")[2] for [each] in again} == {other.id, parked.id}


async def test_what_is_somebodys_is_left_alone(turnout_client: Client) -> None:
    """What runs, and what waits for its delay, is not given back; who runs it is known."""
    sweeper = Sweeper(turnout_client)
    async with pulls(turnout_client) as pulled:
        running, waiting = await turnout_client.submit_many(job, [{}] * 2)
        await pulled.fetch(2, timeout=30)
        token = Token("node-000000", 1, 1, "n")
        attempts = (AttemptRecord(1, 1, token.node, 1.0),)
        due_at = turnout_client.store.connection.now() + 3600
        await put(turnout_client, job_record(id=running.id, activity="job", state=JobState.running, token=token,
                                            attempt=1, attempts=attempts))  # fmt: skip
        await put(turnout_client, job_record(id=waiting.id, activity="job", state=JobState.retrying, due_at=due_at))
        await sweeper.for_a_while()
        assert await deliveries(pulled) == []
    assert len(sweeper.owners) == 1
    assert (sweeper.sweep.known, sweeper.sweep.far) == (1, 1)
    assert not sweeper.applied.events


async def test_each_message_is_read_once(turnout_client: Client) -> None:
    """However long it stays: the next reading begins behind it."""
    sweeper = Sweeper(turnout_client)
    await turnout_client.submit_many(job, [{}] * 20)
    async with pulls(turnout_client) as pulled:
        received = await pulled.fetch(10, timeout=30)
        await sweeper.for_a_while(0.3)
        assert sweeper.sweep.known == 10
        asked: list[bytes] = []
        subject = f"$JS.API.DIRECT.GET.{turnout_client.store.names.work}"

        def hear(request: Any) -> None:
            if b"next_by_subj" in request.data:
                asked.append(request.data)

        await turnout_client.store.connection.subscribe(subject, hear)
        await sweeper.sweep.read()
        assert not asked
        for each in received:
            await each.ack_sync()
        await pulled.fetch(5, timeout=30)
        await asyncio.sleep(PATIENCE_S)
        await sweeper.sweep.read()
        await asyncio.sleep(PATIENCE_S)
        await sweeper.sweep.read()
        first = min(int(body.partition(b'"seq":')[2].partition(b",")[0]) for body in asked)
        assert first > max(message_of(each).seq for each in received)


async def test_what_is_overdue_or_left_over_is_told(turnout_client: Client) -> None:
    """A deadline that the message tells of, one in the record, and a message of a job that has ended."""
    sweeper = Sweeper(turnout_client)
    names, now = turnout_client.store.names, turnout_client.store.connection.now()
    async with pulls(turnout_client) as pulled:
        header = {wire.OPTIONS: '{"expires_in":0.2}'}
        await turnout_client.store.connection.store(names.jobs("job", "by-message"), b"{}", header)
        by_record, ended = await turnout_client.submit_many(job, [{}] * 2)
        await pulled.fetch(3, timeout=30)
        await put(turnout_client, job_record(id=by_record.id, activity="job", state=JobState.retrying, submitted_at=now,
                                            due_at=now + 3600, options=SubmitOptions(expires_in=0.2)))  # fmt: skip
        await put(turnout_client, job_record(id=ended.id, activity="job", state=JobState.completed, finished_at=now))
        assert await sweeper.found(Leftover) == [ended.id]
        while len(expired := await sweeper.found(Expired)) < 2:
            pass
        assert sorted(expired) == sorted(["by-message", by_record.id])


async def test_what_has_no_message_any_more_is_stuck(turnout_client: Client) -> None:
    """It was in somebody's hands, waits for its next attempt, and its message is gone."""
    sweeper = Sweeper(turnout_client)
    async with pulls(turnout_client) as pulled:
        handle = await turnout_client.submit(job)
        [received] = await pulled.fetch(1, timeout=30)
        await put(turnout_client, job_record(id=handle.id, activity="job", state=JobState.queued,
                                            message=message_of(received)))  # fmt: skip
        await sweeper.turn()
        assert sweeper.sweep.known == 1
        await turnout_client.store.queue.remove(message_of(received))
        assert await sweeper.found(Stuck) == [handle.id]


async def swallow(client: Client, count: int) -> list[str]:
    """Have so many messages of any bytes handed to somebody; their subjects, as far as they can be read."""
    await Topology(client.store.connection, client.store.names).ensure_consumer("job", OPTIONS)
    connection, subjects = client.store.connection, list[str]()
    inbox = f"_INBOX.{client.namespace}.swallows"
    subscription = await connection.subscribe(inbox, lambda received: subjects.append(received.subject))
    connection.send(f"$JS.API.CONSUMER.MSG.NEXT.{client.store.names.work}.job", b'{"batch":%d}' % count, reply=inbox)

    async def all_there() -> bool:
        return len(subjects) == count

    await until(all_there)
    await subscription.close()
    return subjects


async def test_one_odd_message_or_record_stops_nothing(turnout_client: Client, nats_server: NatsServer) -> None:
    """An id that is not UTF-8, headers that make no sense, a record that is none: the others are given back."""
    sweeper = Sweeper(turnout_client)
    names, connection = turnout_client.store.names, turnout_client.store.connection
    for last in (b"\xff\xfe", b"b\xfccher", b"*", b"a b".replace(b" ", b"\xa0")):
        raw_publish(nats_server.url, names.bare("job").encode() + b"." + last, b"{}")
    raw_publish(nats_server.url, names.bare("job"), b"\xff" * 10)
    await connection.store(names.jobs("job", "odd"), b"{}", {wire.GENERATION: "many"})
    unreadable = await turnout_client.submit(job)
    await connection.store(names.record("job", unreadable.id), b"[[[")
    good = await turnout_client.submit(job)
    subjects = await swallow(turnout_client, 8)
    assert subjects[-1] == names.jobs("job", good.id)
    await sweeper.for_a_while()
    assert subjects[-1] in await swallow(turnout_client, 8)


async def test_a_consumer_that_was_made_anew_is_read_from_the_beginning(turnout_client: Client) -> None:
    """It hands over what its predecessor had in somebody's hands."""
    sweeper = Sweeper(turnout_client)
    names, connection = turnout_client.store.names, turnout_client.store.connection
    await turnout_client.submit_many(job, [{}] * 4)
    before = await swallow(turnout_client, 4)
    await sweeper.for_a_while(0.2)
    await connection.api(f"CONSUMER.DELETE.{names.work}.job")
    assert await swallow(turnout_client, 4) == before
    await sweeper.for_a_while()
    assert sorted(await swallow(turnout_client, 4)) == sorted(before)


@pytest.mark.parametrize("count", [0, 1])
async def test_nothing_there_is_no_trouble(turnout_client: Client, count: int) -> None:
    """Without consumers, and with one that has handed over nothing."""
    if count:
        await Topology(turnout_client.store.connection, turnout_client.store.names).ensure_consumer("job", OPTIONS)
    sweeper = Sweeper(turnout_client)
    await sweeper.turn()
    assert (sweeper.sweep.known, len(sweeper.sweep.consumers)) == (0, count)


async def test_the_many_that_wait_are_looked_at_once(turnout_client: Client) -> None:
    """Thousands of jobs wait an hour for their retry, and one runs among them: no more than their places is kept, the
    next turns ask for none of them, and who runs the one is known."""
    sweeper = Sweeper(turnout_client)
    connection, names = turnout_client.store.connection, turnout_client.store.names
    handles = await turnout_client.submit_many(job, [{}] * 3000)
    await swallow(turnout_client, 3000)
    due_at = connection.now() + 3600
    waiting = [job_record(handle.id, "job", JobState.retrying, due_at=due_at) for handle in handles]
    waiting[1500] = job_record(handles[1500].id, "job", JobState.running, token=Token("n-000000", 1, 1, "n"), attempt=1)
    for at in range(0, 3000, 500):
        await asyncio.gather(
            *(connection.store(names.record("job", each.id), wire.dump_record(each)) for each in waiting[at : at + 500])
        )
    await sweeper.sweep.read()
    assert (sweeper.sweep.far, sweeper.sweep.known, len(sweeper.owners)) == (2999, 1, 1)
    asked: list[bytes] = []
    for stream in (names.work, kv_stream(names.jobs_bucket)):
        await connection.subscribe(f"$JS.API.DIRECT.GET.{stream}", lambda request: asked.append(request.data))
    await sweeper.for_a_while(1.0)
    assert not [body for body in asked if len(body) > 200], "only the one that runs is asked for"
    assert not sweeper.applied.events
