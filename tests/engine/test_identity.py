"""Identity: an id names one job of the namespace, whoever submits it, however often, from wherever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.rawsocket import raw_publish
from tests.support.waiting import listed, until
from turnout import (
    AmbiguousJob,
    Client,
    JobExists,
    JobHandle,
    JobState,
    RetryPolicy,
    activity,
    activity_ref,
    current_job,
)
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory

ran: dict[str, list[Any]] = {}
"""The values that ran, by job id: the activities run in this process."""


@activity
async def note(value: Any = None) -> Any:
    ran.setdefault(current_job().id, []).append(value)
    return value


@activity
async def other(value: Any = None) -> Any:
    ran.setdefault(current_job().id, []).append(value)
    return value


@activity(retry=RetryPolicy.none())
async def any_end(end: str) -> str:
    """Fails, or never ends, or returns."""
    job = current_job()
    ran.setdefault(job.id, []).append(end)
    if end != "new":
        await job.checkpoint(end)
    if end == "running":
        await asyncio.Event().wait()
    if end == "faulted":
        raise ValueError(end)
    return end


@activity
async def hold() -> None:
    await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def fresh() -> None:
    ran.clear()


async def is_running(handle: JobHandle[Any]) -> bool:
    return (await handle.info()).state == "running"


async def is_in(handle: JobHandle[Any], state: str) -> bool:
    return (await handle.info()).state == state


async def test_made_up_ids_are_ids(turnout_client: Client) -> None:
    """Without an id each submit is a job of its own, whose id is valid and sorts by time."""
    ids = [(await turnout_client.submit(note)).id for _ in range(20)]
    assert len(set(ids)) == 20
    assert all(turnout_client.job(job_id).id == job_id for job_id in ids)
    await asyncio.sleep(0.002)  # ids of one millisecond have no order
    assert (await turnout_client.submit(note)).id > ids[0]


@pytest.mark.parametrize("state", ["scheduled", "queued", "running", "completed", "cancelled"])
async def test_an_id_that_exists(turnout_client: Client, turnout_worker: WorkerFactory, state: str) -> None:
    """Whatever state its job is in, the id is taken: JobExists has a handle on that job, joining returns it."""
    chosen = hold if state == "running" else note
    async with turnout_worker(hold):
        first = await turnout_client.submit(chosen.options(id="one", delay=600 if state == "scheduled" else None))
        if state == "running":
            await until(lambda: is_running(first))
        if state == "cancelled":
            await first.cancel()
        if state == "completed":
            async with turnout_worker(note):
                await first.result(timeout=30)
        before = await first.info()
        assert before.state == state
        with pytest.raises(JobExists, match="one") as caught:
            await turnout_client.submit(chosen.options(id="one"))
        assert (caught.value.handle.id, caught.value.handle.activity) == ("one", chosen.name)
        assert await caught.value.handle.info() == before
        joined = await turnout_client.submit(chosen.options(id="one", if_exists="join"))
        assert await joined.info() == before
        assert sum((await turnout_client.count()).values()) == 1


async def test_join_makes_the_job_when_there_is_none(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """if_exists="join" submits when the id is free, and gives later callers the same typed result."""
    async with turnout_worker(note):
        handles = [await turnout_client.submit(note.options(id="j", if_exists="join"), n) for n in range(3)]
        assert [await handle.result(timeout=30) for handle in handles] == [0, 0, 0]
    assert ran["j"] == [0]


@pytest.mark.parametrize("delay", [None, 0.1])
@pytest.mark.parametrize("state", ["scheduled", "queued", "running", "completed", "faulted", "cancelled"])
async def test_replace_ends_what_is_there_and_begins_anew(
    turnout_client: Client, turnout_worker: WorkerFactory, state: str, delay: float | None
) -> None:
    """Whatever state its job is in: that one runs no more, and of its life nothing is left in the new one."""
    first = await turnout_client.submit(
        any_end.options(id="r", labels={"of": "first"}, delay=600 if state == "scheduled" else None), state
    )
    if state in ("running", "completed", "faulted"):
        await turnout_worker(any_end)
        await until(lambda: is_in(first, state))
    if state == "cancelled":
        await first.cancel()
    await until(lambda: is_in(first, state))
    before = len(ran.get("r", []))

    handle = await turnout_client.submit(any_end.options(id="r", if_exists="replace", delay=delay), "new")
    info = await handle.info()
    assert (info.payload, info.attempt, info.labels, info.error, info.result) == ({"end": "new"}, 0, {}, None, None)
    if not before:
        await turnout_worker(any_end)
    assert await handle.result(timeout=30) == "new"
    info = await handle.info()
    assert (info.attempt, info.generation, info.checkpoint) == (1, 2, None)
    assert [each.outcome for each in info.attempts] == ["completed"]
    assert ran["r"][before:] == ["new"]
    assert sum((await turnout_client.count()).values()) == 1


async def test_many_replace_at_once(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """One after the other has its way: all get the job that is last, no two run at a time, and it completes."""
    async with turnout_worker(note), Client.connect(nats_server.url, namespace=turnout_client.namespace) as second:
        ref = note.options(id="last", if_exists="replace")
        submits = [client.submit(ref, n) for n in range(4) for client in (turnout_client, second)]
        handles = await asyncio.gather(*submits)
        results = {await handle.result(timeout=30) for handle in handles}
        assert len(results) == 1
        assert ran["last"][-1] in results
        after = await turnout_client.submit(ref, "after")
        assert await after.result(timeout=30) == "after"
        assert (await after.info()).attempt == 1


async def test_a_bare_job_and_one_of_another_activity(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """A bare job is replaced like any other; another activity's is not one's own to end."""
    raw_publish(nats_server.url, f"{turnout_client.namespace}.jobs.note", '{"value": "bare"}', {"Nats-Msg-Id": "b"})
    assert await listed(turnout_client, 1) == ["b"]
    with pytest.raises(JobExists, match="note"):
        await turnout_client.submit(other.options(id="b", if_exists="replace"))
    handle = await turnout_client.submit(note.options(id="b", if_exists="replace"), "client")
    async with turnout_worker(note):
        assert await handle.result(timeout=30) == "client"
    assert ran["b"] == ["client"]


async def test_the_same_id_under_two_activities(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """An id is unique in the namespace, whatever the activity; another activity's job can't be joined."""
    await turnout_client.submit(note.options(id="shared"))
    for again in (other.options(id="shared"), other.options(id="shared", if_exists="join")):
        with pytest.raises(JobExists, match="note") as caught:
            await turnout_client.submit(again)
        assert caught.value.handle.activity == "note"
    async with turnout_worker(note):
        await turnout_client.job("shared").result(timeout=30)
    with pytest.raises(JobExists):
        await turnout_client.submit(other.options(id="shared"))


async def test_a_bare_id_is_taken(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """A bare job's message id is as taken as any other, while it is queued and afterwards."""
    raw_publish(nats_server.url, f"{turnout_client.namespace}.jobs.note", '{"value": "bare"}', {"Nats-Msg-Id": "b"})
    assert await listed(turnout_client, 1) == ["b"]
    with pytest.raises(JobExists):
        await turnout_client.submit(note.options(id="b"), "client")
    joined = await turnout_client.submit(note.options(id="b", if_exists="join"), "client")
    async with turnout_worker(note):
        assert await joined.result(timeout=30) == "bare"
        with pytest.raises(JobExists):
            await turnout_client.submit(note.options(id="b"), "client")
    assert ran["b"] == ["bare"]


