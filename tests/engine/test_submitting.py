"""Submitting: what is stored, what is refused before anything is stored, and what an unreliable line makes of it."""

from __future__ import annotations

import asyncio
import math
from datetime import datetime, timedelta
from typing import Any

import attrs
import pytest
from pydantic import BaseModel

from tests.support.proxy import Proxy
from tests.support.waiting import until
from turnout import (
    Client,
    InvalidArguments,
    InvalidValue,
    JobExists,
    JobState,
    RetryPolicy,
    TurnoutError,
    activity,
    activity_ref,
    wire,
)
from turnout.core.lifecycle import record_of
from turnout.nats.messages import NoResponders, RequestTimeout
from turnout.nats.stream import MSG_ID, Stream
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory


@activity
async def join(first: str, second: str = "b", *, sep: str = "-") -> str:
    return f"{first}{sep}{second}"


@activity
async def name_clash(activity: str, self: str = "me") -> str:
    return f"{activity} {self}"


@activity
def double(n: int) -> int:
    return 2 * n


@activity
async def anything(value: Any) -> Any:
    return value


@attrs.frozen
class Point:
    x: int
    y: int = 0


@activity
async def norm(point: Point) -> int:
    return abs(point.x) + abs(point.y)


async def stored(client: Client) -> int:
    return sum((await client.count()).values())


async def test_submit_returns_when_the_job_is_stored(turnout_client: Client) -> None:
    """As soon as submit returns another client finds the job, queued and with its payload as it was sent."""
    handle = await turnout_client.submit(join, "a", sep="+")
    info = await turnout_client.job(handle.id).info()
    assert (info.state, info.attempt, info.activity) == ("queued", 0, "join")
    assert info.payload == {"first": "a", "sep": "+"}
    assert (info.result, info.node, info.progress, info.started_at, info.finished_at) == (None,) * 5
    assert info.generation == 1
    assert info.submitted_at.utcoffset() == timedelta(0)


