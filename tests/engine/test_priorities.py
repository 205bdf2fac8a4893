"""Priorities: who starts first when not all can, and that all that holds of jobs holds of each."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from tests.engine.test_consumers import job, pulls
from tests.engine.test_sweep import Sweeper
from tests.support.waiting import until
from turnout import (
    Client,
    InvalidState,
    InvalidValue,
    JobCancelled,
    JobExists,
    JobInfo,
    JobState,
    Limit,
    RetryPolicy,
    Schedule,
    activity,
    activity_ref,
)
from turnout.core.effects import Replace, Save, Unschedule
from turnout.core.events import PriorityRequested
from turnout.core.lifecycle import decide
from turnout.store.consumers import consumer_of
from turnout.store.perform import Performer
from turnout.store.topology import Topology
from turnout.supervisor.apply import Applier
from turnout.supervisor.owners import Owners
from turnout.supervisor.records import Records

SOON_S = 30.0

started: list[str] = []


@pytest.fixture(autouse=True)
def nothing_started() -> None:
    started.clear()


@activity(concurrency=1)
async def step(name: str) -> str:
    started.append(name)
    return name


@activity(concurrency=1, priority=2)
async def hasty(name: str) -> str:
    started.append(name)
    return name


@activity(concurrency=1, retry=RetryPolicy(delays=[3600.0]))
async def fails_once(name: str) -> str:
    started.append(name)
    if started.count(name) == 1:
        raise ValueError("not yet")
    return name


async def ended(client: Client, count: int) -> None:
    async def all_ended() -> bool:
        return (await client.count())[JobState.completed] == count

    await until(all_ended, within_s=60)


async def test_a_full_queue_starts_higher_priorities_first(turnout_client: Client, turnout_worker: Any) -> None:
    """In order within one; counted, listed and shown like all others."""
    client = turnout_client
    for priority in (5, 4, 3, 2, 1):
        ref = step.options(priority=priority)
        handles = await client.submit_many(ref, [{"name": f"{priority}{each}"} for each in "ab"])
        assert (await handles[0].info()).priority == priority
    assert (await client.count(activity="step"))[JobState.queued] == 10
    assert {info.priority async for info in client.jobs(activity="step")} == {1, 2, 3, 4, 5}
    async with turnout_worker(step):
        await ended(client, 10)
    assert started == ["1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b", "5a", "5b"]
    assert {info.priority async for info in client.jobs(state="completed")} == {1, 2, 3, 4, 5}


async def test_one_start_in_twenty_goes_to_who_has_waited_longest(turnout_client: Client, turnout_worker: Any) -> None:
    """However many of a higher priority wait: no job waits for ever."""
    client = turnout_client
    await client.submit_many(step.options(priority=5), [{"name": f"old{each}"} for each in range(3)])
    await client.submit_many(step, [{"name": f"usual{each}"} for each in range(3)])
    await client.submit_many(step.options(priority=1), [{"name": f"first{each}"} for each in range(60)])
    async with turnout_worker(step):
        await ended(client, 66)
    places = [started.index(f"old{each}") for each in range(3)]
    assert [place // 20 for place in places] == [0, 1, 2], started
    assert started.index("usual0") > started.index("first59") - 1, started


async def test_a_priority_that_comes_into_use_goes_first_at_once(turnout_client: Client, turnout_worker: Any) -> None:
    """Nodes that are at work hear of it."""
    client, go = turnout_client, asyncio.Event()

    @activity(name="step", concurrency=1)
    async def gated(name: str) -> None:
        started.append(name)
        if name == "blocker":
            await go.wait()

    async def pulled() -> bool:
        found = [await consumer_of(client.store.connection, client.store.names, f"step~{each}") for each in (1, 5)]
        return all(found)

    async with turnout_worker(gated):
        await client.submit(gated, "blocker")
        await until(lambda: asyncio.sleep(0, started == ["blocker"]))
        await client.submit_many(gated, [{"name": "usual"}] * 5)
        await client.submit(gated.options(priority=5), "last")
        await client.submit(gated.options(priority=1), "first")
        await until(pulled)
        await client.submit(gated, "usual")
        go.set()
        await ended(client, 9)
    assert started == ["blocker", "first", *["usual"] * 6, "last"]


async def test_the_activity_says_what_its_jobs_have_that_say_nothing(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """So does its contract, to those who know it by name; what a submission says counts more."""
    client = turnout_client
    async with turnout_worker(hasty):
        handles = [
            await client.submit(hasty, "typed"),
            await client.submit("hasty", {"name": "by name"}),
            await client.submit(hasty.options(priority=3), "its own"),
            await client.submit(activity_ref("hasty").options(priority=5), {"name": "its own, by name"}),
        ]
        assert [(await handle.info()).priority for handle in handles] == [2, 2, 3, 5]
        await ended(client, 4)


async def test_the_contract_counts_for_a_schedule_and_for_what_follows_a_group(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """By name as well; what is asked for counts more."""
    client, store = turnout_client, turnout_client.store
    usual, own = activity_ref("hasty"), activity_ref("hasty").options(priority=5)
    async with turnout_worker(hasty):
        for ref, priority in ((usual, 2), (own, 5)):
            group = (await store.groups.load((await client.submit_group(step, [{"name": "a"}], then=ref)).id)).record
            assert group is not None
            assert group.then is not None
            assert group.then.options.priority == priority
            await client.add_schedule("s", Schedule(cron="@yearly"), ref, name="b")
            schedule = (await store.schedules.load("s")).record
            assert schedule is not None
            assert schedule.job.options.priority == priority


async def test_an_id_is_one_job_whatever_its_priority(turnout_client: Client) -> None:
    """Of several at once one is accepted; the others find it, and join it if they want to."""
    client = turnout_client
    chosen = [step.options(id="a", priority=1 + each % 5) for each in range(10)]
    done = await asyncio.gather(*(client.submit(ref, "a") for ref in chosen), return_exceptions=True)
    refused = [each for each in done if isinstance(each, JobExists)]
    assert len(refused) == 9
    assert {each.handle.id for each in refused} == {"a"}
    joined = await client.submit(step.options(id="a", priority=4, if_exists="join"), "a")
    await client.submit(step.options(id="b", priority=1, delay=3600), "b")
    with pytest.raises(JobExists):
        await client.submit(step.options(id="b", priority=2), "b")
    assert await client.count(activity="step") == {**await client.count(), JobState.queued: 1, JobState.scheduled: 1}
    await joined.cancel("enough")
    with pytest.raises(JobCancelled):
        await joined.result(timeout=SOON_S)
    assert (await client.count(activity="step"))[JobState.queued] == 0


@pytest.mark.parametrize("priority", [0, 6, -1, True, 1.0, "1"])
def test_what_is_no_priority_is_refused_at_the_call(priority: Any) -> None:
    """With a word of which there are; `None` is the activity's own."""
    with pytest.raises(InvalidValue, match=r"from 1 .first. to 5 .last., not"):
        step.options(priority=priority)
    with pytest.raises(InvalidValue, match=r"from 1 .first. to 5 .last., not"):
        activity(name="other", priority=priority)(step.fn)
    assert step.options(priority=None).priority is None