async def test_a_bare_publish_of_an_id_that_exists(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Nobody tells `nats pub` that an id is taken, but the job runs once all the same."""
    handle = await turnout_client.submit(note.options(id="c"), "client")
    raw_publish(nats_server.url, f"{turnout_client.namespace}.jobs.note", '{"value": "bare"}', {"Nats-Msg-Id": "c"})
    assert (await turnout_client.count())[JobState.queued] == 1
    async with turnout_worker(note, concurrency=1):
        await handle.result(timeout=30)
        await (await turnout_client.submit(note)).result(timeout=30)
        await (await turnout_client.submit(note)).result(timeout=30)
    assert len(ran["c"]) == 1
    assert (await handle.info()).attempt == 1


@pytest.mark.parametrize("works", [False, True], ids=["queued", "finished"])
async def test_an_id_under_two_activities_is_ambiguous(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory, works: bool
) -> None:
    """Two activities' jobs got one id past all looks: asking without the activity says so, with it works."""
    for name in ("note", "other"):
        subject = f"{turnout_client.namespace}.jobs.{name}.two"  # what two clients publish that looked before
        raw_publish(nats_server.url, subject, f'{{"value": "{name}"}}')
    assert await listed(turnout_client, 2) == ["two", "two"]
    async with turnout_worker(*([note, other] if works else [hold])):
        for name in ("note", "other"):
            handle = turnout_client.job("two", name)
            if works:
                assert await handle.result(timeout=30) == name
            assert (await handle.info()).payload == {"value": name}
        for ask in (turnout_client.job("two").info, turnout_client.job("two").cancel):
            with pytest.raises(AmbiguousJob, match="note, other"):
                await ask()
    assert sum((await turnout_client.count()).values()) == 2


@pytest.mark.parametrize("works", [False, True], ids=["no worker", "with a worker"])
async def test_racing_clients(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory, works: bool
) -> None:
    """Of two clients that submit one id at the same moment exactly one wins; its payload is what runs, once."""
    if works:
        await turnout_worker(note, concurrency=50)
    won: dict[str, str] = {}
    async with Client.connect(nats_server.url, namespace=turnout_client.namespace) as second:
        for round_ in range(20):
            ref = note.options(id=f"race-{round_}")
            values = [str(n) for n in range(8)]
            submits = [(turnout_client, second)[int(value) % 2].submit(ref, value) for value in values]
            outcomes = await asyncio.gather(*submits, return_exceptions=True)
            winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, JobHandle)]
            assert [type(outcome) for outcome in outcomes].count(JobExists) == 7
            assert len(winners) == 1
            won[f"race-{round_}"] = values[winners[0]]
    if not works:
        await turnout_worker(note, concurrency=50)
    for job_id, value in won.items():
        assert await turnout_client.job(job_id).result(timeout=30) == value
    assert ran == {job_id: [value] for job_id, value in won.items()}


