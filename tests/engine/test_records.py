"""The supervisor's look at the records: each is read once, and what is overdue is acted on."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from bench.fill import fill
from tests.support.applied import Applied
from tests.support.values import job_record
from tests.support.waiting import until
from turnout import Client, JobState, activity, wire
from turnout.core.events import Expired, Leftover, Lost, Stuck
from turnout.core.limits import LimitKey
from turnout.core.record import AttemptRecord, JobRecord, MessageRef, Token, WaitsFor
from turnout.core.routing import token_of
from turnout.core.spec import SubmitOptions
from turnout.errors import TurnoutError
from turnout.nats.connection import Message
from turnout.nats.pages import SMALL_PAGE
from turnout.nats.stream import kv_stream
from turnout.supervisor import records as module
from turnout.supervisor.owners import Owners
from turnout.supervisor.records import QUICK_PAGES, Records
from turnout.testing.server import NatsServer
from turnout.wire.limits import dump_key


@activity
async def idle() -> None:
    pass


SETTLING_S = 10.0


def records_of(client: Client, applied: Applied | None = None) -> Records:
    """Who looks after the records, and is sure of itself."""
    apply = applied or Applied()
    owners = Owners(client.store, apply, lambda: True)
    return Records(client.store, apply, owners, settling_s=SETTLING_S, every_s=30.0)


async def look(records: Records) -> None:
    """Read what is new, and deal with what is due."""
    await records.read()
    await records.look()


@asynccontextmanager
async def asked(client: Client) -> AsyncIterator[list[int]]:
    """From which sequences the records are asked for."""
    seqs: list[int] = []

    def heard(request: Message) -> None:
        seqs.append(json.loads(request.data)["seq"])

    subject = f"$JS.API.DIRECT.GET.{kv_stream(client.store.names.jobs_bucket)}"
    subscription = await client.store.connection.subscribe(subject, heard)
    yield seqs
    await subscription.close()


async def answers(client: Client) -> bool:
    """Whether the server is there again."""
    try:
        await client.count()
    except (TurnoutError, ConnectionError):
        return False
    return True


async def put(client: Client, record: JobRecord, ttl: bool = False) -> None:
    subject = client.store.names.record(record.activity, record.id)
    headers = {"Nats-TTL": "3600s"} if ttl else None
    await client.store.connection.store(subject, wire.dump_record(record), headers)


def later(monkeypatch: pytest.MonkeyPatch, client: Client, seconds: float) -> None:
    """Let so much time pass for the one who looks."""
    boottime: Callable[[], float] = vars(module)["boottime"]
    connection = client.store.connection
    now = connection.now
    monkeypatch.setattr(module, "boottime", lambda: boottime() + seconds)
    monkeypatch.setattr(connection, "now", lambda: now() + seconds)


async def test_what_was_read_is_not_read_again(turnout_client: Client) -> None:
    """Ended jobs are read once and forgotten, page by page; the next look begins behind them."""
    many = SMALL_PAGE + 100
    await fill(turnout_client, many, restarted=False)
    applied = Applied()
    records = records_of(turnout_client, applied)
    async with asked(turnout_client) as seqs:
        await look(records)
        assert seqs == [1, SMALL_PAGE + 1]
        await fill(turnout_client, 10, restarted=False)
        await look(records)
        assert seqs[2:] == [many + 1]
    assert records.waiting == 0
    assert not applied.events


async def test_all_is_read_again_when_the_server_came_back(turnout_client: Client, nats_server: NatsServer) -> None:
    """It may have lost what it had not synced, and put other records in the places of those."""
    await fill(turnout_client, 10, restarted=False)
    records = records_of(turnout_client)
    await look(records)
    nats_server.kill()
    nats_server.start()
    await until(lambda: answers(turnout_client))
    async with asked(turnout_client) as seqs:
        await look(records)
        assert seqs == [1]


async def test_all_is_read_again_when_the_stream_is_another_one(turnout_client: Client) -> None:
    """A bucket that was purged or restored from a backup begins before the end of the one that was read."""
    names, connection = turnout_client.store.names, turnout_client.store.connection
    stream = kv_stream(names.jobs_bucket)
    await fill(turnout_client, 10, restarted=False)
    records = records_of(turnout_client)
    await look(records)
    config = (await connection.api(f"STREAM.INFO.{stream}"))["config"]
    await connection.api(f"STREAM.DELETE.{stream}")
    await connection.api(f"STREAM.CREATE.{stream}", config)
    await fill(turnout_client, 20, restarted=False)
    async with asked(turnout_client) as seqs:
        await look(records)
        assert seqs == [1]


async def test_all_is_read_again_after_an_hour(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever slipped past it is met in the end."""
    await fill(turnout_client, 10, restarted=False)
    records = records_of(turnout_client)
    await look(records)
    later(monkeypatch, turnout_client, module.ALL_AGAIN_S + 1)
    async with asked(turnout_client) as seqs:
        await look(records)
        assert seqs == [1]