async def test_arguments_are_those_of_the_function(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Positional, keyword and default arguments arrive as in a call, whatever the parameters are called."""
    async with turnout_worker(join, name_clash, double):
        handles = [
            await turnout_client.submit(join, "a"),
            await turnout_client.submit(join, "a", "c"),
            await turnout_client.submit(join, first="x", second="y", sep=""),
            await turnout_client.submit(name_clash, activity="is", self="fine"),
        ]
        assert [await handle.result(timeout=30) for handle in handles] == ["a-b", "a-c", "xy", "is fine"]
        number = await (await turnout_client.submit(double, 21)).result(timeout=timedelta(seconds=10))
        assert number == 42


async def test_by_name(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """An activity by name takes a payload object, or keywords, and options through activity_ref."""
    async with turnout_worker(join, anything):
        handle = await turnout_client.submit("join", {"first": "a"})
        assert await handle.result(timeout=30) == "a-b"
        assert await (await turnout_client.submit("join", first="k")).result(timeout=30) == "k-b"
        ref = activity_ref("join").options(id="by-ref", labels={"kind": "ref"})
        by_ref = await turnout_client.submit(ref, {"first": "r", "sep": "."})
        assert by_ref.id == "by-ref"
        assert by_ref.activity == "join"
        assert await by_ref.result(timeout=30) == "r.b"
        assert (await by_ref.info()).labels == {"kind": "ref"}
        plain = await turnout_client.submit("anything", {"value": {"deep": [1, None, 2.5, "ü"]}})
        assert await plain.result(timeout=30) == {"deep": [1, None, 2.5, "ü"]}


async def test_submit_many(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Hundreds of payloads become as many jobs, in order, each run once and each with a handle of its own."""
    handles = await turnout_client.submit_many(double, [{"n": n} for n in range(500)])
    assert len({handle.id for handle in handles}) == 500
    assert (await turnout_client.count())[JobState.queued] == 500
    async with turnout_worker(double, concurrency=50):
        assert [await handle.result(timeout=30) for handle in handles] == [2 * n for n in range(500)]
    infos = [info async for info in turnout_client.jobs()]
    assert {info.attempt for info in infos} == {1}
    assert [info.payload["n"] for info in infos] == list(reversed(range(500))), "newest first"


async def test_submit_many_takes_models_ids_and_options(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Items may be models or their objects, ids name the jobs, options hold for all of them; none is no job."""
    handles = await turnout_client.submit_many(norm, [Point(3, -4), {"x": 1}], ids=["p1", "p2"])
    labelled = await turnout_client.submit_many(norm.options(labels={"batch": "7"}), [Point(1)])
    by_name = await turnout_client.submit_many("norm", [{"x": 5, "y": 5}])
    assert await turnout_client.submit_many(norm, []) == []
    assert [handle.id for handle in handles] == ["p1", "p2"]
    async with turnout_worker(norm):
        assert [await handle.result(timeout=30) for handle in handles] == [7, 1]
        assert await labelled[0].result(timeout=30) == 1
        assert await by_name[0].result(timeout=30) == 10
    assert [info.labels async for info in turnout_client.jobs(label="batch=7")] == [{"batch": "7"}]


async def test_options_travel_with_the_job(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """One submission's timeout, retry policy and labels hold for that job alone, and keep the activity's types."""

    @activity(retry=RetryPolicy(max_attempts=5, delay=0))
    async def hang(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "awake"

    async with turnout_worker(hang):
        options = hang.options(timeout=0.2, retry=RetryPolicy.none(), labels={"customer": "7", "tier": "gold"})
        short = await turnout_client.submit(options, 30)
        plain = await turnout_client.submit(hang, 0.3)
        info = await until(lambda: faulted(short.info))
        assert (info.attempt, info.reason, info.failures) == (1, "timed_out", 1)
        assert [attempt.outcome for attempt in info.attempts] == ["timed_out"]
        assert info.labels == {"customer": "7", "tier": "gold"}
        assert await plain.result(timeout=30) == "awake"


async def faulted(info: Any) -> Any:
    found = await info()
    return found if found.state == "faulted" else None


@pytest.mark.parametrize(
    ("submit", "error", "named"),
    [
        (lambda c: c.submit(join), InvalidArguments, "first"),
        (lambda c: c.submit(join, "a", "b", "c"), InvalidArguments, "positional"),
        (lambda c: c.submit(join, "a", nonsense=1), InvalidArguments, "nonsense"),
        (lambda c: c.submit(double, "many"), InvalidArguments, "n"),
        (lambda c: c.submit(anything, object()), InvalidValue, "value"),
        (lambda c: c.submit(anything, math.nan), InvalidValue, "value"),
        (lambda c: c.submit(anything, {"deep": {1, 2}}), InvalidValue, "deep"),
        (lambda c: c.submit(anything, {1: "key"}), InvalidValue, "value"),
        (lambda c: c.submit("anything", {"value": b"bytes"}), InvalidValue, "value"),
        (lambda c: c.submit("anything", {"a": 1}, {"b": 2}), InvalidArguments, "one payload"),
        (lambda c: c.submit("no such.name", {}), InvalidValue, "name"),
        (lambda c: c.submit("", {}), InvalidValue, "name"),
        (lambda c: c.submit(activity_ref("a*b"), {}), InvalidValue, "name"),
        (lambda c: c.submit_many(double, [{"n": 1}, {"n": "x"}]), InvalidArguments, "n"),
        (lambda c: c.submit_many(double, [{"n": 1}, {}]), InvalidArguments, "n"),
        (lambda c: c.submit_many(double, [{"n": 1}], ids=["a", "b"]), InvalidValue, "ids"),
        (lambda c: c.submit_many(double, [{"n": 1}, {"n": 2}], ids=["fine", "not fine"]), InvalidValue, "id"),
        (lambda c: c.submit_many(double, [{"n": 1}, {"n": 2}], ids=["twice", "twice"]), InvalidValue, "twice"),
        (lambda c: c.submit_many(double.options(id="one"), [{"n": 1}, {"n": 2}]), InvalidValue, "id"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_stored(
    turnout_client: Client, submit: Any, error: type[TurnoutError], named: str
) -> None:
    """Bad arguments are TypeErrors, bad values ValueErrors, each naming what is wrong; nothing is stored."""
    builtin = TypeError if error is InvalidArguments else ValueError
    with pytest.raises(builtin, match=named) as caught:
        await submit(turnout_client)
    assert isinstance(caught.value, error)
    assert await stored(turnout_client) == 0


@pytest.mark.parametrize(
    ("options", "builtin", "named"),
    [
        ({"id": ""}, ValueError, "id"),
        ({"id": "a.b"}, ValueError, "id"),
        ({"id": "ä"}, ValueError, "id"),
        ({"id": "a\n"}, ValueError, "id"),
        ({"id": "x" * 65}, ValueError, "id"),
        ({"id": 7}, ValueError, "id"),
        ({"id": "17-0abcdefgh12"}, ValueError, "id"),
        ({"if_exists": "maybe"}, ValueError, "if_exists"),
        ({"delay": -1}, ValueError, "delay"),
        ({"delay": math.inf}, ValueError, "delay"),
        ({"delay": "soon"}, ValueError, "delay"),
        ({"at": datetime(2030, 1, 1)}, ValueError, "at"),  # noqa: DTZ001 (that it is naive is the point)
        ({"at": 17.0}, ValueError, "at"),
        ({"delay": 1, "at": datetime.fromisoformat("2030-01-01T00:00:00Z")}, ValueError, "at"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"expires_in": 0}, ValueError, "expires_in"),
        ({"labels": {"a": 1}}, ValueError, "labels"),
        ({"labels": ["a"]}, ValueError, "labels"),
        ({"retry": 3}, TypeError, "retry"),
        ({"prio": 3}, TypeError, "prio"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], builtin: type[Exception], named: str) -> None:
    """An option's bad value is a ValueError that names it, an unknown option or a thing of another kind a TypeError."""
    for ref in (double, activity_ref("double")):
        with pytest.raises(builtin, match=named) as caught:
            ref.options(**options)
        assert isinstance(caught.value, TurnoutError)


async def test_a_job_of_64_characters_and_every_allowed_one(
    turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """The longest id and all kinds of characters that an id may have make a job that runs."""
    names = ["x" * 64, "-", "_", "A-z_0", "0"]
    async with turnout_worker(double):
        for name in names:
            handle = await turnout_client.submit(double.options(id=name), 4)
            assert handle.id == name
            assert await handle.result(timeout=30) == 8


@pytest.mark.parametrize("works", [False, True], ids=["queued meanwhile", "finished meanwhile"])
async def test_a_lost_answer_neither_doubles_the_job_nor_raises(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory, works: bool
) -> None:
    """The server has stored the job and its answer is lost: the client's own resend is no second job and no error."""
    if works:
        await turnout_worker(double)
    async with Proxy(nats_server.port) as proxy, Client.connect(proxy.url, namespace=turnout_client.namespace) as far:
        proxy.block(up=False)
        submitting = asyncio.create_task(far.submit(double, 4))

        async def arrived() -> bool:
            counts = await turnout_client.count()
            return counts[JobState.completed if works else JobState.queued] == 1

        await until(arrived)
        assert not submitting.done()
        proxy.cut()
        proxy.unblock()
        handle = await asyncio.wait_for(submitting, 30)
        if not works:
            await turnout_worker(double)
        assert await turnout_client.job(handle.id, double).result(timeout=30) == 8
        info = await handle.info()
    assert (info.attempt, info.generation) == (1, 1)
    assert await stored(turnout_client) == 1


@pytest.mark.parametrize("chars", [10, 200_000], ids=["small", "large"])
async def test_ones_own_resend_is_known_when_the_server_has_forgotten(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch, chars: int
) -> None:
    """The job has run before its submitter hears that it is stored, and the server was restarted."""
    store, names = turnout_client.store, turnout_client.store.names
    real, subject, sent = store.connection.store, names.jobs("anything", "mine"), list[str]()

    async def lossy(to: str, body: bytes, headers: dict[str, str], **more: Any) -> Any:
        if to != subject:
            return await real(to, body, headers, **more)
        sent.append(headers[MSG_ID])
        if len(sent) > 1:
            return await real(to, body, {**headers, MSG_ID: f"{sent[0]}-again"}, **more)  # as if it had been restarted
        ack = await real(to, body, headers, **more)
        found = await store.queue.find_named("anything", "mine")
        assert found is not None
        now = store.connection.now()
        await store.registry.save(
            attrs.evolve(record_of(found), state=JobState.completed, attempt=1, finished_at=now), 0
        )
        await Stream(store.connection, names.work).delete(ack.seq)
        raise RequestTimeout("the answer is lost")

    monkeypatch.setattr(store.connection, "store", lossy)
    handle = await turnout_client.submit(anything.options(id="mine"), "x" * chars)
    assert len(sent) == 2
    info = await handle.info()
    assert (info.state, info.payload) == ("completed", {"value": "x" * chars})
    with pytest.raises(JobExists):
        await turnout_client.submit(anything.options(id="mine"), "x" * chars)


@pytest.mark.parametrize("recorded", [True, False], ids=["with a record", "without a record"])
async def test_ones_own_resend_is_known_when_it_was_requeued(
    turnout_client: Client, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    """Before its submitter hears that it is stored the job waits under another message, put there by a supervisor."""
    store = turnout_client.store
    real, subject, sent = store.connection.store, store.names.jobs("anything", "mine"), list[str]()

    async def lossy(to: str, body: bytes, headers: dict[str, str], **more: Any) -> Any:
        if to != subject or wire.REPLACED in headers:
            return await real(to, body, headers, **more)
        sent.append(headers[MSG_ID])
        ack = await real(to, body, headers, **more)
        found = await store.queue.find_named("anything", "mine")
        assert found is not None
        if recorded:
            await store.registry.save(record_of(found), 0)
        await store.queue.replace(found.spec, ack.seq, 1, "supervisor")
        raise RequestTimeout("the answer is lost")

    monkeypatch.setattr(store.connection, "store", lossy)
    handle = await turnout_client.submit(anything.options(id="mine"), "x" * 200_000)
    assert len(sent) == 2
    info = await handle.info()
    assert (info.state, info.payload) == ("queued", {"value": "x" * 200_000})
    with pytest.raises(JobExists):
        await turnout_client.submit(anything.options(id="mine"), "x" * 200_000)


async def test_submitting_goes_on_after_the_server_was_away(turnout_client: Client, nats_server: NatsServer) -> None:
    """A server that is restarted costs a client nothing but the wait: the same client submits again."""
    before = await turnout_client.submit(double, 1)
    await asyncio.to_thread(nats_server.kill)
    await asyncio.to_thread(nats_server.start)

    async def submits() -> Any:
        try:
            return await turnout_client.submit(double, 2)
        except (ConnectionError, TimeoutError, NoResponders):
            return None

    after = await until(submits)
    assert (await before.info()).state == "queued"
    assert (await after.info()).state == "queued"


async def test_a_payload_by_name_is_checked_against_the_contract(
    turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """What is missing, unknown or of a wrong kind is told at the submit, once a worker has published what it takes.

    Nothing is refused before that, and a contract that has changed is read again before anything is.
    """
    await turnout_client.submit("join", {"frist": "a"})
    async with turnout_worker(join):
        for call in (
            turnout_client.submit("join", {"frist": "a"}),
            turnout_client.submit(activity_ref("join"), frist="a"),
            turnout_client.submit_many("join", [{"first": "a"}, {"frist": "a"}]),
            turnout_client.submit("join", ["a"]),
            turnout_client.submit("join", {"first": 5}),
        ):
            told = r"first: .* required; frist: unknown key|be an object|first: it must be string"
            with pytest.raises(TypeError, match=told) as caught:
                await call
            assert isinstance(caught.value, ValueError)
        assert await (await turnout_client.submit("join", {"first": "a"})).result(timeout=30) == "a-b"

    @activity(name="join")
    async def newer(frist: str) -> str:
        return frist

    async with turnout_worker(newer):
        assert await (await turnout_client.submit("join", {"frist": "c"})).result(timeout=30) == "c"


class Person(BaseModel):
    name: str
    age: int = 0


YOU = Person(name="you")


@activity
async def greet(person: Person) -> str:
    return person.name


@activity
async def greet_anybody(person: Person = YOU) -> str:
    return person.name


@attrs.frozen
class Place:
    town: str


HOME = Place("home")


@activity
async def visit(place: Place = HOME) -> str:
    return place.town


async def test_so_is_one_that_is_the_object_of_a_model(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Its fields are missing or of a wrong kind; keys that the model drops are none of it, and where the model may be
    left out altogether nothing is refused."""
    async with turnout_worker(greet, greet_anybody, visit):
        for payload in ({}, {"person": {"name": "Ann"}}, {"name": 5}, {"name": "Ann", "age": "old"}, ["Ann"]):
            with pytest.raises(TypeError, match=r"name: it |age: it must be integer|it must be object"):
                await turnout_client.submit("greet", payload)
        handle = await turnout_client.submit("greet", {"name": "Ann", "age": "7", "more": 1})
        assert await handle.result(timeout=30) == "Ann"
        for name, default in (("greet_anybody", "you"), ("visit", "home")):
            assert await (await turnout_client.submit(name, {})).result(timeout=30) == default