async def test_racing_joiners(nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Joiners that race all get the one job."""
    async with turnout_worker(note), Client.connect(nats_server.url, namespace=turnout_client.namespace) as second:
        ref = note.options(id="together", if_exists="join")
        submits = [client.submit(ref, n) for n in range(5) for client in (turnout_client, second)]
        handles = await asyncio.gather(*submits)
        assert len({await handle.result(timeout=30) for handle in handles}) == 1
    assert len(ran["together"]) == 1


async def test_ids_of_submit_many(turnout_client: Client) -> None:
    """submit_many with ids that exist raises, or joins, and its other jobs are stored."""
    await turnout_client.submit(note.options(id="m2"), "before")
    with pytest.raises(JobExists, match="m2"):
        await turnout_client.submit_many(note, [{"value": n} for n in range(3)], ids=["m1", "m2", "m3"])
    joined = await turnout_client.submit_many(
        note.options(if_exists="join"), [{"value": n} for n in range(3)], ids=["m1", "m2", "m3"]
    )
    assert [handle.id for handle in joined] == ["m1", "m2", "m3"]
    assert (await joined[1].info()).payload == {"value": "before"}
    assert sum((await turnout_client.count()).values()) == 3


async def test_namespaces_are_apart(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """One id in two namespaces is two jobs, and nobody sees the other's."""
    namespace = f"{turnout_client.namespace}b"
    async with Client.connect(nats_server.url, namespace=namespace) as neighbour:
        try:
            here = await turnout_client.submit(note.options(id="x"), "here")
            there = await neighbour.submit(note.options(id="x"), "there")
            await neighbour.submit(activity_ref("note").options(id="only-there"), {})
            async with turnout_worker(note):
                assert await here.result(timeout=30) == "here"
            assert (await there.info()).state == "queued"
            assert {info.id async for info in turnout_client.jobs()} == {"x"}
        finally:
            from turnout.testing.fixtures import delete_namespace

            await delete_namespace(nats_server.url, namespace)


@pytest.mark.parametrize("namespace", ["", "a.b", "a b", "*", "x" * 65, 7])
def test_a_namespace_is_a_name(namespace: Any) -> None:
    """A namespace that can't be a token of a subject is refused before anything is connected."""
    with pytest.raises(ValueError, match="namespace"):
        Client.connect("nats://127.0.0.1:1", namespace=namespace)
