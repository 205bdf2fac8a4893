"""The supervisor's look at the records: each is read once, and what is overdue is acted on."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from bench.fill import fill
from tests.support.waiting import until
from turnout import Client, JobState, activity, wire
from turnout.core.events import Event, Expired, Leftover, Stuck
from turnout.core.values import Attempt, JobRecord, Rules, SubmitOptions, Token
from turnout.errors import TurnoutError
from turnout.jetstream.connection import Received
from turnout.jetstream.names import kv_stream
from turnout.jetstream.walk import SMALL_PAGE
from turnout.supervisor import records as module
from turnout.supervisor.records import Records
from turnout.supervisor.sweep import SETTLING_S
from turnout.testing.server import NatsServer


@activity
async def idle() -> None:
    pass


class Applied:
    """Who would apply events: remembers them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []

    async def __call__(self, activity: str, job_id: str, event: Event) -> None:
        self.events.append((job_id, event))


@asynccontextmanager
async def asked(client: Client) -> AsyncIterator[list[int]]:
    """From which sequences the records are asked for."""
    seqs: list[int] = []

    def heard(request: Received) -> None:
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


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let so much time pass for the one who looks."""
    before = module.suspended_too
    monkeypatch.setattr(module, "suspended_too", lambda: before() + seconds)


async def test_what_was_read_is_not_read_again(turnout_client: Client) -> None:
    """Ended jobs are read once and forgotten, page by page; the next look begins behind them."""
    many = SMALL_PAGE + 100
    await fill(turnout_client, many, restarted=False)
    applied = Applied()
    records = Records(turnout_client.store, applied)
    async with asked(turnout_client) as seqs:
        await records.look()
        assert seqs == [1, SMALL_PAGE + 1]
        await fill(turnout_client, 10, restarted=False)
        await records.look()
        assert seqs[2:] == [many + 1]
    assert records.waiting == 0
    assert not applied.events


async def test_all_is_read_again_when_the_server_came_back(turnout_client: Client, nats_server: NatsServer) -> None:
    """It may have lost what it had not synced, and put other records in the places of those."""
    await fill(turnout_client, 10, restarted=False)
    records = Records(turnout_client.store, Applied())
    await records.look()
    nats_server.kill()
    nats_server.start()
    await until(lambda: answers(turnout_client))
    async with asked(turnout_client) as seqs:
        await records.look()
        assert seqs == [1]


async def test_all_is_read_again_when_the_stream_is_another_one(turnout_client: Client) -> None:
    """A bucket that was purged or restored from a backup begins before the end of the one that was read."""
    names, connection = turnout_client.store.names, turnout_client.store.connection
    stream = kv_stream(names.jobs_bucket)
    await fill(turnout_client, 10, restarted=False)
    records = Records(turnout_client.store, Applied())
    await records.look()
    config = (await connection.api(f"STREAM.INFO.{stream}"))["config"]
    await connection.api(f"STREAM.DELETE.{stream}")
    await connection.api(f"STREAM.CREATE.{stream}", config)
    await fill(turnout_client, 20, restarted=False)
    async with asked(turnout_client) as seqs:
        await records.look()
        assert seqs == [1]


async def test_all_is_read_again_after_an_hour(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever slipped past it is met in the end."""
    await fill(turnout_client, 10, restarted=False)
    records = Records(turnout_client.store, Applied())
    await records.look()
    later(monkeypatch, module.ALL_AGAIN_S + 1)
    async with asked(turnout_client) as seqs:
        await records.look()
        assert seqs == [1]


