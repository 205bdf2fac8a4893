"""What somebody has put into the streams by hand, or a disk has damaged, stops no recovery: keys are judged by their
age, and what is odd about one thing is that thing's alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.rawsocket import raw_publish
from tests.support.supervising import supervised
from tests.support.values import job_record
from tests.support.waiting import until
from turnout import (
    Bounds,
    Client,
    InvalidValue,
    JobFaulted,
    JobState,
    RetryPolicy,
    Schedule,
    WorkflowFaulted,
    activity,
    activity_ref,
    current_job,
    fastjson,
    wire,
    workflow,
)
from turnout.core.catalog import NodeInfo
from turnout.core.record import AttemptRecord, Token
from turnout.core.spec import Body
from turnout.store.topology import ConsumerOptions, Topology
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory

TTL_S = 2.0
DEAD = "dead-000000"


@activity(lease=600, retry=RetryPolicy.none())
async def job(n: int = 0) -> int:
    return n


def running(job_id: str, n: int, **token: Any) -> dict[str, Any]:
    """The JSON of a record of a job that runs on a node that is dead; `token` changes its token."""
    attempts = (AttemptRecord(1, 1, DEAD, 1.0),)
    payload = Body(text=f'{{"n":{n}}}', size=8)
    record = job_record(
        job_id,
        "job",
        JobState.running,
        submitted_at=1.0,
        payload=payload,
        token=Token(DEAD, 1, 1, "n"),
        attempt=1,
        attempts=attempts,
    )
    raw: dict[str, Any] = fastjson.loads(wire.dump_record(record))
    raw["token"] |= token
    return raw


async def lost_job(client: Client, n: int = 0, **token: Any) -> Any:
    """A job in the hands of the dead node: its message was handed over and is not coming back by itself."""
    connection, names = client.store.connection, client.store.names
    await Topology(connection, names).ensure_consumer("job", ConsumerOptions(lease=600, max_attempts=1, max_lost=3))
    handle = await client.submit(job, n)
    body = fastjson.dumps(running(handle.id, n, **token))
    await connection.store(names.record("job", handle.id), body)
    received: list[Any] = []
    subscription = await connection.subscribe(f"_INBOX.{client.namespace}.{handle.id}", received.append)
    pull = f"$JS.API.CONSUMER.MSG.NEXT.{names.work}.job"
    connection.send(pull, b'{"batch":1}', reply=f"_INBOX.{client.namespace}.{handle.id}")

    async def handed_over() -> bool:
        return bool(received)

    await until(handed_over)
    await subscription.close()
    return handle


KEYS = {
    "garbage": b"[[[",
    "of-no-version": b'{"id":"dead-000000","name":"dead"}',
    "without-an-end": wire.dump_node(NodeInfo(id=DEAD, name="dead", ttl=TTL_S)),
    "of-another-node": wire.dump_node(NodeInfo(id="other-000000", name="other", ttl=3600)),
    "of-a-later-version": b'{"v":99}',
}


@pytest.mark.parametrize("body", KEYS.values(), ids=KEYS)
async def test_a_key_keeps_no_dead_node_alive(
    turnout_client: Client, turnout_worker: WorkerFactory, body: bytes
) -> None:
    """Written without a TTL, it stays for ever: the node is dead when the key has not been written for its TTL."""
    names = turnout_client.store.names
    await turnout_client.store.connection.store(names.node(DEAD), body)
    handle = await lost_job(turnout_client, 7)
    async with turnout_worker(job, liveness_ttl=TTL_S):
        assert await handle.result(timeout=40) == 7
    assert (await handle.info()).losses == 1


@pytest.mark.parametrize(
    "body",
    [
        b"[[[",
        b'{"supervisor":"nobody","term":1,"ttl":2}',
        *(pytest.param(each, marks=pytest.mark.breadth) for each in (b"{}", b'{"ttl":"x"}', b"7")),
    ],
)
async def test_a_leaders_key_without_an_end_keeps_nobody_from_supervising(
    turnout_client: Client, turnout_worker: WorkerFactory, body: bytes
) -> None:
    """Whoever finds a key that was not rewritten in time takes it."""
    names = turnout_client.store.names
    await turnout_client.store.connection.store(names.node("leader.supervisor"), body)
    handle = await lost_job(turnout_client, 7)
    async with turnout_worker(job, liveness_ttl=TTL_S):
        assert await handle.result(timeout=40) == 7


async def test_alarms_that_make_no_sense_are_dropped(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Of no message, of messages that never were, or none at all; the jobs they speak of run once."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    queued = await turnout_client.submit(job, 1)
    subject = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{names.work}.job"
    seqs: list[object] = [0, -1, 2**70, 10**30, 1.5, "1", None, [], 1, 4711]
    bodies = [
        b"",
        b"[[[",
        b"\xff",
        b"[" * 50_000,
        *(fastjson.dumps({"stream_seq": seq}) for seq in seqs if seq != 10**30 and seq != 2**70),
    ]
    bodies += [b'{"stream_seq":%d}' % seq for seq in (2**70, 10**30)]
    for body in bodies:
        connection.send(subject, body)
    handle = await lost_job(turnout_client, 7)
    async with supervised(turnout_client), turnout_worker(job, liveness_ttl=TTL_S):
        assert await handle.result(timeout=40) == 7
        assert await queued.result(timeout=30) == 1

        async def none_left() -> bool:
            info = await connection.api(f"STREAM.INFO.{names.alarms}")
            return bool(info["state"]["messages"] == 0)

        await until(none_left, 30)
    assert (await queued.info()).attempt == 1


async def test_odd_records_are_their_own_trouble(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Owners that no node can be, tokens and messages that are none, bytes that no turnout has written: each job runs
    in the end, for its message is there, and the next one is not kept waiting by it."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    odd = [
        await lost_job(turnout_client, n, node=node)
        for n, node in enumerate(["a b", "x.y", "*", "", "\u00e9", ">" * 80])
    ]
    for broken in (
        {"token": 5},
        {"token": {"node": "x"}},
        {"message": {"seq": -1, "time_ns": "never"}},
        {"attempts": [7]},
        {"state": "asleep"},
        {"submitted_at": "yesterday"},
    ):
        handle = await lost_job(turnout_client, len(odd))
        await connection.store(names.record("job", handle.id), fastjson.dumps(running(handle.id, len(odd)) | broken))
        odd.append(handle)
    for body in (b"[[[", b"null", b"7", b"[" * 50_000, b"\xff\xfe"):
        handle = await lost_job(turnout_client, len(odd))
        await connection.store(names.record("job", handle.id), body)
        odd.append(handle)
    good = await lost_job(turnout_client, len(odd))
    async with turnout_worker(job, liveness_ttl=TTL_S):
        assert [await handle.result(timeout=60) for handle in [*odd, good]] == list(range(len(odd) + 1))


@activity(retry=RetryPolicy.none())
async def length(text: str = "") -> int:
    return len(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('{"labels": {"a": "\\ud800"}}', "labels"),
        ('{"retry": {"max_attempts": 1180591620717411303424}}', "Turnout-Options"),
        ('{"retry": {"max_attempts": 1001}}', "at most 1000 attempts"),
    ],
    ids=["surrogate", "bits", "attempts"],
)
async def test_options_that_no_record_can_carry_fault_at_once(
    turnout_client: Client, turnout_worker: WorkerFactory, options: str, said: str
) -> None:
    """A header that can be read but not written, or asks for too much, ends its job after no attempt."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    async with turnout_worker(length):
        await connection.store(names.jobs("length", "odd"), b"{}", {wire.OPTIONS: options})
        with pytest.raises(JobFaulted, match=said) as caught:
            await turnout_client.job("odd", length).result(timeout=30)
    assert (caught.value.info.attempt, caught.value.info.reason) == (0, "invalid")


