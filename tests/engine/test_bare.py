"""Bare jobs: the bytes that `nats pub` sends, with and without headers, good and bad, over a plain socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from tests.support.rawsocket import raw_publish
from tests.support.waiting import listed, until
from turnout import Client, JobFaulted, JobInfo, JobState, RetryPolicy, activity, current_job, fastjson
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory

Publish = Callable[..., None]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@activity
async def greet(name: str, greeting: str = "hello") -> str:
    return f"{greeting} {name}"


@activity
async def defaults(a: int = 1, b: str = "x") -> str:
    return f"{a}{b}"


@attrs.frozen
class Order:
    number: int
    items: list[str]


@activity
async def ship(order: Order) -> int:
    return len(order.items)


@activity
async def size(text: str) -> int:
    return len(text)


@activity(retry=RetryPolicy(max_attempts=2, delay=0))
async def twice(name: str) -> dict[str, Any]:
    job = current_job()
    if job.attempt == 1:
        raise ValueError("once more")
    return {"id": job.id, "attempt": job.attempt, "name": name}


@pytest.fixture
def publish(nats_server: NatsServer, turnout_client: Client) -> Publish:
    """publish(activity, body, headers=None): what `nats pub` sends, to this test's namespace."""

    def send(name: str, body: str | bytes, headers: dict[str, str] | None = None) -> None:
        raw_publish(nats_server.url, f"{turnout_client.namespace}.jobs.{name}", body, headers)

    return send


async def the_job(client: Client) -> JobInfo:
    """The namespace's only job, as soon as it is there: a bare publish isn't acknowledged."""

    async def found() -> list[JobInfo]:
        return [info async for info in client.jobs()]

    jobs = await until(found)
    assert len(jobs) == 1
    return jobs[0]


async def ended(client: Client) -> JobInfo:
    """The namespace's only job after its end."""
    job = await the_job(client)
    infos = [info async for info in client.job(job.id).watch()]
    return infos[-1]