async def test_a_record_without_a_message_is_stuck_after_a_while(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once: whoever wrote the record may be about to publish. While it stays so it is said again and again."""
    await put(turnout_client, JobRecord(id="gone", activity="idle", state=JobState.queued, submitted_at=1.0))
    applied = Applied()
    records = Records(turnout_client.store, applied)
    await records.look()
    later(monkeypatch, SETTLING_S)
    await records.look()
    assert not applied.events
    for times in (1, 2):
        later(monkeypatch, 120)
        await records.look()
        await records.look()
        assert [job_id for job_id, _ in applied.events] == ["gone"] * times
    assert all(isinstance(event, Stuck) and event.found is None for _, event in applied.events)


async def test_a_record_that_goes_on_is_not_stuck(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written again before its time is over begins anew, and what runs or has ended is forgotten."""
    store = turnout_client.store
    applied = Applied()
    records = Records(store, applied)
    job = JobRecord(id="a", activity="idle", state=JobState.queued, submitted_at=1.0)
    await put(turnout_client, job)
    await records.look()
    assert records.waiting == 1
    token = Token("node-000000", 1, 1, "n")
    attempts = (Attempt(1, 1, token.node, 0.0),)
    await put(turnout_client, JobRecord(id="a", activity="idle", state=JobState.running, token=token, attempt=1,
                                        attempts=attempts, submitted_at=1.0))  # fmt: skip
    later(monkeypatch, 600)
    await records.look()
    assert records.waiting == 0
    await put(turnout_client, JobRecord(id="a", activity="idle", state=JobState.completed, submitted_at=1.0), ttl=True)
    await records.look()
    assert records.waiting == 0
    assert not applied.events


async def test_a_message_that_is_there_is_left_to_the_workers(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that waits in the queue for long is not stuck; a message of one that has ended is left over."""
    handle = await turnout_client.submit(idle)
    await put(turnout_client, JobRecord(id=handle.id, activity="idle", state=JobState.queued, submitted_at=1.0))
    applied = Applied()
    records = Records(turnout_client.store, applied)
    await records.look()
    later(monkeypatch, 600)
    await records.look()
    assert not applied.events
    due_at = turnout_client.store.connection.now() + 3600  # it was cancelled before it was due
    ended = JobRecord(id=handle.id, activity="idle", state=JobState.cancelled, submitted_at=1.0, due_at=due_at)
    await put(turnout_client, ended)
    await records.look()
    later(monkeypatch, 600)
    await records.look()
    assert [type(event) for _, event in applied.events] == [Leftover]


async def test_only_the_deadline_that_has_passed(turnout_client: Client) -> None:
    """An overdue job is expired at the first look, also while it waits for its retry; another is not."""
    now = turnout_client.store.connection.now()
    for job_id, expires_in in (("over", 1.0), ("later", 3600.0)):
        record = JobRecord(
            id=job_id,
            activity="idle",
            state=JobState.retrying,
            submitted_at=now - 2,
            due_at=now + 60,
            options=SubmitOptions(expires_in=expires_in),
        )
        await put(turnout_client, record)
    applied = Applied()
    await Records(turnout_client.store, applied).look()
    assert [(job_id, type(event)) for job_id, event in applied.events] == [("over", Expired)]


async def test_one_that_is_gone_among_many_that_wait(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are asked for many at a time; only the job whose message is missing is spoken of."""
    handles = await turnout_client.submit_many(idle, [{}] * 600)
    for job_id in [*(handle.id for handle in handles), "gone"]:
        await put(turnout_client, JobRecord(id=job_id, activity="idle", state=JobState.queued, submitted_at=1.0))
    applied = Applied()
    records = Records(turnout_client.store, applied)
    await records.look()
    assert records.waiting == 601
    later(monkeypatch, 600)
    await records.look()
    assert [(job_id, type(event)) for job_id, event in applied.events] == [("gone", Stuck)]


async def test_what_was_put_there_by_hand_stops_nothing(turnout_client: Client, nats_server: NatsServer) -> None:
    """The server stores anything under any subject: what names no job, or another one, or is nothing at all."""

    def record_of(job_id: str) -> bytes:
        return wire.dump_record(JobRecord(id=job_id, activity="idle", state=JobState.queued, submitted_at=1.0))

    by_hand = [
        (b"*", record_of("*")),
        (b"\xff\xfe", record_of("named")),
        (b"copied", record_of("named")),
        (b"deep", b"[" * 100_000),
        (b"named", record_of("named")),
    ]
    address = urlsplit(nats_server.url)
    with socket.create_connection((address.hostname, address.port or 4222), timeout=10) as raw:
        raw.sendall(b'CONNECT {"verbose":false}\r\n')
        for last, data in by_hand:
            subject = turnout_client.store.names.record("idle", "").encode() + last
            raw.sendall(b"PUB %s %d\r\n%s\r\n" % (subject, len(data), data))
        raw.sendall(b"PING\r\n")
        while b"PONG" not in raw.recv(65536):
            pass
    records = Records(turnout_client.store, Applied())

    async def read() -> bool:
        await records.look()
        return records.waiting > 0

    await until(read)
    assert records.waiting == 1


async def test_reading_all_again_forgets_no_patience(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest lease makes for a patience of an hour, after which all is read again: it is stuck all the same."""
    job = JobRecord(id="gone", activity="idle", state=JobState.queued, submitted_at=1.0, rules=Rules(lease=1800))
    await put(turnout_client, job)
    applied = Applied()
    records = Records(turnout_client.store, applied)
    await records.look()
    later(monkeypatch, module.ALL_AGAIN_S + 1)
    async with asked(turnout_client) as seqs:
        await records.look()
        assert seqs == [1]
    assert [type(event) for _, event in applied.events] == [Stuck]


async def test_what_is_not_there_any_more_is_forgotten(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that was purged leaves no marker behind; the next reading of all does not meet it."""
    names, connection = turnout_client.store.names, turnout_client.store.connection
    await put(turnout_client, JobRecord(id="a", activity="idle", state=JobState.queued, submitted_at=1.0))
    records = Records(turnout_client.store, Applied())
    await records.look()
    assert records.waiting == 1
    await connection.api(f"STREAM.PURGE.{kv_stream(names.jobs_bucket)}", {"filter": names.record("idle", "a")})
    later(monkeypatch, module.ALL_AGAIN_S + 1)
    await records.look()
    assert records.waiting == 0


async def test_only_what_is_due_soon_is_remembered(turnout_client: Client) -> None:
    """Millions of jobs may be scheduled for next month: they are met again before they are due."""
    now = turnout_client.store.connection.now()
    for job_id, due_in in (("soon", 3600), ("far", 30 * 86_400)):
        job = JobRecord(id=job_id, activity="idle", state=JobState.scheduled, submitted_at=now, due_at=now + due_in)
        await put(turnout_client, job)
    records = Records(turnout_client.store, Applied())
    await records.look()
    assert records.waiting == 1
    records.forget()
    assert records.waiting == 0
    async with asked(turnout_client) as seqs:
        await records.look()
        assert seqs == [1]
    assert records.waiting == 1


async def test_what_is_known_is_acted_on_when_reading_fails(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that can't be read to its end must not keep the overdue waiting."""
    applied = Applied()
    records = Records(turnout_client.store, applied)
    await put(turnout_client, JobRecord(id="gone", activity="idle", state=JobState.queued, submitted_at=1.0))
    await records.look()
    later(monkeypatch, 600)
    stream = kv_stream(turnout_client.store.names.jobs_bucket)
    await turnout_client.store.connection.api(f"STREAM.DELETE.{stream}")
    with pytest.raises(TurnoutError):
        await records.look()
    assert [type(event) for _, event in applied.events] == [Stuck]
