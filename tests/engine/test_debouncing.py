"""Debounced submissions: one run of a burst, with the last payload, when it has been quiet for long enough."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.proxy import Proxy
from tests.support.waiting import until
from turnout import (
    Client,
    InvalidValue,
    JobHandle,
    JobState,
    OutcomeUnknown,
    Schedule,
    activity,
    activity_ref,
    current_job,
)
from turnout.client.debouncer import Debouncer
from turnout.core.events import Submitted
from turnout.core.limits import hashed
from turnout.core.spec import Body, JobSpec
from turnout.definition.activity import ActivityRef
from turnout.store.debounces import Debounces
from turnout.store.perform import Performer
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory

WAIT_S = 0.5
ran: list[tuple[str, Any]] = []
"""What ran, with its payload: the activities run in this process."""


@activity
async def reindex(value: Any) -> Any:
    ran.append((current_job().id, value))
    return value


@activity
async def notify(value: Any) -> Any:
    ran.append((current_job().id, value))
    return value


@pytest.fixture(autouse=True)
def fresh() -> None:
    ran.clear()


async def fired(client: Client, handle: JobHandle[Any]) -> bool:
    """Whether the timer of the job has put its message into the stream."""
    return await client.store.queue.find_named("reindex", handle.id) is not None


async def test_one_run_with_the_last_payload(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """One submission after the other, also when the first one's time has come: one job, so long after the last."""
    ref = reindex.options(debounce=WAIT_S, debounce_key="customer-7", labels={"of": "first"})
    handles = [await turnout_client.submit(ref, 0)]
    await until(lambda: fired(turnout_client, handles[0]))
    last = 0.0
    for n in range(1, 10):
        handles.append(await turnout_client.submit(ref.options(labels={"of": "last"}, debounce=2 * WAIT_S), n))
        last = turnout_client.store.connection.now()
    assert len({handle.id for handle in handles}) == 1
    async with turnout_worker(reindex):
        assert await handles[0].result(timeout=30) == 9
        info = await handles[0].info()
        assert ran == [(info.id, 9)]
        assert (info.attempt, info.failures, info.payload, info.labels) == (1, 0, {"value": 9}, {"of": "last"})
        assert info.started_at is not None
        assert info.started_at.timestamp() - last >= 2 * WAIT_S - 0.1, "the submission took a part of it"

        again = await turnout_client.submit(ref, "again")
        assert again.id != info.id, "what has begun takes no more"
        assert await again.result(timeout=30) == "again"