async def test_no_headers_at_all(publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Subject and body are enough; the id that the job gets while it is queued stays its id."""
    publish("greet", '{"name": "ann"}')
    queued = await the_job(turnout_client)
    assert (queued.state, queued.attempt, queued.generation) == ("queued", 0, 1)
    assert queued.payload == {"name": "ann"}
    assert len(queued.trace_id) == 32
    assert int(queued.trace_id, 16)
    async with turnout_worker(greet):
        assert await turnout_client.job(queued.id).result(timeout=30) == "hello ann"
        assert await turnout_client.job(queued.id, greet).result(timeout=30) == "hello ann"
    info = await turnout_client.job(queued.id).info()
    assert (info.id, info.attempt, info.payload) == (queued.id, 1, {"name": "ann"})
    assert (info.trace_id, info.submitted_at) == (queued.trace_id, queued.submitted_at)
    assert (await turnout_client.count())[JobState.completed] == 1


@pytest.mark.parametrize("body", ["", "{}", " \n"])
async def test_an_empty_body_is_the_empty_object(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory, body: str
) -> None:
    """Nothing, or nothing but white space, means {}."""
    async with turnout_worker(defaults):
        publish("defaults", body)
        info = await ended(turnout_client)
    assert (info.state, info.result, info.payload) == ("completed", "1x", {})


async def test_an_empty_body_may_be_too_little(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """{} lacks the parameters without a default: the error names them."""
    async with turnout_worker(greet):
        publish("greet", "")
        info = await ended(turnout_client)
    assert (info.state, info.error is not None and "name" in info.error.message) == ("faulted", True)


async def test_a_model_is_the_body_itself(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """An activity of one model takes the model's object, not one with the parameter's name around it."""
    async with turnout_worker(ship):
        publish("ship", '{"number": 7, "items": ["rope", "tar"]}')
        assert (await ended(turnout_client)).result == 2


async def test_the_message_id_is_the_jobs_id(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Nats-Msg-Id names the job, queued and later; a second publish of it is no second job, before or after the end."""
    publish("greet", '{"name": "ann"}', {"Nats-Msg-Id": "ferry-7"})
    assert (await the_job(turnout_client)).id == "ferry-7"
    assert (await turnout_client.job("ferry-7").info()).state == "queued"
    publish("greet", '{"name": "ann"}', {"Nats-Msg-Id": "ferry-7"})
    async with turnout_worker(greet):
        assert await turnout_client.job("ferry-7").result(timeout=30) == "hello ann"
        publish("greet", '{"name": "ann"}', {"Nats-Msg-Id": "ferry-7"})
        marker = await turnout_client.submit(greet, "last")
        await marker.result(timeout=30)
    assert (await turnout_client.job("ferry-7").info()).attempt == 1
    assert sum((await turnout_client.count()).values()) == 2


@pytest.mark.parametrize("chosen", ["two words", "a.b", "x" * 65, "fähre", "12-c1xn3zp4kt7q", "*"])
async def test_a_message_id_that_cannot_be_an_id_names_nothing(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory, chosen: str
) -> None:
    """A message id of another form does no harm: the job gets an id of its own and runs."""
    publish("greet", '{"name": "ann"}', {"Nats-Msg-Id": chosen})
    async with turnout_worker(greet):
        info = await ended(turnout_client)
    assert info.id != chosen
    assert (info.state, info.result) == ("completed", "hello ann")


@pytest.mark.parametrize("name", ["traceparent", "Traceparent", "TRACEPARENT", "TraceParent"])
async def test_traceparent_in_any_case(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory, name: str
) -> None:
    """The trace of whoever published goes on in the job, however the header is spelt."""
    publish("greet", '{"name": "ann"}', {name: f"00-{TRACE}-00f067aa0ba902b7-01"})
    assert (await the_job(turnout_client)).trace_id == TRACE
    async with turnout_worker(greet):
        assert (await ended(turnout_client)).trace_id == TRACE


@pytest.mark.parametrize("value", ["", "garbage", "00-xyz-abc-01", f"00-{'0' * 32}-00f067aa0ba902b7-01"])
async def test_a_bad_traceparent_is_no_trace_and_no_harm(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory, value: str
) -> None:
    """A traceparent that is none is ignored: the job has a trace id of its own and runs."""
    publish("greet", '{"name": "ann"}', {"traceparent": value})
    async with turnout_worker(greet):
        info = await ended(turnout_client)
    assert info.state == "completed"
    assert len(info.trace_id) == 32
    assert int(info.trace_id, 16)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('{"nam": "ann"}', ["name", "nam"]),
        ('{"name": 7, "greeting": [1]}', ["name", "greeting"]),
        ('{"name": null}', ["name"]),
        ("[1, 2]", ["object"]),
        ('"ann"', ["object"]),
        ("null", ["object"]),
        ("{", ["JSON"]),
        ("ann", ["JSON"]),
        ('{"name": NaN}', ["JSON"]),
        (b"\xff\xfe\x00", ["UTF-8"]),
        (b'{"name": "\xc3\x28"}', ["UTF-8"]),
        ("[" * 20_000, ["JSON"]),
    ],
)
async def test_an_invalid_payload_faults_at_once(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory, body: str | bytes, named: list[str]
) -> None:
    """What the activity can't take is faulted, after one attempt at most, with every field's name in the error."""
    async with turnout_worker(greet):
        publish("greet", body)
        info = await ended(turnout_client)
        with pytest.raises(JobFaulted) as caught:
            await turnout_client.job(info.id).result(timeout=30)
    assert (info.state, info.attempt <= 1) == ("faulted", True)
    assert info.error is not None
    for word in named:
        assert word in info.error.message
    assert info.error.message in str(caught.value)
    letters = [fault async for fault in turnout_client.faults()]
    assert [(letter.id, letter.activity) for letter in letters] == [(info.id, "greet")]


@pytest.mark.parametrize("parser", [fastjson.loads, json.loads])
async def test_what_is_nested_too_deeply_shows_as_text(
    publish: Publish,
    turnout_client: Client,
    turnout_worker: WorkerFactory,
    monkeypatch: pytest.MonkeyPatch,
    parser: Callable[[str], Any],
) -> None:
    """Listings, `info` and `result` survive a payload of any depth: it is shown as its text, and its job faulted."""
    monkeypatch.setattr(fastjson, "loads", parser)
    for depth in (201, 900, 50_000):
        publish("greet", '{"name":' * depth + "1" + "}" * depth)
    async with turnout_worker(greet):
        infos = await until(lambda: all_ended(turnout_client, 3))
    assert {info.state for info in infos} == {JobState.faulted}
    assert all(isinstance(info.payload, str) for info in infos)
    assert all(isinstance(fault.payload, str) for fault in [each async for each in turnout_client.faults()])
    for info in infos:
        with pytest.raises(JobFaulted):
            await turnout_client.job(info.id).result(timeout=30)


