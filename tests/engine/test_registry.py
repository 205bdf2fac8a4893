"""The registry: what is known of jobs, nodes and activities, and for how long."""

from __future__ import annotations

import asyncio
import functools
from datetime import UTC, datetime, timedelta
from typing import Any

import nats
import pytest

from tests.support.rawsocket import raw_publish
from tests.support.waiting import until
from turnout import (
    Client,
    JobInfo,
    JobNotFound,
    JobState,
    Outcome,
    Retention,
    RetryPolicy,
    activity,
    activity_ref,
    current_job,
)
from turnout.store import settings
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory

DAY = 86_400


@activity
async def echo(value: str = "") -> str:
    return value


@activity(retry=RetryPolicy.none())
async def fail() -> None:
    raise ValueError("as asked")


@activity
async def hold() -> None:
    """Runs until somebody stops it."""
    current_job().progress(1, 2, "half")
    await asyncio.Event().wait()


@activity(retry=RetryPolicy(max_attempts=60, delay=0), timeout=timedelta(minutes=1), concurrency=3)
async def stubborn(failures: int, message: str = "no") -> int:
    """Fails many times.

    And then doesn't.
    """
    if current_job().attempt <= failures:
        raise ValueError(message)
    return current_job().attempt


async def is_state(client: Client, job_id: str, state: str) -> JobInfo | None:
    info = await client.job(job_id).info()
    return info if info.state == state else None


