"""Routing: jobs that require properties of their node, which not every node has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.rawsocket import raw_publish
from tests.support.waiting import listed, running, until
from turnout import (
    Client,
    InvalidValue,
    JobExists,
    JobHandle,
    JobState,
    Limit,
    RetryPolicy,
    Schedule,
    Waiting,
    Worker,
    activity,
    current_job,
    workflow,
)
from turnout.core.events import Event
from turnout.core.routing import Route
from turnout.core.spec import JobSpec, SubmitOptions
from turnout.nats.stream import Stream
from turnout.store.consumers import Consumer, consumers_of, route_name
from turnout.store.records import Versioned
from turnout.supervisor.apply import Applier
from turnout.supervisor.owners import Owners
from turnout.supervisor.records import Records
from turnout.supervisor.routes import RouteWatch
from turnout.testing import NatsServer, WorkflowEnvironment

EAST, WEST, NORTH = {"region": "east"}, {"region": "west"}, {"region": "north"}
SOON_S = 30.0
"""Well within a lease, and what a poll of the slowest duty would take."""


def node() -> str:
    return current_job().node.rpartition("-")[0]


@activity
async def where() -> str:
    return node()


@activity(requires=EAST)
async def in_the_east() -> str:
    return node()


@activity(retry=RetryPolicy(delays=[0, 0.05, 0.05]))
async def third_time() -> int:
    if current_job().attempt < 3:
        raise ValueError("not yet")
    return current_job().attempt


@activity(limits=[Limit("licence", concurrency=1)], requires=EAST)
async def licensed() -> str:
    await asyncio.sleep(0.02)
    return node()


@workflow
async def both_ways() -> list[str]:
    return [await where.options(requires=EAST).execute(), await where.options(requires=WEST).execute()]


async def waiting(handle: JobHandle[Any]) -> Waiting | None:
    return (await handle.info()).waiting_for


async def sent_on(client: Client, handle: JobHandle[Any]) -> None:
    """Returns when a node that does not fit was handed the job, and has sent it on."""

    async def lies_there() -> bool:
        subject = client.store.names.routed("*", handle.activity or "*", handle.id)
        return await client.store.connection.get_message(client.store.names.work, last_by_subj=subject) is not None

    await until(lies_there)


async def test_a_job_gets_to_the_node_that_has_what_it_requires(turnout_client: Client, turnout_worker: Any) -> None:
    """Whoever is handed it first: of its budgets nothing is spent, and each runs once."""
    async with (
        turnout_worker(where, name="plain"),
        turnout_worker(where, name="west", properties=WEST),
        turnout_worker(where, name="east", properties={**EAST, "gpu": "a100"}),
    ):
        east = await turnout_client.submit_many(where.options(requires=EAST), [{}] * 20)
        west = await turnout_client.submit_many(where.options(requires=WEST), [{}] * 20)
        assert {await handle.result(timeout=30) for handle in east} == {"east"}
        assert {await handle.result(timeout=30) for handle in west} == {"west"}
        for handle in (*east, *west):
            info = await handle.info()
            assert (info.attempt, info.failures, info.losses, info.aborts) == (1, 0, 0, 0)
        info = await west[0].info()
        assert (info.requires, info.waiting_for) == (WEST, None)


async def test_a_job_that_nobody_can_take_waits_and_says_so(turnout_client: Client, turnout_worker: Any) -> None:
    """It holds no slot, it is listed and counted as any other, and it runs at once when the node comes up."""
    async with turnout_worker(where, name="only", concurrency=1, properties=EAST):
        handles = await turnout_client.submit_many(where.options(requires=NORTH), [{}] * 5)
        for handle in handles:
            await sent_on(turnout_client, handle)
        assert await (await turnout_client.submit(where)).result(timeout=30) == "only"
        found = await waiting(handles[0])
        assert found is not None
        assert (found.kind, found.name) == ("node", "region=north")
        assert found.since is not None
        ids = sorted(handle.id for handle in handles)
        every: tuple[dict[str, Any], ...] = (
            {},
            {"activity": "where"},
            {"activity": "where", "state": "queued"},
            {"state": "queued"},
        )
        for filters in every:
            assert sorted([job.id async for job in turnout_client.jobs(**filters) if job.requires]) == ids
        assert (await turnout_client.count())[JobState.queued] == 5
        with pytest.raises(JobExists):
            await turnout_client.submit(where.options(id=ids[0]))
        async with turnout_worker(where, name="late", properties=NORTH) as late:
            assert [node.properties for node in await turnout_client.nodes() if node.id == late.id] == [NORTH]
            assert {await handle.result(timeout=SOON_S) for handle in handles} == {"late"}
    assert {(await handle.info()).attempt for handle in handles} == {1}


async def test_what_the_activity_requires_is_told_before_anybody_is_handed_the_job(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """The one node is busy, so that the job's message, which does not say it, lies in the queue still."""
    held = asyncio.Event()

    @activity
    async def occupy() -> None:
        await held.wait()

    async with turnout_worker(occupy, in_the_east, name="west", concurrency=1):
        await running(await turnout_client.submit(occupy))
        handle = await turnout_client.submit(in_the_east)
        found = await waiting(handle)
        assert found is not None
        assert (found.kind, found.name) == ("node", "region=east")
        assert (await turnout_client.store.registry.load("in_the_east", handle.id)).record is None