async def test_a_number_of_any_size_shows_as_it_is(publish: Publish, turnout_client: Client) -> None:
    """An integer beyond 64 bits keeps its digits, whatever parses JSON."""
    publish("greet", '{"name": 123456789012345678901234567890}')
    assert (await the_job(turnout_client)).payload == {"name": 123456789012345678901234567890}


async def all_ended(client: Client, count: int) -> list[JobInfo] | None:
    infos = [info async for info in client.jobs()]
    return infos if len(infos) == count and all(info.state.final for info in infos) else None


async def test_a_payload_that_is_no_json_shows_as_text(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Readers see what was sent, before and after the job faulted for it."""
    publish("greet", "name: ann")
    assert (await the_job(turnout_client)).payload == "name: ann"
    async with turnout_worker(greet):
        assert (await ended(turnout_client)).payload == "name: ann"


async def test_a_bare_job_is_retried_under_its_id(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Attempts of a bare job count under one id, its own or the one it was given."""
    async with turnout_worker(twice):
        publish("twice", '{"name": "ann"}')
        info = await ended(turnout_client)
        assert info.result == {"id": info.id, "attempt": 2, "name": "ann"}
        assert [attempt.outcome for attempt in info.attempts] == ["faulted", "completed"]


async def test_many_bare_jobs_each_run_once(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Bare jobs share a subject, and yet each has an id, is counted once and runs once."""
    for number in range(30):
        publish("greet", json.dumps({"name": str(number)}))
    queued = set(await listed(turnout_client, 30, state="queued"))

    async def all_completed() -> bool:
        return (await turnout_client.count())[JobState.completed] == 30

    async with turnout_worker(greet):
        await until(all_completed)
    infos = [info async for info in turnout_client.jobs()]
    assert {info.id for info in infos} == queued
    assert {info.result for info in infos} == {f"hello {number}" for number in range(30)}
    assert {info.attempt for info in infos} == {1}


@pytest.mark.parametrize("text", ["x" * 1_000_000, '"\\' * 260_000], ids=["plain", "escapes"])
async def test_a_huge_body(publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory, text: str) -> None:
    """A body as large as the server takes runs like a small one, though a record of it wouldn't fit in a message."""
    body = json.dumps({"text": text})
    publish("size", body)
    assert (await the_job(turnout_client)).payload == {"text": text}
    async with turnout_worker(size):
        info = await ended(turnout_client)
    assert (info.state, info.result, info.attempt) == ("completed", len(text), 1)
    assert info.payload == {"text": text}


@pytest.mark.parametrize("body", [b"x" * 1_000_000, b"\xff" * 1_000_000], ids=["not JSON", "not UTF-8"])
async def test_a_huge_body_that_is_invalid(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory, body: bytes
) -> None:
    """A bad body as large as the server takes is faulted like a small one, and replayable from its dead letter. Bytes
    that are no UTF-8 are spelt out at its beginning, the others have a sign each: spelling all of them takes long."""
    async with turnout_worker(size):
        publish("size", body)
        info = await ended(turnout_client)
    assert (info.state, info.attempt <= 1) == ("faulted", True)
    assert len([fault async for fault in turnout_client.faults()]) == 1
    if body.startswith(b"\xff"):
        assert info.payload == "\\xff" * 16_384 + "\ufffd" * (len(body) - 16_384)


async def test_a_huge_queued_body_can_be_cancelled_and_retried(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Nobody ever ran it, but its payload is kept: a retry after the cancel runs it."""
    publish("size", json.dumps({"text": "x" * 900_000}), {"Nats-Msg-Id": "huge"})
    await the_job(turnout_client)
    handle = turnout_client.job("huge")
    await handle.cancel("too large")
    assert (await handle.info()).state == "cancelled"
    await handle.retry()
    async with turnout_worker(size):
        assert await handle.result(timeout=30) == 900_000


async def test_headers_of_the_publishers_own_are_no_options(
    publish: Publish, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Unreadable Turnout headers fault the job and name themselves; they neither stop the worker nor loop."""
    async with turnout_worker(greet):
        publish("greet", '{"name": "ann"}', {"Turnout-Options": "{no json", "Nats-Msg-Id": "bad"})
        with pytest.raises(JobFaulted, match="Turnout-Options"):
            await turnout_client.job((await the_job(turnout_client)).id).result(timeout=30)
        good = await turnout_client.submit(greet, "bob")
        assert await good.result(timeout=30) == "hello bob"