async def test_a_claim_check_names_an_object_of_its_own_job_alone(
    turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Who names another job's large payload does not read it, and its deletion leaves the other's where it is."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    victim = await turnout_client.submit(length.options(id="victim"), "x" * 100_000)
    objects = [each.name async for each in turnout_client.store.payloads.objects()]
    assert len(objects) == 1
    await connection.store(names.jobs("length", "thief"), b"", {wire.PAYLOAD: f"{objects[0]} 100011"})
    async with turnout_worker(length):
        thief = turnout_client.job("thief", length)
        with pytest.raises(JobFaulted, match="no payload of job thief"):
            await thief.result(timeout=30)
        assert (await thief.info()).payload in ("", None, {})
        await thief.delete()
        assert await victim.result(timeout=30) == 100_000


def test_a_submission_asks_for_no_more_than_a_header_may() -> None:
    """The same bounds hold for `.options(...)`: nothing is accepted that would be faulted later."""
    with pytest.raises(ValueError, match="at most 1000 attempts"):
        length.options(retry=RetryPolicy(max_attempts=5000))
    with pytest.raises(ValueError, match="timeout"):
        length.options(timeout=400 * 86_400)


@activity(bounds=Bounds(attempts=3, timeout=60, labels=1))
async def bounded() -> int:
    return current_job().attempt


TOO_MUCH: list[tuple[dict[str, Any], str]] = [
    ({"retry": {"max_attempts": 4}}, "at most 3 attempts"),
    ({"timeout": 61.0}, "at most 60 s"),
    ({"labels": {"a": "1", "b": "2"}}, "at most 1 of them"),
]


@pytest.mark.parametrize(("options", "said"), TOO_MUCH, ids=["attempts", "timeout", "labels"])
async def test_an_activity_says_what_may_be_asked_of_it(
    turnout_client: Client, turnout_worker: WorkerFactory, options: dict[str, Any], said: str
) -> None:
    """What asks for more in a header is faulted before its code runs; the client refuses it, by name as well."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    asked = dict(options)
    if "retry" in asked:
        asked["retry"] = RetryPolicy(**asked["retry"])
    with pytest.raises(InvalidValue, match=said):
        await turnout_client.submit(bounded.options(**asked))
    async with turnout_worker(bounded):
        with pytest.raises(InvalidValue, match=said):
            await turnout_client.submit(activity_ref("bounded").options(**asked), {})
        with pytest.raises(InvalidValue, match=said):
            await turnout_client.submit_group(bounded.options(**asked), [{}])
        await connection.store(names.bare("bounded"), b"", {wire.OPTIONS: json.dumps(options), wire.MSG_ID: "more"})
        with pytest.raises(JobFaulted, match=said) as caught:
            await turnout_client.job("more", bounded).result(timeout=60)
        assert (caught.value.info.attempt, caught.value.info.reason) == (0, "invalid")
        within = {"retry": {"max_attempts": 3}, "timeout": 60.0, "labels": {"a": "1"}}
        await connection.store(names.bare("bounded"), b"", {wire.OPTIONS: json.dumps(within), wire.MSG_ID: "within"})
        assert await turnout_client.job("within", bounded).result(timeout=60) == 1


@workflow(fail_on=(JobFaulted,))
async def asks_for_too_much(typed: bool) -> None:
    if typed:
        await bounded.options(timeout=61.0)()
    else:
        await activity_ref("bounded").options(timeout=61.0).execute({})


async def test_every_door_says_the_same_of_what_is_beyond_the_bounds(
    turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Client, by name, bare, group, schedule and workflow: one sentence, as the error or as that of the faulted job."""
    sentence = "activity bounded: timeout: a submission may ask for at most 60 s here, not 61"
    client, daily = turnout_client, Schedule(every=86_400)
    typed, named = bounded.options(timeout=61.0), activity_ref("bounded").options(timeout=61.0)
    connection, names = client.store.connection, client.store.names
    async with turnout_worker(bounded, workflows=[asks_for_too_much]):
        asks: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: client.submit(typed),
            lambda: client.submit(named, {}),
            lambda: client.submit_many(typed, [{}]),
            lambda: client.submit_group(typed, [{}]),
            lambda: client.submit_group(named, [{}]),
            lambda: client.add_schedule("s", daily, typed),
            lambda: client.add_schedule("s", daily, named, {}),
            lambda: client.sync_schedules({"s": (daily, typed)}, prefix="s"),
        )
        for ask in asks:
            with pytest.raises(InvalidValue) as refused:
                await ask()
            assert str(refused.value) == sentence
        await connection.store(names.bare("bounded"), b"", {wire.OPTIONS: '{"timeout":61.0}', wire.MSG_ID: "bare"})
        with pytest.raises(JobFaulted) as faulted:
            await client.job("bare", bounded).result(timeout=60)
        for by_type in (True, False):
            with pytest.raises(WorkflowFaulted, match=sentence):
                await (await client.start(asks_for_too_much, by_type)).result(timeout=60)
        errors = {(info.error.type, info.error.message) async for info in client.jobs() if info.error is not None}
    assert faulted.value.info.error is not None
    assert errors == {("InvalidValue", sentence)}