async def test_keys_and_activities_are_apart(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Each key of each activity has its own run; without a key it is that of the activity alone. By name too."""
    by_key = [
        reindex.options(debounce=WAIT_S, debounce_key="a"),
        reindex.options(debounce=WAIT_S, debounce_key="b é\n*.>"),
        reindex.options(debounce=WAIT_S),
        notify.options(debounce=WAIT_S, debounce_key="a"),
        notify.options(debounce=WAIT_S),
    ]
    first = [await turnout_client.submit(ref, n) for n, ref in enumerate(by_key)]
    named = activity_ref("reindex").options(debounce=WAIT_S, debounce_key="a")
    assert (await turnout_client.submit(named, {"value": "by name"})).id == first[0].id
    async with turnout_worker(reindex, notify):
        assert [await handle.result(timeout=30) for handle in first] == ["by name", 1, 2, 3, 4]
    assert len(ran) == 5


async def test_many_at_once_from_several_processes(
    nats_server: NatsServer, turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Submitters that race all get the one job, and one of their payloads runs; a burst that is over begins another."""
    async with Client.connect(nats_server.url, namespace=turnout_client.namespace) as second:
        ref = reindex.options(debounce=WAIT_S * 2)
        submits = [client.submit(ref, n) for n in range(8) for client in (turnout_client, second)]
        [job_id] = {handle.id for handle in await asyncio.gather(*submits)}
        assert (await turnout_client.count())[JobState.scheduled] == 1
        async with turnout_worker(reindex):
            result = await turnout_client.job(job_id).result(timeout=30)
    assert ran == [(job_id, result)]


async def test_what_has_ended_takes_no_more(turnout_client: Client) -> None:
    """Cancelled, deleted, or with a name that somebody else has written: a submission begins a job of its own."""
    ref, ids = reindex.options(debounce=600, debounce_key="k"), []
    for end in ("cancel", "delete", "garble", ""):
        handle = await turnout_client.submit(ref, end)
        ids.append(handle.id)
        if end in ("cancel", "delete"):
            await handle.cancel()
        if end == "delete":
            await handle.delete()
        if end == "garble":
            store = turnout_client.store
            await store.connection.store(store.names.debounced("reindex", hashed("k")), b"\xff", {})
    assert len(set(ids)) == 4


async def test_a_name_without_a_job_gets_one(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Who died after naming the job leaves it to the next one to store it; a timer that he left out is made up for."""
    debounces = Debounces(turnout_client.store.connection, turnout_client.store.names)
    await debounces.put("reindex", "k", "named", WAIT_S, 0)
    async with turnout_worker(reindex):
        handle = await turnout_client.submit(reindex.options(debounce=WAIT_S, debounce_key="k"), "next")
        assert handle.id == "named"
        assert await handle.result(timeout=30) == "next"


async def test_a_name_is_kept_for_as_long_as_its_job_waits(turnout_client: Client) -> None:
    """Whichever submission it was that has the job wait for so long."""
    store = turnout_client.store
    debounces, week_s = Debounces(store.connection, store.names), 7 * 86_400
    ref = reindex.options(debounce=5, debounce_key="k")

    async def kept_s() -> float:
        return (await debounces.load("reindex", "k")).until - store.connection.now()

    handle = await turnout_client.submit(ref, 1)
    assert await kept_s() < week_s
    await turnout_client.submit(ref.options(debounce=week_s), 2)
    assert await kept_s() > week_s
    await debounces.put("reindex", "k", handle.id, 5, (await debounces.load("reindex", "k")).revision)
    await turnout_client.submit(ref, 3)
    assert await kept_s() > week_s


async def test_a_submission_whose_answer_is_lost(turnout_client: Client, nats_server: NatsServer) -> None:
    """The job may run with its payload, and so it says; also a later one, of a job that others have stored."""
    ref = reindex.options(debounce=600, debounce_key="k")
    handle = await turnout_client.submit(ref, 1)
    async with (
        Proxy(nats_server.port) as proxy,
        Client.connect(proxy.url, namespace=turnout_client.namespace) as beyond,
    ):
        store = beyond.store

        async def draft(ref: ActivityRef, job_id: str, text: str, headers: dict[str, str]) -> Submitted:
            proxy.block(up=False)
            return Submitted(spec=JobSpec(job_id, ref.name, payload=Body(text=text, size=len(text))), nonce="later")

        async def stored() -> bool:
            return bool((await handle.info()).payload == {"value": 2})

        debouncer = Debouncer(store, Performer(store), draft, lambda: "never")
        submitting = asyncio.create_task(debouncer.submit(ref, '{"value":2}', 600))
        await until(stored)
        proxy.cut()
        with pytest.raises(OutcomeUnknown, match=handle.id):
            await submitting
        proxy.unblock()


async def test_a_shorter_wait_never_moves_it_forward(turnout_client: Client) -> None:
    """Of several waits the instant that is latest counts: nobody's quiet time is cut short."""
    long = await turnout_client.submit(reindex.options(debounce=600), 1)
    due = (await long.info()).next_attempt_at
    short = await turnout_client.submit(reindex.options(debounce=1), 2)
    assert short.id == long.id
    assert ((await long.info()).next_attempt_at, (await long.info()).payload) == (due, {"value": 2})


async def test_large_payloads(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """One that is kept in the object store is replaced like another."""
    ref = reindex.options(debounce=WAIT_S)
    await turnout_client.submit(ref, "a" * 100_000)
    handle = await turnout_client.submit(ref, "b" * 100_000)
    async with turnout_worker(reindex):
        assert await handle.result(timeout=30) == "b" * 100_000


@pytest.mark.parametrize(
    "options",
    [
        {"debounce": 0},
        {"debounce": -1},
        {"debounce": "soon"},
        {"debounce": 1, "debounce_key": ""},
        {"debounce": 1, "debounce_key": 7},
        {"debounce": 1, "debounce_key": "x" * 257},
        {"debounce_key": "k"},
        *(
            {"debounce": 1, **more}
            for more in (
                {"delay": 1},
                {"at": datetime(2030, 1, 1, tzinfo=UTC)},
                {"id": "a"},
                {"if_exists": "join"},
                {"expires_in": 60},
                {"start_within": 60},
            )
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    """Where it is written, by the option's name."""
    with pytest.raises(InvalidValue, match="debounce"):
        reindex.options(**options)


async def test_where_it_has_no_meaning(turnout_client: Client) -> None:
    """Many payloads at once, a group, and the runs of a schedule: refused, and nothing is stored."""
    ref = reindex.options(debounce=1)
    with pytest.raises(InvalidValue, match="debounce"):
        await turnout_client.submit_many(ref, [{"value": 1}])
    with pytest.raises(InvalidValue, match="debounce"):
        await turnout_client.submit_group(ref, [{"value": 1}])
    with pytest.raises(InvalidValue, match="debounce"):
        await turnout_client.add_schedule("nightly", Schedule(every=60), ref, 1)
    assert sum((await turnout_client.count()).values()) == 0