async def test_a_record_without_a_message_is_stuck_after_a_while(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once: whoever wrote the record may be about to publish. While it stays so it is said again and again."""
    now = turnout_client.store.connection.now()
    await put(turnout_client, job_record(id="gone", activity="idle", state=JobState.queued, submitted_at=now))
    applied = Applied()
    records = records_of(turnout_client, applied)
    await look(records)
    later(monkeypatch, turnout_client, SETTLING_S / 2)
    await look(records)
    assert not applied.events
    for times in (1, 2):
        later(monkeypatch, turnout_client, 60)
        await look(records)
        await look(records)
        assert [job_id for job_id, _ in applied.events] == ["gone"] * times
    assert all(isinstance(event, Stuck) and event.delivery is None for _, event in applied.events)


async def test_a_record_that_goes_on_is_not_stuck(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written again before its time was over is not looked at any more; what has ended is forgotten."""
    applied = Applied()
    records = records_of(turnout_client, applied)
    now = turnout_client.store.connection.now()
    job = job_record(id="a", activity="idle", state=JobState.queued, submitted_at=now)
    await put(turnout_client, job)
    await look(records)
    assert records.waiting == 1
    await put(turnout_client, job_record(id="a", activity="idle", state=JobState.completed, submitted_at=1.0), ttl=True)
    later(monkeypatch, turnout_client, 60)
    await look(records)
    assert records.waiting == 0
    assert not applied.events


async def test_a_running_record_whose_message_is_gone_is_its_owners_while_that_lives(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner is asked. While it says yes nothing is done; when it is dead the loss is counted, and the job
    requeued: its payload stands in the record."""
    applied = Applied()
    records = records_of(turnout_client, applied)
    token = Token("node-000000", 1, 1, "n")
    attempts = (AttemptRecord(1, 1, token.node, 0.0),)
    await put(turnout_client, job_record(id="a", activity="idle", state=JobState.running, token=token, attempt=1,
                                        attempts=attempts, submitted_at=1.0, message=MessageRef(99, 1)))  # fmt: skip
    yes = True

    def answer(asked: Message) -> None:
        if yes:
            turnout_client.store.connection.send(asked.reply, b'{"yes":true}')

    owner = await turnout_client.store.connection.subscribe(turnout_client.store.names.control(token.node), answer)
    await look(records)
    assert not applied.events
    yes = False
    await owner.close()
    later(monkeypatch, turnout_client, 60)
    await look(records)
    assert [(job_id, type(event)) for job_id, event in applied.events] == [("a", Lost), ("a", Stuck)]


async def test_a_message_that_is_there_is_left_to_the_workers(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that waits in the queue for long is not stuck; a message of one that has ended is left over."""
    handle = await turnout_client.submit(idle)
    await put(turnout_client, job_record(id=handle.id, activity="idle", state=JobState.queued, submitted_at=1.0))
    applied = Applied()
    records = records_of(turnout_client, applied)
    for _ in range(3):
        await look(records)
        later(monkeypatch, turnout_client, 600)
    assert not applied.events
    now = turnout_client.store.connection.now()
    ended = job_record(  # it was cancelled before it was due
        id=handle.id, activity="idle", state=JobState.cancelled, submitted_at=1.0, due_at=now + 3600, finished_at=now
    )
    await put(turnout_client, ended)
    await look(records)
    assert not applied.events
    later(monkeypatch, turnout_client, 60)
    await look(records)
    assert [type(event) for _, event in applied.events] == [Leftover]


async def test_only_the_deadline_that_has_passed(turnout_client: Client) -> None:
    """An overdue job is expired at the first look, also while it waits for its retry; another is not."""
    now = turnout_client.store.connection.now()
    for job_id, expires_in in (("over", 1.0), ("later", 3600.0)):
        record = job_record(
            id=job_id,
            activity="idle",
            state=JobState.retrying,
            submitted_at=now - 2,
            due_at=now + 60,
            options=SubmitOptions(expires_in=expires_in),
        )
        await put(turnout_client, record)
    applied = Applied()
    await look(records_of(turnout_client, applied))
    assert [(job_id, type(event)) for job_id, event in applied.events] == [("over", Expired)]


async def test_one_that_is_gone_among_many_that_wait(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are asked for many at a time; only the job whose message is missing is spoken of."""
    handles = await turnout_client.submit_many(idle, [{}] * 600)
    for job_id in [*(handle.id for handle in handles), "gone"]:
        await put(turnout_client, job_record(id=job_id, activity="idle", state=JobState.queued, submitted_at=1.0))
    applied = Applied()
    records = records_of(turnout_client, applied)
    for _ in range(3):
        await look(records)
    assert records.waiting == 601
    assert [(job_id, type(event)) for job_id, event in applied.events] == [("gone", Stuck)]


async def test_what_was_put_there_by_hand_stops_nothing(turnout_client: Client, nats_server: NatsServer) -> None:
    """The server stores anything under any subject: what names no job, or another one, or is nothing at all."""

    def record_of(job_id: str) -> bytes:
        return wire.dump_record(job_record(id=job_id, activity="idle", state=JobState.queued, submitted_at=1.0))

    by_hand = [
        (b"*", record_of("*")),
        (b"\xff\xfe", record_of("named")),
        (b"copied", record_of("named")),
        (b"deep", b"[" * 100_000),
        (b"named", record_of("named")),
    ]
    address = urlsplit(nats_server.url)
    with socket.create_connection((address.hostname, address.port or 4222), timeout=30) as raw:
        raw.sendall(b'CONNECT {"verbose":false}\r\n')
        for last, data in by_hand:
            subject = turnout_client.store.names.record("idle", "").encode() + last
            raw.sendall(b"PUB %s %d\r\n%s\r\n" % (subject, len(data), data))
        raw.sendall(b"PING\r\n")
        while b"PONG" not in raw.recv(65536):
            pass
    records = records_of(turnout_client)

    async def read() -> bool:
        await look(records)
        return records.waiting > 0

    await until(read)
    assert records.waiting == 1


async def test_what_is_not_there_any_more_is_forgotten(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that was purged leaves no marker behind; the next reading of all does not meet it."""
    names, connection = turnout_client.store.names, turnout_client.store.connection
    await put(turnout_client, job_record(id="a", activity="idle", state=JobState.queued, submitted_at=1.0))
    records = records_of(turnout_client)
    await look(records)
    assert records.waiting == 1
    await connection.api(f"STREAM.PURGE.{kv_stream(names.jobs_bucket)}", {"filter": names.record("idle", "a")})
    later(monkeypatch, turnout_client, module.ALL_AGAIN_S + 1)
    await look(records)
    assert records.waiting == 0


async def test_a_deadline_is_not_late_for_the_many_that_wait(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of records whose messages have to be looked for keep no deadline waiting."""
    now = turnout_client.store.connection.now()
    for number in range(1200):
        await put(turnout_client, job_record(id=f"j{number}", activity="idle", state=JobState.queued, submitted_at=1.0))
    over = job_record(
        id="over", activity="idle", state=JobState.queued, submitted_at=now, options=SubmitOptions(expires_in=5)
    )
    await put(turnout_client, over)
    applied = Applied()
    records = records_of(turnout_client, applied)
    await records.read()
    later(monkeypatch, turnout_client, 6)
    await records.look()
    assert ("over", Expired) in [(job_id, type(event)) for job_id, event in applied.events]


async def test_while_very_many_are_new_they_are_read_now_and_then(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quick jobs may write records as fast as they can be read: those are left for a walk every half a minute."""
    many = QUICK_PAGES * SMALL_PAGE + 10
    records = records_of(turnout_client)
    await fill(turnout_client, many, restarted=False)
    await records.read()
    await fill(turnout_client, many, restarted=False)
    async with asked(turnout_client) as seqs:
        await records.read()
        assert not seqs
        await fill(turnout_client, many, restarted=False)
        later(monkeypatch, turnout_client, 31)
        await records.read()
        assert seqs[0] == many + 1


async def test_what_was_written_in_a_burst_is_read_when_it_is_over(turnout_client: Client) -> None:
    """Whatever may have come before: jobs with deadlines, thousands at a time, are not left alone for half a minute."""
    many = QUICK_PAGES * SMALL_PAGE + 10
    records = records_of(turnout_client)
    await records.read()
    await fill(turnout_client, many, restarted=False)
    async with asked(turnout_client) as seqs:
        await records.read()
        assert not seqs
        await fill(turnout_client, 10, restarted=False)
        await records.read()
        assert seqs[0] == 1


async def test_what_has_ended_while_it_was_read_runs_no_more(turnout_client: Client) -> None:
    """One page may have a record twice: as it was when the page was begun, and as it is by the end of it."""
    connection, stream = turnout_client.store.connection, kv_stream(turnout_client.store.names.jobs_bucket)
    config = (await connection.api(f"STREAM.INFO.{stream}"))["config"]
    await connection.api(f"STREAM.UPDATE.{stream}", {**config, "max_msgs_per_subject": 2})

    async def begin(job_id: str) -> None:
        attempts = (AttemptRecord(1, 1, "n-1", 1.0),)
        runs: dict[str, Any] = {"token": Token("n-1", 1, 1, "x"), "attempt": 1, "attempts": attempts}
        await put(turnout_client, job_record(job_id, "idle", JobState.running, submitted_at=1.0, **runs))

    owners = Owners(turnout_client.store, Applied(), lambda: True)
    records = Records(turnout_client.store, Applied(), owners, settling_s=SETTLING_S, every_s=30.0)
    await begin("seen")
    await records.read()
    assert len(owners) == 1
    await begin("twice")
    for job_id in ("seen", "twice"):
        await put(turnout_client, job_record(job_id, "idle", JobState.completed, submitted_at=1.0), ttl=True)
    await fill(turnout_client, 1, restarted=False)
    await records.read()
    assert len(owners) == 0


async def test_what_waits_in_a_line_or_on_a_route_is_asked_after_rarely(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is well with it: it is known at once, without a look at the bare jobs, and left alone for minutes."""
    store, applied = turnout_client.store, Applied()
    connection, names = store.connection, store.names
    long_ago, gone, key, east = connection.now() - 1000, MessageRef(10**6, 1), LimitKey("one", "one"), {"in": "east"}
    common: dict[str, Any] = {"activity": "idle", "state": JobState.queued, "submitted_at": long_ago, "message": gone}
    await put(turnout_client, job_record("parked", **common, waits_for=WaitsFor("one", "one", long_ago)))
    await connection.store(names.parked(key.hash, "idle", "parked"), dump_key(key))
    sent_on = job_record("sent-on", **common, options=SubmitOptions(requires=east))
    await put(turnout_client, sent_on)
    await store.queue.send_on(sent_on.spec, names.routed(token_of(east), "idle", "sent-on"), 0, "n")
    await connection.store(names.bare("idle"), b"{}")
    requests: list[bytes] = []
    verbs = [f"$JS.API.{verb}.GET.{names.work}" for verb in ("STREAM.MSG", "DIRECT")]
    heard = [await connection.subscribe(verb, lambda request: requests.append(request.data)) for verb in verbs]
    records = records_of(turnout_client, applied)
    await look(records)
    assert not applied.events
    assert len(requests) == 4, requests  # both on their subjects; the line; the message, and the route
    assert not any(b"next_by_subj" in request for request in requests), requests
    later(monkeypatch, turnout_client, 200)
    await look(records)
    assert len(requests) == 4, requests
    for subscription in heard:
        await subscription.close()