@activity(name="bounded")
async def not_yet_bounded() -> int:
    raise ValueError("once")


async def test_new_bounds_leave_what_was_accepted_before(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A job that waits for its retry, and one that has not begun, run on as they were asked for; what is submitted from
    then on has to keep within them."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    asked = not_yet_bounded.options(retry=RetryPolicy(max_attempts=10, delay=3))
    async with turnout_worker(not_yet_bounded):
        begun = await turnout_client.submit(asked)

        async def waits_for_its_retry() -> bool:
            return (await begun.info()).state is JobState.retrying

        await until(waits_for_its_retry)
    waiting = await turnout_client.submit(asked)
    async with turnout_worker(bounded):
        assert await turnout_client.job(waiting.id, bounded).result(timeout=60) == 1
        assert await turnout_client.job(begun.id, bounded).result(timeout=60) == 2
    async with turnout_worker(bounded):  # which finds its own bounds declared
        options = json.dumps({"retry": {"max_attempts": 10}})
        await connection.store(names.bare("bounded"), b"", {wire.OPTIONS: options, wire.MSG_ID: "more"})
        with pytest.raises(JobFaulted, match="at most 3 attempts"):
            await turnout_client.job("more", bounded).result(timeout=60)


async def test_listings_answer_whatever_is_there(turnout_client: Client, nats_server: NatsServer) -> None:
    """Ids that are not UTF-8, instants that never come, depths that nobody can read, records under others' names: jobs
    are listed and counted, and one whose record is nothing at all is a queued one."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    good = await turnout_client.submit(job, 1)
    garbled = await turnout_client.submit(job, 2)
    await connection.store(names.record("job", garbled.id), b"[[[")
    far = job_record("far", "job", JobState.scheduled, submitted_at=1e300, due_at=1e300)
    deep = job_record(
        "deep", "job", JobState.completed, submitted_at=1.0, result=Body(text="[" * 50_000), finished_at=2.0
    )
    for record in (far, deep):
        await connection.store(names.record("job", record.id), wire.dump_record(record))
    under = names.record("job", "").encode()
    by_hand = [
        (names.bare("job").encode() + b".b\xfccher", b"{}"),
        (names.bare("job").encode() + b".\xff", b"\xff"),
        (names.bare("job").encode(), b"\xff"),
        (under + b"\xff", wire.dump_record(far)),
        (under + b"*", wire.dump_record(far)),
        (under + b"copied", wire.dump_record(deep)),
        (under + b"null", b"null"),
        (under + b"depth", b"[" * 100_000),
    ]
    for subject, body in by_hand:
        raw_publish(nats_server.url, subject, body)

    async def seen() -> dict[str, str]:
        return {info.id: str(info.state) async for info in turnout_client.jobs()}

    async def all_there() -> bool:
        return len(await seen()) == 7

    await until(all_there)
    found = await seen()
    assert {job_id: found[job_id] for job_id in (good.id, garbled.id, "far", "deep")} == {
        good.id: "queued", garbled.id: "queued", "far": "scheduled", "deep": "completed"
    }  # fmt: skip
    bare = [info async for info in turnout_client.jobs(state="queued")]
    assert len(bare) == 5
    assert [info.id async for info in turnout_client.jobs(state="completed")] == ["deep"]
    assert (await turnout_client.count())[JobState.queued] == 5
    for info in bare:
        assert (await turnout_client.job(info.id, "job").info()).state == "queued"


async def test_an_id_that_is_not_utf8_stops_nobody(
    turnout_client: Client, turnout_worker: WorkerFactory, nats_server: NatsServer
) -> None:
    """Whoever pulls its activity is handed it as well: it counts like any other, and the jobs around it run."""
    async with turnout_worker(job, concurrency=2, liveness_ttl=TTL_S):
        for n in range(4):
            raw_publish(nats_server.url, turnout_client.store.names.bare("job").encode() + b".\xff%d" % n, b'{"n":1}')
            handle = await turnout_client.submit(job, n)
            assert await handle.result(timeout=30) == n

        async def all_done() -> bool:
            info = await turnout_client.store.connection.api(f"STREAM.INFO.{turnout_client.store.names.work}")
            return bool(info["state"]["messages"] == 0)

        await until(all_done)
    assert (await turnout_client.count())[JobState.completed] == 8


async def test_a_generation_from_anybody_changes_nothing(
    turnout_client: Client, turnout_worker: WorkerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """A number in a header neither replaces a result nor takes a running job; a retry by turnout counts as ever."""
    connection, names = turnout_client.store.connection, turnout_client.store.names

    async def forge(job_id: str, generation: int) -> None:
        headers = {wire.GENERATION: f"{generation} guessed", "Nats-Msg-Id": f"forged-{job_id}-{generation}"}
        await connection.store(names.jobs("length", job_id), b'{"text": "forged"}', headers)

    async with turnout_worker(length):
        ended = await turnout_client.submit(length.options(id="ended"), "abc")
        assert await ended.result(timeout=30) == 3
        await forge("ended", 2)
        await forge("ended", 7)

        async def dropped() -> bool:
            return caplog.text.count("does not follow generation 1") == 2

        await until(dropped)
        info = await ended.info()
        assert (info.generation, info.state, info.result) == (1, "completed", 3)
        assert [each.id async for each in turnout_client.jobs(state="queued")] == []
    cancelled = await turnout_client.submit(length.options(id="cancelled"), "abc")
    await cancelled.cancel("no")
    await forge("cancelled", 2)
    assert (await cancelled.info()).state == "cancelled"
    assert (await turnout_client.count())[JobState.cancelled] == 1
    await cancelled.retry()
    assert (await cancelled.info()).generation == 2
    async with turnout_worker(length):
        assert await cancelled.result(timeout=30) == 3


async def test_what_is_odd_about_a_limit_is_told_once(
    turnout_client: Client, turnout_worker: WorkerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """The supervisor looks at places and lines again and again: what can't be read there does not fill its log."""
    caplog.set_level(logging.DEBUG, "turnout.store")
    connection, names = turnout_client.store.connection, turnout_client.store.names
    for subject in (names.places("odd"), names.parked("odd", "job", "odd")):
        await connection.store(subject, b"[[[")
    async with turnout_worker(job, liveness_ttl=TTL_S):

        async def told() -> list[list[int]] | None:
            said = ("who holds places of", "the line of")
            levels = [[each.levelno for each in caplog.records if each.message.startswith(text)] for text in said]
            return levels if all(len(each) > 2 for each in levels) else None

        for levels in await until(told) or []:
            assert levels.count(logging.WARNING) == 1