async def test_info_of_a_completed_job(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Everything that API promises of a job is there, with aware instants in their order."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    async with turnout_worker(echo, name="alpha") as worker:
        handle = await turnout_client.submit(echo.options(id="one", labels={"k": "v"}), "x")
        await handle.result(timeout=30)
        info = await handle.info()
    assert (info.id, info.activity, info.generation, info.state, info.attempt) == ("one", "echo", 1, "completed", 1)
    assert (info.failures, info.losses, info.aborts) == (0, 0, 0)
    assert (info.payload, info.result, info.checkpoint, info.progress) == ({"value": "x"}, "x", None, None)
    assert (info.error, info.reason, info.labels, info.suspect) == (None, None, {"k": "v"}, False)
    assert info.next_attempt_at is None
    assert len(info.trace_id) == 32
    assert int(info.trace_id, 16)
    assert info.started_at is not None
    assert info.finished_at is not None
    assert before < info.submitted_at <= info.started_at <= info.finished_at < datetime.now(UTC) + timedelta(seconds=1)
    (attempt,) = info.attempts
    assert (attempt.number, attempt.node, attempt.outcome, attempt.error) == (1, worker.id, "completed", None)
    assert attempt.started_at == info.started_at
    assert attempt.ended_at == info.finished_at
    assert isinstance(info.state, JobState)
    assert isinstance(attempt.outcome, Outcome)


async def test_info_of_a_running_job(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """While a job runs it shows its node, its open attempt and its progress."""
    async with turnout_worker(hold, name="alpha") as worker:
        handle = await turnout_client.submit(hold)

        async def with_progress() -> JobInfo | None:
            info = await handle.info()
            return info if info.progress is not None else None

        info = await until(with_progress)
        assert (info.state, info.node, info.attempt, info.finished_at) == ("running", worker.id, 1, None)
        assert worker.id.startswith("alpha")
        assert worker.id != "alpha"
        assert info.progress is not None
        assert (info.progress.done, info.progress.total, info.progress.message) == (1, 2, "half")
        assert [(attempt.outcome, attempt.ended_at) for attempt in info.attempts] == [("running", None)]


async def test_info_of_a_faulted_job(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A fault keeps class, message and traceback, in the job, in its attempt and in the dead letter."""
    async with turnout_worker(fail):
        handle = await turnout_client.submit(fail)
        info = await until(lambda: is_state(turnout_client, handle.id, "faulted"))
    for error in (info.error, info.attempts[0].error):
        assert error is not None
        assert (error.type, error.message) == ("ValueError", "as asked")
    assert info.error is not None
    assert 'raise ValueError("as asked")' in info.error.traceback
    assert (info.reason, info.failures, info.attempts[0].outcome) == ("failed", 1, "faulted")
    letters = [fault async for fault in turnout_client.faults(activity=fail)]
    assert [(letter.id, letter.reason, letter.error) for letter in letters] == [(handle.id, "failed", info.error)]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def unprintable(kind: str) -> None:
    current_job().progress(2**70, 2**71, "file \udcff")
    if kind == "unspeakable":
        raise Unspeakable
    raise ValueError("file \udcff" if kind == "surrogate" else "\x00" * 100_000)


@activity(retry=RetryPolicy.none())
async def fail_oddly(kind: str) -> None:
    unprintable(kind)


@activity(retry=RetryPolicy.none())
def fail_oddly_in_a_thread(kind: str) -> None:
    unprintable(kind)


@pytest.mark.parametrize("odd", [fail_oddly, fail_oddly_in_a_thread], ids=["async", "thread"])
@pytest.mark.parametrize("kind", ["surrogate", "long", "unspeakable"])
async def test_an_error_of_any_text_is_kept(
    turnout_client: Client, turnout_worker: WorkerFactory, odd: Any, kind: str
) -> None:
    """A text that UTF-8 can't carry, an endless one, or none at all: the job ends like any other."""
    async with turnout_worker(odd):
        handle = await turnout_client.submit(odd, kind)
        info = await until(lambda: is_state(turnout_client, handle.id, "faulted"))
    assert info.error is not None
    assert info.error.type == ("Unspeakable" if kind == "unspeakable" else "ValueError")
    assert len(info.error.message) < 10_000
    assert info.progress is not None
    assert info.progress.done == 2.0**70
    assert info.progress.message.startswith("file ")


async def test_an_unknown_job(turnout_client: Client) -> None:
    """Every question about an id that nobody knows raises JobNotFound, which is a LookupError."""
    for handle in (turnout_client.job("nobody"), turnout_client.job("nobody", echo), turnout_client.job("nobody", "x")):
        for ask in (handle.info, handle.result, handle.cancel, handle.retry, handle.delete, handle.watch().__anext__):
            with pytest.raises(JobNotFound, match="nobody"):
                await ask()
    with pytest.raises(ValueError, match="id"):
        turnout_client.job("not an id")


async def test_watch_tells_the_states_in_order_and_ends(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A watcher sees the job as it is, then its changes, each newer than the last, and the final one last."""
    handle = await turnout_client.submit(stubborn, 1)
    seen: list[JobInfo] = []
    queued = asyncio.Event()

    async def watch() -> None:
        async for info in handle.watch():
            seen.append(info)
            queued.set()

    watching = asyncio.create_task(watch())
    await queued.wait()
    assert [(info.state, info.attempt) for info in seen] == [("queued", 0)]
    async with turnout_worker(stubborn):
        await asyncio.wait_for(watching, 30)
    assert (seen[-1].state, seen[-1].attempt, seen[-1].result) == ("completed", 2, 2)
    assert [info.attempt for info in seen] == sorted(info.attempt for info in seen)
    assert len([info for info in seen if info.state.final]) == 1
    assert [info.state async for info in handle.watch()] == ["completed"], "of an ended job: its end alone"


async def test_jobs_in_every_state_are_found_and_counted_once(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Each job is in one state, whether it has a record, a message, both or a timer; `count` and `jobs` agree."""
    ids: dict[str, set[str]] = {state: set() for state in JobState}
    async with turnout_worker(echo, fail, hold, stubborn, concurrency=20):
        for number in range(3):
            ids["completed"].add((await turnout_client.submit(echo, str(number))).id)
        ids["faulted"].add((await turnout_client.submit(fail)).id)
        ids["running"] |= {(await turnout_client.submit(hold)).id for _ in range(2)}
        later = RetryPolicy(max_attempts=2, delay=600)
        ids["retrying"].add((await turnout_client.submit(stubborn.options(retry=later), 5)).id)
        ids["scheduled"].add((await turnout_client.submit(echo.options(delay=600))).id)
        ids["cancelled"].add((await turnout_client.submit(hold.options(id="stop-me"))).id)
        await until(lambda: is_state(turnout_client, "stop-me", "running"))
        await turnout_client.job("stop-me").cancel("enough")
        for number in range(4):
            ids["queued"].add((await turnout_client.submit("nobody_works_on_this", {"number": number})).id)
        ids["queued"].add((await turnout_client.submit(activity_ref("nobody").options(expires_in=600), {})).id)
        raw_publish(nats_server.url, f"{turnout_client.namespace}.jobs.nobody", "{}", {"Nats-Msg-Id": "bare"})
        ids["queued"].add("bare")
        wanted = {state: len(found) for state, found in ids.items()}

        async def as_wanted() -> bool:
            return await turnout_client.count() == wanted

        await until(as_wanted)
        for state, expected in ids.items():
            assert {info.id async for info in turnout_client.jobs(state=state)} == expected
            assert {info.state async for info in turnout_client.jobs(state=JobState(state))} == {state}
        everything = [info.id async for info in turnout_client.jobs()]
    assert len(everything) == len(set(everything)) == sum(wanted.values())
    assert list(wanted) == list(JobState)


async def test_filters(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Activity, label, node, age and number narrow a listing, alone and together; the newest come first."""
    await turnout_client.submit(echo.options(id="e1", labels={"tier": "gold", "n": "1"}))
    await turnout_client.submit(echo.options(id="e2", labels={"tier": "tin", "n": "2"}))
    await turnout_client.submit(fail.options(id="f1", labels={"tier": "gold", "n": "3"}))
    instant = (await turnout_client.job("f1").info()).submitted_at

    async def listed(**filters: Any) -> list[str]:
        ids = [info.id async for info in turnout_client.jobs(**filters)]
        if "limit" not in filters:
            assert sum((await turnout_client.count(**filters)).values()) == len(ids)
        return ids

    assert await listed() == ["f1", "e2", "e1"]
    assert await listed(limit=2) == ["f1", "e2"]
    assert await listed(activity="echo") == await listed(activity=echo) == ["e2", "e1"]
    assert await listed(activity="echo", limit=1) == ["e2"]
    assert await listed(activity="nobody") == []
    assert await listed(label="tier") == ["f1", "e2", "e1"]
    assert await listed(label="tier=gold") == await listed(label=("tier", "gold")) == ["f1", "e1"]
    assert await listed(label="tier=gold", activity=echo, state="queued") == ["e1"]
    assert await listed(label="colour") == []
    assert await listed(since=instant) == ["f1"]
    assert await listed(since=timedelta(hours=1)) == await listed(since=3600) == ["f1", "e2", "e1"]
    assert await listed(since=datetime.now(UTC) + timedelta(minutes=1)) == []
    assert await listed(state="running") == []
    async with turnout_worker(hold, name="alpha") as worker:
        await turnout_client.submit(hold.options(id="h1"))
        await until(lambda: is_state(turnout_client, "h1", "running"))
        assert await listed(node=worker.id) == await listed(node="alpha") == ["h1"]
        assert await listed(node="beta") == []


@pytest.mark.parametrize(
    ("filters", "named"),
    [({"state": "done"}, "state"), ({"limit": 0}, "limit"), ({"since": datetime(2020, 1, 1)}, "since"),  # noqa: DTZ001
     ({"activity": "a.b"}, "activity"), ({"node": "*"}, "node")],
)  # fmt: skip
async def test_bad_filters_are_refused(turnout_client: Client, filters: dict[str, Any], named: str) -> None:
    """A filter's bad value is a ValueError that names it."""
    with pytest.raises(ValueError, match=named):
        _ = [info async for info in turnout_client.jobs(**filters)]


async def test_nodes(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A node is listed from its start to its stop, with what it works on and how busy it is; names may be shared."""
    assert await turnout_client.nodes() == []
    async with turnout_worker(hold, echo, name="alpha", concurrency=4, liveness_ttl=5) as one:
        async with turnout_worker(echo, name="alpha") as two:
            nodes = {node.id: node for node in await turnout_client.nodes()}
            assert set(nodes) == {one.id, two.id}
            assert {node.name for node in nodes.values()} == {"alpha"}
            assert (nodes[one.id].slots, nodes[one.id].draining) == (4, False)
            assert set(nodes[one.id].activities) == {"echo", "hold"}
            assert nodes[one.id].pid > 0
            assert nodes[one.id].host
            await turnout_client.submit(hold)

            async def busy() -> bool:
                return {node.id: node.running for node in await turnout_client.nodes()} == {one.id: 1, two.id: 0}

            await until(busy)
        assert [node.id for node in await turnout_client.nodes()] == [one.id]
    assert await turnout_client.nodes() == []


async def test_activities(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A declared activity shows its contract, and that nobody works on it any more."""
    assert await turnout_client.activities() == []
    async with turnout_worker(stubborn, echo):
        found = {each.name: each for each in await turnout_client.activities()}
        assert set(found) == {"stubborn", "echo"}
        assert {each.nodes for each in found.values()} == {1}
        info = found["stubborn"]
        assert info.doc.startswith("Fails many times.")
        assert info.payload_schema["properties"]["failures"]["type"] == "integer"
        assert info.payload_schema["required"] == ["failures"]
        assert info.result_schema["type"] == "integer"
        assert (info.options["timeout"], info.options["concurrency"]) == (60.0, 3)
    found = {each.name: each for each in await turnout_client.activities()}
    assert {name: each.nodes for name, each in found.items()} == {"stubborn": 0, "echo": 0}
    async with turnout_worker(echo):
        nodes = {each.name: each.nodes for each in await turnout_client.activities()}
    assert nodes == {"stubborn": 0, "echo": 1}


async def stored_ttl(url: str, client: Client, job: str) -> str | None:
    """The Nats-TTL header of the record as the server keeps it."""
    connection = await nats.connect(url)
    try:
        stream = f"KV_{client.namespace}_jobs"
        message = await connection.jetstream().get_last_msg(stream, f"$KV.{client.namespace}_jobs.{job}")
        return (message.headers or {}).get("Nats-TTL")
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        (None, {"completed": 7 * DAY, "faulted": 30 * DAY, "cancelled": 7 * DAY}),
        (
            Retention(completed=7200, faulted=10_800, cancelled=timedelta(hours=1)),
            {"completed": 7200, "faulted": 10_800, "cancelled": 3600},
        ),
    ],
)
async def test_ended_records_expire(
    nats_server: NatsServer,
    turnout_client: Client,
    turnout_worker: WorkerFactory,
    retention: Retention | None,
    expected: dict[str, int],
) -> None:
    """A final record carries its state's retention, an hour at least; one that is not final carries none."""
    client = await Client.connect(nats_server.url, namespace=turnout_client.namespace, retention=retention)
    async with client, turnout_worker(echo, fail, hold, client=client):
        await (await client.submit(echo.options(id="completed"))).result(timeout=30)
        await client.submit(fail.options(id="faulted"))
        await client.submit(hold.options(id="cancelled"))
        await until(lambda: is_state(client, "cancelled", "running"))
        assert await stored_ttl(nats_server.url, client, "hold.cancelled") is None
        await client.job("cancelled").cancel()
        await client.submit(echo.options(id="queued", delay=600))
        await client.job("queued").cancel()
        for name, job in {"completed": "echo", "faulted": "fail", "cancelled": "hold"}.items():
            await until(functools.partial(is_state, client, name, name))
            assert await stored_ttl(nats_server.url, client, f"{job}.{name}") == f"{expected[name]}s"
        assert await stored_ttl(nats_server.url, client, "echo.queued") == f"{expected['cancelled']}s"


async def test_retention_is_a_setting_of_the_namespace(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets it sets it for all: for workers that run, and for clients that connect later without one."""
    monkeypatch.setattr(settings, "FRESH_S", 0.0)  # else they would heed it within half a minute
    url, namespace = nats_server.url, turnout_client.namespace
    chosen = Retention(completed=7200, faulted=timedelta(days=90))
    async with turnout_worker(echo):
        await (await turnout_client.submit(echo.options(id="before"))).result(timeout=30)
        async with Client.connect(url, namespace=namespace, retention=chosen) as other:
            assert other.retention == chosen
        await (await turnout_client.submit(echo.options(id="after"))).result(timeout=30)
        assert await stored_ttl(url, turnout_client, "echo.before") == f"{7 * DAY}s"
        assert await stored_ttl(url, turnout_client, "echo.after") == "7200s"
        async with Client.connect(url, namespace=namespace) as later:
            assert later.retention == chosen
            await later.set_retention(Retention())
        assert (await turnout_client.activities())[0].name == "echo"
        await (await turnout_client.submit(echo.options(id="again"))).result(timeout=30)
        assert await stored_ttl(url, turnout_client, "echo.again") == f"{7 * DAY}s"


async def test_an_activity_has_a_retention_of_its_own(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Whoever ends its jobs, with or without a worker; others have the namespace's, which may change beside it. The
    newest declaration counts, also one that says nothing."""
    url, namespace = nats_server.url, turnout_client.namespace
    own = Retention(completed=7200, faulted=10_800, cancelled=timedelta(hours=4))

    @activity(name="brief", retention=own)
    async def brief() -> None:
        pass

    @activity(name="brief")
    async def plain() -> None:
        pass

    async with turnout_worker(brief, echo):
        await (await turnout_client.submit(brief.options(id="a"))).result(timeout=30)
        await (await turnout_client.submit(echo.options(id="b"))).result(timeout=30)
        [found] = [each for each in await turnout_client.activities() if each.name == "brief"]
        assert found.options["retention"] == {"completed": 7200.0, "faulted": 10_800.0, "cancelled": 14_400.0}
    assert await stored_ttl(url, turnout_client, "brief.a") == "7200s"
    assert await stored_ttl(url, turnout_client, "echo.b") == f"{7 * DAY}s"
    async with Client.connect(url, namespace=namespace, retention=Retention(cancelled=DAY)) as other:
        for chosen, expected in ((brief, 14_400), (echo, DAY)):
            handle = await other.submit(chosen)
            await handle.cancel()
            assert await stored_ttl(url, other, f"{chosen.name}.{handle.id}") == f"{expected}s"
        async with turnout_worker(plain, client=other):
            pass
    async with Client.connect(url, namespace=namespace) as later:
        handle = await later.submit(plain)
        await handle.cancel()
        assert await stored_ttl(url, later, f"brief.{handle.id}") == f"{DAY}s"


@pytest.mark.parametrize("value", [7200, timedelta(days=1), {"completed": 7200}, "1d"])
def test_an_activity_takes_a_retention_and_nothing_else(value: Any) -> None:
    """What is no Retention is refused where it is written; one that is too short refuses itself."""
    with pytest.raises(ValueError, match=r"turnout\.Retention"):
        activity(retention=value)


async def test_a_setting_that_cannot_be_read_is_as_none(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Garbage in the place of the retention, and one that is too short, keep no job from its end, nor from its hour."""
    subject = turnout_client.store.names.setting("retention")
    for stored, expected in ((b"{", 7 * DAY), (b'{"v": 1, "completed": -5, "faulted": 1, "cancelled": 1}', 1)):
        await turnout_client.store.connection.store(subject, stored)
        async with (
            Client.connect(nats_server.url, namespace=turnout_client.namespace) as client,
            turnout_worker(echo, client=client),
        ):
            handle = await client.submit(echo)
            await handle.result(timeout=30)
            assert await stored_ttl(nats_server.url, client, f"echo.{handle.id}") == f"{expected}s"


async def test_tests_may_see_records_go(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Under turnout.testing a retention may be a second: the job is forgotten then."""
    await turnout_client.set_retention(Retention(completed=1))
    async with turnout_worker(echo):
        handle = await turnout_client.submit(echo)
        await handle.result(timeout=30)

        async def is_forgotten() -> bool:
            try:
                await handle.info()
            except JobNotFound:
                return True
            return False

        await until(is_forgotten)


@pytest.mark.parametrize("value", [3599, timedelta(minutes=59), 0, -5, float("inf"), float("nan"), 1e12, "1h", True])
def test_a_retention_is_checked(value: Any) -> None:
    """One under an hour, and what is no time span, is refused where it is written, and the message says why."""
    for name in ("completed", "faulted", "cancelled"):
        with pytest.raises(ValueError, match=name):
            Retention(**{name: value})
    assert Retention(completed=timedelta(days=1)) == Retention(completed=86_400)


@pytest.mark.parametrize("message", ["no", "😀" * 5000], ids=["short", "long"])
async def test_the_list_of_attempts_is_bounded(
    turnout_client: Client, turnout_worker: WorkerFactory, message: str
) -> None:
    """A job of very many attempts keeps the newest in its record, counts them all, and never gets too large for it."""
    async with turnout_worker(stubborn):
        handle = await turnout_client.submit(stubborn, 58, message)
        assert await handle.result(timeout=60) == 59
    info = await handle.info()
    assert (info.attempt, info.failures) == (59, 58)
    assert len(info.attempts) == 50
    assert [attempt.number for attempt in info.attempts] == list(range(10, 60))
    assert all(attempt.error is not None and attempt.error.message for attempt in info.attempts[:-1])