async def test_a_node_that_comes_back_with_other_properties_takes_other_jobs(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """What it had counts no more, what it has does; jobs that wait on a route are there for whoever has it next."""
    async with turnout_worker(where, name="a", properties=EAST):
        north = await turnout_client.submit(where.options(requires=NORTH))
        await sent_on(turnout_client, north)
    async with turnout_worker(where, name="a", properties=NORTH):
        assert await north.result(timeout=SOON_S) == "a"
        east = await turnout_client.submit(where.options(requires=EAST))
        await sent_on(turnout_client, east)
    async with turnout_worker(where, name="a", properties=NORTH), turnout_worker(where, name="b", properties=EAST):
        assert await east.result(timeout=SOON_S) == "b"


async def test_every_attempt_is_made_where_the_job_may_run(turnout_client: Client, turnout_worker: Any) -> None:
    """Also after a retry by hand."""
    async with turnout_worker(third_time, name="plain"), turnout_worker(third_time, name="east", properties=EAST):
        handles = await turnout_client.submit_many(third_time.options(requires=EAST), [{}] * 10)
        assert {await handle.result(timeout=30) for handle in handles} == {3}
        nodes = {attempt.node for handle in handles for attempt in (await handle.info()).attempts}
        assert {each.rpartition("-")[0] for each in nodes} == {"east"}

        handle = await turnout_client.submit(third_time.options(requires=NORTH))
        await sent_on(turnout_client, handle)
        await handle.cancel("not there")
        await handle.retry()
        await sent_on(turnout_client, handle)
        info = await handle.info()
        assert (info.generation, info.requires, info.state) == (2, NORTH, JobState.queued)


async def test_what_is_cancelled_on_its_route_is_gone(turnout_client: Client, turnout_worker: Any) -> None:
    """No message outlives its job: a node that fits, months later, finds none."""
    async with turnout_worker(where):
        one = await turnout_client.submit(where.options(requires=NORTH))
        two = await turnout_client.submit(where.options(requires=NORTH, expires_in=0.3))
        await sent_on(turnout_client, one)
        await one.cancel("nobody has it")
        assert (await one.info()).state is JobState.cancelled

        async def empty() -> bool:
            names = turnout_client.store.names
            lies = await turnout_client.store.connection.get_message(
                names.work, last_by_subj=names.routed("*", "where", "*")
            )
            return lies is None and (await two.info()).reason == "expired"

        await until(empty)


async def test_a_bare_message_names_what_it_requires_in_a_header(
    turnout_client: Client, turnout_worker: Any, nats_server: NatsServer
) -> None:
    """So does one of an activity that requires something itself; what nobody can read faults the job at once."""

    def publish(name: str, job_id: str, requires: str | None = None) -> None:
        headers = {"Nats-Msg-Id": job_id} | ({} if requires is None else {"Turnout-Requires": requires})
        raw_publish(nats_server.url, f"{turnout_client.namespace}.jobs.{name}", b"{}", headers)

    async with (
        turnout_worker(where, in_the_east, name="plain"),
        turnout_worker(where, in_the_east, name="east", properties={**EAST, "zone": "b"}),
    ):
        for number in range(6):
            publish("where", f"header-{number}", "region=east, zone=b")
            publish("in_the_east", f"activity-{number}")
        publish("in_the_east", "over", "region=south")
        publish("where", "wrong", "region")
        ids = await listed(turnout_client, 14)
        for job_id in ids:
            if job_id not in ("over", "wrong"):
                assert await turnout_client.job(job_id).result(timeout=30) == "east"
        assert (await turnout_client.job("header-0").info()).requires == {**EAST, "zone": "b"}
        assert (await turnout_client.job("activity-0").info()).requires == EAST

        async def said() -> bool:
            over = (await turnout_client.job("over").info()).waiting_for
            return over is not None and over.name == "region=south"

        await until(said)
        wrong = await until(lambda: faulted(turnout_client, "wrong"))
        assert (wrong.reason, "NAME=VALUE, such as region=east" in str(wrong.error)) == ("invalid", True)


async def faulted(client: Client, job_id: str) -> Any:
    info = await client.job(job_id).info()
    return info if info.state is JobState.faulted else None


async def test_what_a_submission_requires_is_added_to_what_its_activity_does() -> None:
    """And wins where both name a property; a later `.options(...)` adds to an earlier one."""
    assert in_the_east.submission.recorded.requires == EAST
    more = in_the_east.options(requires={"gpu": "a100"}).options(requires={"region": "west"})
    assert more.submission.recorded.requires == {"region": "west", "gpu": "a100"}
    assert where.options(requires=EAST).options(labels={"a": "b"}).submission.recorded.requires == EAST


async def test_limits_pauses_schedules_and_workflows_go_together_with_it(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """Places are handed on to jobs that only some nodes may run; a pause holds on a route as well."""
    options: dict[str, Any] = {"workflows": [both_ways]}
    async with (
        turnout_worker(where, licensed, name="west", properties=WEST, **options),
        turnout_worker(where, licensed, name="east", properties=EAST),
    ):
        handles = await turnout_client.submit_many(licensed, [{}] * 10)
        assert {await handle.result(timeout=30) for handle in handles} == {"east"}
        assert {(await handle.info()).attempt for handle in handles} == {1}

        flow = await turnout_client.start(both_ways)
        assert await flow.result(timeout=30) == ["east", "west"]

        await turnout_client.add_schedule("often", Schedule(every=1), where.options(requires=EAST))
        await until(lambda: run_of(turnout_client, "often"))
        await turnout_client.schedule("often").delete()

        assert await until(lambda: has_a_route(turnout_client))
        await turnout_client.pause(where)
        late = await turnout_client.submit(where.options(requires=EAST))
        assert all(each.paused for each in await those_of_where(turnout_client))
        found = await waiting(late)
        assert found is not None
        assert found.kind == "paused"
        await turnout_client.resume(where)
        assert await late.result(timeout=SOON_S) == "east"


async def those_of_where(client: Client) -> list[Consumer]:
    return [
        each for each in await consumers_of(client.store.connection, client.store.names) if each.activity == "where"
    ]


async def has_a_route(client: Client) -> bool:
    """Whether a job has been sent on to another node than the one that was handed it; one more is given a chance."""
    assert await (await client.submit(where.options(requires=EAST))).result(timeout=30) == "east"
    return len(await those_of_where(client)) >= 2


async def run_of(client: Client, schedule: str) -> bool:
    results = [job.result async for job in client.jobs(schedule=schedule, state="completed")]
    assert set(results) <= {"east"}
    return bool(results)


async def test_two_messages_of_one_job_run_it_once(turnout_client: Client, turnout_worker: Any) -> None:
    """Who sends it on and dies before the first is settled leaves both; whoever is handed the first later sees that."""
    spec = JobSpec(id="twice", activity="where", options=SubmitOptions(requires=NORTH))
    handle = turnout_client.job("twice", where)

    async def settled() -> bool:
        return await turnout_client.store.queue.find_named("where", "twice") is None

    async with turnout_worker(where):
        await turnout_client.store.queue.publish(spec, "one")
        await sent_on(turnout_client, handle)
        await until(settled)
        await turnout_client.store.queue.publish(spec, "two")
        await until(settled)
    async with turnout_worker(where, name="north", properties=NORTH):
        assert await handle.result(timeout=SOON_S) == "north"
    assert (await handle.info()).attempt == 1

    async def gone() -> bool:
        return await turnout_client.store.queue.find("where", "twice") is None

    await until(gone)


async def test_a_node_hears_of_a_route_that_nobody_has_told_it_of(
    turnout_client: Client, turnout_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who makes a route may die before it has told of it: the supervisor tells of each whose jobs nobody takes."""
    told: list[Route] = []

    async def dies(route: Route) -> None:
        told.append(route)

    async with turnout_worker(where, name="east", properties=EAST), turnout_worker(where, name="plain") as plain:
        plain_store = plain._client.store
        monkeypatch.setattr(type(plain_store.routes), "tell", keeping(type(plain_store.routes).tell, dies))
        while not told:
            handle = await turnout_client.submit(where.options(requires=EAST))
            assert await handle.result(timeout=30) == "east"


def keeping(tell: Any, dies: Any) -> Any:
    """`tell` of the supervisor, who names the nodes, alone."""

    async def only(self: Any, route: Route, nodes: Any = None) -> None:
        await (dies(route) if nodes is None else tell(self, route, nodes))

    return only


class Unasked(Applier):
    """Who would apply events, and is to have none."""

    def __init__(self) -> None:
        pass

    async def __call__(self, activity: str, job_id: str, event: Event, job: Versioned | None = None) -> bool:
        raise AssertionError(f"{job_id}: {event}")


async def test_a_route_is_there_for_as_long_as_jobs_are_on_it(
    turnout_client: Client, turnout_worker: Any, nats_server: NatsServer
) -> None:
    """One that nobody uses is removed; one that is missing under a job, whoever has removed it, is made again."""
    store = turnout_client.store
    found: list[Consumer] = []
    watch = RouteWatch(store, lambda: found, unused_s=0.0)

    async def left() -> list[Route]:
        for _ in range(2):
            found[:] = await consumers_of(store.connection, store.names)
            await watch.look()
        return await store.routes.known()

    async with turnout_worker(where):
        one = await turnout_client.submit(where.options(requires=NORTH))
        await sent_on(turnout_client, one)
        assert await left() == [Route("where", NORTH)]
        await one.cancel("nobody has it")
        assert await left() == []
        two = await turnout_client.submit(where.options(requires=NORTH))
        await sent_on(turnout_client, two)
        await Stream(store.connection, store.names.work).remove_consumer(route_name(Route("where", NORTH)))
        async with Client.connect(nats_server.url, namespace=turnout_client.namespace) as other:
            apply = Unasked()
            owners = Owners(other.store, apply, lambda: True)
            records = Records(other.store, apply, owners, settling_s=0.0, every_s=30.0)

            async def made_again() -> bool:
                await records.read()
                await records.look()
                return await store.routes.known() == [Route("where", NORTH)]

            await until(made_again)
    async with turnout_worker(where, name="north", properties=NORTH):
        assert await two.result(timeout=SOON_S) == "north"


async def test_where_workflows_are_tested_every_job_finds_its_node() -> None:
    """An environment has whatever is required: what the nodes of production have is none of a test's business."""
    async with WorkflowEnvironment(workflows=[both_ways], activities=[where]) as env:
        assert await (await env.start(both_ways)).result() == ["env", "env"]


async def test_what_cannot_be_is_said_at_the_call(turnout_client: Client) -> None:
    """With what would be right."""
    for wrong, said in (
        ({}, 'requires is empty: name a property, such as {"region": "east"}'),
        ("region=east", 'a dict of strings such as {"region": "east"}'),
        ({"gpus": 2}, "'2' is one"),
        ({"": "east"}, r"must match \[A-Za-z0-9_./-\]"),
        ({"a=b": "east"}, "a property's name must match"),
        ({"region": ""}, "1 to 128 printable characters"),
        ({"region": "east,west"}, "without a comma"),
        ({"region": " east"}, "space at either end"),
        ({str(number): "x" for number in range(17)}, "at most 16 properties"),
    ):
        requires: Any = wrong
        with pytest.raises(InvalidValue, match=said):
            where.options(requires=requires)
        with pytest.raises(InvalidValue, match=said):
            activity(requires=requires)
        if wrong != {}:
            with pytest.raises(InvalidValue, match=said.replace("requires", "properties")):
                Worker(turnout_client, activities=[where], properties=requires)
    assert route_name(Route("where", EAST)).startswith("where~")