async def test_a_lane_that_is_slow_to_begin_is_waited_for(
    turnout_client: Client, turnout_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker starts, and is ready for lower lanes before it is for the highest one: nothing of those begins."""
    ensure_consumer = Topology.ensure_consumer

    async def slowly(self: Topology, name: str, options: Any, lane: int = 3, **more: Any) -> Any:
        await asyncio.sleep(0.2 if lane == 1 else 0.0)
        return await ensure_consumer(self, name, options, lane, **more)

    monkeypatch.setattr(Topology, "ensure_consumer", slowly)
    for priority in (3, 2, 1):
        await turnout_client.submit(step.options(priority=priority), str(priority))
    async with turnout_worker(step):
        await ended(turnout_client, 3)
    assert started == ["1", "2", "3"]


async def test_a_waiting_job_gets_another_priority(turnout_client: Client, turnout_worker: Any) -> None:
    """Up and down, back and forth, a bare one too; it stays one job, submitted when it was, and what is no longer
    waiting has none to change."""
    client = turnout_client
    handles = {name: await client.submit(step.options(id=name), name) for name in "abcd"}
    before = (await handles["c"].info()).submitted_at
    await client.store.connection.store(client.store.names.bare("step"), b'{"name": "bare"}', {"Nats-Msg-Id": "bare"})
    await handles["a"].set_priority(5)
    for priority in (4, 1, 3, 2):
        await handles["c"].set_priority(priority)
        assert (await handles["c"].info()).priority == priority
    await handles["d"].run_now()
    await client.job("bare", "step").set_priority(4)
    await handles["b"].set_priority(3)
    assert (await client.count(activity="step"))[JobState.queued] == 5
    assert sorted([info.id async for info in client.jobs()]) == ["a", "b", "bare", "c", "d"]
    async with turnout_worker(step):
        await ended(client, 5)
    assert started == ["d", "c", "b", "bare", "a"]
    assert (await handles["c"].info()).submitted_at == before
    for call in (handles["a"].run_now(), handles["a"].set_priority(1)):
        with pytest.raises(InvalidState, match="completed"):
            await call
    with pytest.raises(InvalidValue):
        await handles["a"].set_priority(6)


async def test_what_waits_for_its_time_runs_now(turnout_client: Client, turnout_worker: Any) -> None:
    """A delayed job, and one that waits for its retry; only given another priority, they keep waiting."""
    client = turnout_client
    delayed = await client.submit(step.options(delay=3600), "delayed")
    await delayed.set_priority(4)
    info = await delayed.info()
    assert (info.state, info.priority) == (JobState.scheduled, 4)
    soon = await client.submit(step.options(delay=0.5), "soon")
    await soon.set_priority(2)
    async with turnout_worker(step, fails_once):
        retrying = await client.submit(fails_once, "again")

        async def waits() -> bool:
            return (await retrying.info()).state is JobState.retrying

        await until(waits)
        assert await soon.result(timeout=SOON_S) == "soon"
        await retrying.set_priority(5)
        assert (await retrying.info()).state is JobState.retrying
        await retrying.run_now()
        assert await retrying.result(timeout=SOON_S) == "again"
        await delayed.run_now()
        assert await delayed.result(timeout=SOON_S) == "delayed"
    assert started.count("delayed") == 1
    assert (await retrying.info()).attempt == 2


@pytest.mark.parametrize(("header", "expected"), [("1", 1), ("5", 5), ("0", 3), ("urgent", 3), ("", 3), ("1.0", 3)])
async def test_a_bare_job_says_it_in_a_header(turnout_client: Client, header: str, expected: int) -> None:
    """What is no priority counts as 3."""
    client = turnout_client
    headers = {"Turnout-Priority": header, "Nats-Msg-Id": "bare"}
    await client.store.connection.store(client.store.names.bare("step"), b'{"name": "bare"}', headers)
    assert (await client.job("bare", "step").info()).priority == expected


async def test_a_bare_job_of_a_priority_passes_a_full_queue(turnout_client: Client, turnout_worker: Any) -> None:
    """Whatever lies before it, named or not, and how it is called. What is wrong with another one stays with it."""
    client, go = turnout_client, asyncio.Event()
    subject = client.store.names.bare("step")

    @activity(name="step", concurrency=1)
    async def gated(name: str) -> None:
        started.append(name)
        if name == "blocker":
            await go.wait()

    async with turnout_worker(gated):
        await client.submit(gated, "blocker")
        await until(lambda: asyncio.sleep(0, started == ["blocker"]))
        for _ in range(5):
            await client.submit(gated, "usual")
            await client.store.connection.store(subject, b'{"name": "usual"}')
        wrong = {"Turnout-Priority": "1", "Turnout-Requires": "region", "Nats-Msg-Id": "wrong"}
        await client.store.connection.store(subject, b'{"name": "wrong"}', wrong)
        await client.job("wrong", "step").run_now()
        for job_id in ("", "named"):
            headers = {"Turnout-Priority": "1"} | ({"Nats-Msg-Id": job_id} if job_id else {})
            await client.store.connection.store(subject, b'{"name": "first"}', headers)

        async def moved() -> bool:
            found = await consumer_of(client.store.connection, client.store.names, "step~1")
            return found is not None and found.pending == 2

        await until(moved)
        go.set()
        await ended(client, 13)
        await until(lambda: faulted(client, "wrong"))
    assert started == ["blocker", "first", "first", *["usual"] * 10]
    assert (await client.job("wrong", "step").info()).reason == "invalid"
    assert (await client.job("named", "step").info()).priority == 1


async def faulted(client: Client, job_id: str) -> bool:
    return (await client.job(job_id, "step").info()).state is JobState.faulted


async def test_all_that_holds_of_jobs_holds_of_each_priority(turnout_client: Client, turnout_worker: Any) -> None:
    """A pause, a limit over all nodes, a retry by hand, a deletion."""
    client = turnout_client

    @activity(name="step", limits=[Limit("place", concurrency=1)], retry=RetryPolicy.none())
    async def limited(name: str) -> str:
        started.append(name)
        if started.count(name) == 1 and name == "fails":
            raise ValueError("not yet")
        return name

    async with turnout_worker(limited):
        handle = await client.submit(limited.options(priority=1), "before")
        assert await handle.result(timeout=SOON_S) == "before"
        await client.pause(limited)
        handles = [await client.submit(limited.options(priority=each), f"{each}") for each in (5, 1, 3)]
        waiting = (await handles[1].info()).waiting_for
        assert waiting is not None
        assert waiting.kind == "paused"
        assert started == ["before"]
        await client.resume(limited)
        assert {await handle.result(timeout=SOON_S) for handle in handles} == {"1", "3", "5"}
        failing = await client.submit(limited.options(priority=2), "fails")
        with pytest.raises(Exception, match="not yet"):
            await failing.result(timeout=SOON_S)
        await failing.retry()
        assert await failing.result(timeout=SOON_S) == "fails"
        assert (await failing.info()).priority == 2
        await failing.delete()
    assert (await client.count(activity="step"))[JobState.completed] == 4


@pytest.mark.parametrize("again", [None, 1, 3, 5])
@pytest.mark.parametrize("steps", [1, 2])
async def test_a_change_that_was_cut_short(
    turnout_client: Client, turnout_worker: Any, steps: int, again: int | None
) -> None:
    """The job's message is where it was, or in two lanes: it is one job, runs once, and may be changed again."""
    client, store = turnout_client, turnout_client.store
    handle = await client.submit(step, "a")
    found = await store.queue.find("step", handle.id)
    event = PriorityRequested(priority=1, now=store.connection.now(), nonce="n", delivery=found)
    for effect in decide(None, event)[:steps]:
        if isinstance(effect, Save):
            await store.registry.save(effect.record, 0)
        elif isinstance(effect, Replace):
            await store.queue.replace(effect.spec, effect.expected_seq, effect.replaced, "n")
    assert (await handle.info()).priority == 1
    if again is not None:
        await handle.set_priority(again)
        assert (await handle.info()).priority == again
    assert [info.id async for info in client.jobs(activity="step")] == [handle.id]
    assert (await client.count())[JobState.queued] == 1

    async def gone() -> bool:
        return [each async for each in store.queue.scan()] == []

    async with turnout_worker(step):
        assert await handle.result(timeout=SOON_S) == "a"
        await until(gone, within_s=60)
    assert started == ["a"]
    assert (await client.count())[JobState.completed] == 1


@pytest.mark.parametrize("steps", [1, 2])
async def test_a_run_now_that_was_cut_short(turnout_client: Client, turnout_worker: Any, steps: int) -> None:
    """The supervisor goes on with it: the job runs once, and no timer is left to bring it back when it is forgotten."""
    client, store = turnout_client, turnout_client.store
    handle = await client.submit(step.options(delay=86_400), "a")
    loaded = await store.registry.load("step", handle.id)
    event = PriorityRequested(priority=1, now=store.connection.now(), nonce="n", at_once=True)
    for effect in decide(loaded.record, event)[:steps]:
        if isinstance(effect, Save):
            await store.registry.save(effect.record, loaded.revision)
        elif isinstance(effect, Unschedule):
            await store.queue.unschedule(effect.spec)
        else:
            raise AssertionError(f"a message beside its timer: {effect}")
    await handle.run_now()
    apply = Applier(Performer(store))
    records = Records(store, apply, Owners(store, apply, lambda: True), settling_s=0.0, every_s=30.0)

    async def requeued() -> bool:
        await records.read()
        await records.look()
        return await store.queue.find_named("step", handle.id, 1) is not None

    await until(requeued)
    timer = store.names.timer("step", handle.id)
    assert await store.connection.get_message(store.names.work, last_by_subj=timer) is None
    async with turnout_worker(step):
        assert await handle.result(timeout=SOON_S) == "a"
    assert started == ["a"]


async def test_what_was_swallowed_of_another_priority_is_handed_to_others(turnout_client: Client) -> None:
    """Long before the lease ends, by the consumer that had handed it over."""
    sweeper = Sweeper(turnout_client)
    async with pulls(turnout_client) as usual, pulls(turnout_client, 1) as urgent:
        await turnout_client.submit(job)
        await turnout_client.submit(job.options(priority=1))
        await usual.fetch(1, timeout=30)
        await urgent.fetch(1, timeout=30)
        again: dict[Any, int] = {}

        async def both_again() -> bool:
            await sweeper.turn()
            for pulled in (usual, urgent):
                with contextlib.suppress(TimeoutError):
                    [received] = await pulled.fetch(1, timeout=0.1)
                    again[pulled] = received.metadata.num_delivered
            return len(again) == 2

        await until(both_again)
        assert set(again.values()) == {2}
    assert not sweeper.applied.events


async def test_the_runs_of_a_schedule_have_the_priority_that_it_was_given(turnout_client: Client) -> None:
    """As every other option; they are queued in its lane."""
    schedule = await turnout_client.add_schedule("nightly", Schedule(every=3600), step.options(priority=2), "a")
    run = await schedule.trigger()
    info = await run.info()
    assert isinstance(info, JobInfo)
    assert info.priority == 2
    assert await turnout_client.store.queue.find_named("step", run.id, 2) is not None
