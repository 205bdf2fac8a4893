"""Schedules on the real server: every tick fires once, and what is missed goes by what is stored."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.waiting import until
from turnout import (
    Client,
    InvalidArguments,
    InvalidValue,
    JobInfo,
    RetryPolicy,
    Schedule,
    ScheduleNotFound,
    ScheduleRun,
    activity,
    activity_ref,
    current_job,
    workflow,
    workflow_ref,
)
from turnout.core.evolve import evolve
from turnout.core.schedule import ScheduleRecord
from turnout.core.workflows.values import WorkflowState
from turnout.nats.stream import Stream
from turnout.store.perform import Performer
from turnout.store.scheduled_runs import ScheduledRuns
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory

EACH_SECOND = Schedule(every=1)
YEARLY = Schedule(cron="@yearly")
GATES: dict[str, asyncio.Event] = {}


@activity
async def report(of: str = "all") -> str:
    return of


@activity
async def hold(gate: str) -> str:
    await GATES[gate].wait()
    return current_job().id


@activity(retry=RetryPolicy(max_attempts=2, delay=600))
async def fail() -> None:
    raise ValueError("not yet")


@activity(retry=RetryPolicy(max_attempts=1))
async def fault() -> None:
    raise ValueError("never")


@workflow
async def close_books(month: int) -> int:
    return month + 1


@workflow
async def wait_long() -> None:
    await asyncio.sleep(3600)


async def recent(client: Client, name: str) -> list[ScheduleRun]:
    return (await client.schedule(name).info()).recent


async def ran(client: Client, name: str, count: int, state: str = "completed") -> list[ScheduleRun]:
    """The runs of a schedule in this state, as soon as there are so many."""

    async def enough() -> list[ScheduleRun] | None:
        runs = [run for run in await recent(client, name) if run.state == state]
        return runs if len(runs) >= count else None

    return await until(enough)


async def jobs_of(client: Client, name: str) -> list[JobInfo]:
    """The jobs of a schedule, of which there are as many as are counted: a tick may come between the two."""

    async def counted() -> list[JobInfo] | None:
        found = [info async for info in client.jobs(schedule=name)]
        return found if sum((await client.count(schedule=name)).values()) == len(found) else None

    found = await until(counted) or []
    assert all(info.schedule == name for info in found)
    return sorted(found, key=lambda info: info.id)


async def changed(client: Client, name: str, **changes: Any) -> ScheduleRecord:
    """The schedule's record with these changes, as if time had passed, and somebody looks at it now."""
    kept = await client.store.schedules.load(name)
    assert kept.record is not None
    saved = await client.store.schedules.save(evolve(kept.record, **changes), kept.revision)
    await client.store.schedules.wake(name)
    assert saved.record is not None
    return saved.record


async def asleep(client: Client, name: str, seconds: float, *, offset: float = 5.0) -> float:
    """As if nobody had lived for so long; the schedule's last tick was `offset` seconds ago. The time before that."""
    now = client.store.connection.now()
    before = math.floor(now - offset) - seconds
    await changed(client, name, created_at=before, cursor=before)
    return before


async def test_an_activity_is_run_at_each_tick(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Runs carry the arguments, the schedule's name and an id of name and tick; their ticks follow each other."""
    client = turnout_client
    async with turnout_worker(report):
        schedule = await client.add_schedule("fast", EACH_SECOND, report.options(labels={"a": "b"}), of="sales")
        runs = await ran(client, "fast", 3)
        await schedule.pause()
        first = runs[0].due_at
        assert [run.due_at for run in runs[:3]] == [first + timedelta(seconds=n) for n in range(3)]
        assert [run.id for run in runs] == [f"fast-{run.due_at:%Y%m%dT%H%M%SZ}" for run in runs]
        info = await client.job(runs[0].id).info()
        assert (info.schedule, info.payload, info.result) == ("fast", {"of": "sales"}, "sales")
        assert info.labels == {"a": "b"}
        assert info.started_at is not None
        assert info.started_at - first < timedelta(seconds=10)


async def test_a_workflow_is_run_at_each_tick(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """With its arguments, and as a workflow of the run's id."""
    client = turnout_client
    async with turnout_worker(report, workflows=[close_books]):
        schedule = await client.add_schedule("books", EACH_SECOND, close_books, 3)
        runs = await ran(client, "books", 2)
        await schedule.pause()
        assert await client.workflow(runs[0].id).result(timeout=30) == 4
        assert (await schedule.info()).kind == "workflow"
        assert (await client.workflow(runs[0].id).info()).schedule == schedule.name
        found = [info.id async for info in client.workflows(schedule=schedule.name)]
        assert {run.id for run in runs} <= set(found)
        assert (await client.count_workflows(schedule=schedule.name))[WorkflowState.completed] >= 1
        assert [info async for info in client.workflows(schedule="another")] == []
        assert (await (await client.start(close_books, 4)).info()).schedule is None
        triggered = await schedule.trigger()
        assert await triggered.result(timeout=30) == 4


async def test_each_tick_fires_once_however_many_supervisors(
    turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """Three workers, each with its supervisor: one job for each tick, none of them started twice."""
    client = turnout_client
    async with turnout_worker(report), turnout_worker(report), turnout_worker(report):
        await client.add_schedule("fast", EACH_SECOND, report)
        await ran(client, "fast", 4)
        await client.schedule("fast").pause()

        async def all_ran() -> list[JobInfo] | None:
            jobs = await jobs_of(client, "fast")
            return jobs if {job.state for job in jobs} == {"completed"} else None

        jobs = await until(all_ran)
        ids = [run.id for run in await recent(client, "fast") if run.state == "completed"]
        assert set(ids) <= {job.id for job in jobs}  # a run that began as the pause came is in no record yet
        assert {job.attempt for job in jobs} == {1}


@pytest.mark.parametrize(("catch_up", "runs"), [("none", 0), ("one", 1), ("all", 6)])
async def test_missed_ticks_go_by_catch_up(
    turnout_client: Client, turnout_worker: WorkerFactory, catch_up: Any, runs: int
) -> None:
    """After a minute without anybody: the last missed tick, none or all of them run, and the rest is told as missed."""
    client = turnout_client
    schedule = await client.add_schedule("slow", Schedule(every=10, catch_up=catch_up), report)
    before = await asleep(client, "slow", 60)
    async with turnout_worker(report):
        found = [datetime.fromtimestamp(before + 10 * number, UTC) for number in range(1, 7)]
        kept = await ran(client, "slow", runs) if runs else await ran(client, "slow", 6, "skipped")
        await schedule.pause()
        shown = await recent(client, "slow")
        assert [run.due_at for run in shown if run.due_at in found] == found
        assert [run.due_at for run in kept if run.due_at in found] == found[6 - runs :] if runs else found
        assert {run.reason for run in shown if run.state == "skipped"} <= {"missed: nobody could fire it in time"}


async def test_what_a_pause_has_missed_is_caught_up(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Nothing fires while it is paused, as is said with its note; the resume goes by what is stored."""
    client = turnout_client
    async with turnout_worker(report):
        schedule = await client.add_schedule("slow", Schedule(every=10), report)
        await schedule.pause("the disk is full")
        before = await asleep(client, "slow", 60)
        info = await schedule.info()
        assert (info.paused, info.note, len(info.next)) == (True, "the disk is full", 5)
        await (await schedule.trigger()).result(timeout=30)
        assert [run.state for run in await recent(client, "slow")] == ["completed"]
        await schedule.resume()
        await ran(client, "slow", 2)
        last = datetime.fromtimestamp(before + 60, UTC)
        assert last in [run.due_at for run in await recent(client, "slow")]
        assert (await schedule.info()).paused is False


async def test_overlap_skip(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """While a run goes on no other begins, and the skipped tick says why."""
    client, gate = turnout_client, GATES.setdefault("skip", asyncio.Event())
    async with turnout_worker(hold):
        await client.add_schedule("s", EACH_SECOND, hold, "skip")
        skipped = await ran(client, "s", 1, "skipped")
        jobs = await jobs_of(client, "s")
        assert len(jobs) == 1
        assert skipped[0].reason == f"{jobs[0].id} goes on still"
        gate.set()
        await ran(client, "s", 2)
        await client.schedule("s").pause()


async def test_a_run_that_waits_is_known_after_a_change_of_priority(
    turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """It waits in the lane of before, without a record yet: the next run does not begin beside it."""
    client = turnout_client
    async with turnout_worker(hold):
        schedule = await client.add_schedule("moved", EACH_SECOND, report)
        (run,) = await ran(client, "moved", 1, "queued")
        await schedule.pause()
    await client.add_schedule("moved", EACH_SECOND, report.options(priority=1))
    record = (await client.store.schedules.load("moved")).record
    assert record is not None
    assert (record.job.options.priority, record.previous) == (1, run.id)
    assert await ScheduledRuns(client.store, Performer(client.store)).going_on(record.job, record.previous)


async def test_overlap_queue(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """One tick waits at most, and begins when the run before has ended."""
    client, gate = turnout_client, GATES.setdefault("queue", asyncio.Event())
    async with turnout_worker(hold):
        schedule = await client.add_schedule("q", Schedule(every=1, overlap="queue"), hold, "queue")
        skipped = await ran(client, "q", 1, "skipped")
        assert skipped[0].reason == "another tick waits already"
        assert len(await jobs_of(client, "q")) == 1
        gate.set()
        await ran(client, "q", 2)
        first, second = (await jobs_of(client, "q"))[:2]
        await schedule.pause()
        assert second.id == f"q-{skipped[0].due_at - timedelta(seconds=1):%Y%m%dT%H%M%SZ}"
        assert second.started_at is not None
        assert first.finished_at is not None
        assert second.started_at >= first.finished_at


async def test_overlap_allow(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Runs go on side by side."""
    client, gate = turnout_client, GATES.setdefault("allow", asyncio.Event())
    async with turnout_worker(hold):
        schedule = await client.add_schedule("a", Schedule(every=1, overlap="allow"), hold, "allow")
        await ran(client, "a", 2, "running")
        await schedule.pause()
        gate.set()


async def test_overlap_cancel(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """The old run is cancelled; the new one begins when it has ended."""
    client = turnout_client
    GATES["cancel"] = asyncio.Event()
    async with turnout_worker(hold):
        schedule = await client.add_schedule("c", Schedule(every=2, overlap="cancel"), hold, "cancel")
        await ran(client, "c", 1, "cancelled")
        await ran(client, "c", 1, "running")
        await schedule.pause()
        first, second = (await jobs_of(client, "c"))[:2]
        assert first.reason == "schedule c: the next run is due"
        assert second.started_at is not None
        assert first.finished_at is not None
        assert second.started_at >= first.finished_at
        GATES["cancel"].set()


async def test_overlap_of_workflows(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A workflow that goes on is skipped over, or cancelled, like a job."""
    client = turnout_client
    async with turnout_worker(report, workflows=[wait_long]):
        await client.add_schedule("w", EACH_SECOND, wait_long)
        skipped = await ran(client, "w", 1, "skipped")
        assert (skipped[0].reason or "").endswith("goes on still")
        await client.add_schedule("w", Schedule(every=1, overlap="cancel"), wait_long)
        await ran(client, "w", 1, "cancelled")
        await client.schedule("w").delete()


async def test_a_large_payload_is_each_runs_own(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """What is too large for a record is an object of each run, which goes with it; the schedule keeps its own."""
    client, text = turnout_client, "x" * 100_000
    async with turnout_worker(report):
        schedule = await client.add_schedule("large", YEARLY, report, of=text)
        for _ in range(2):
            handle = await schedule.trigger()
            assert await handle.result(timeout=30) == text
            await handle.delete()
        assert (await schedule.info()).payload == {"of": text}
        assert [run.state for run in await recent(client, "large")] == ["gone", "gone"]


async def test_a_run_that_waits_for_its_retry_is_still_running(
    turnout_client: Client, turnout_worker: WorkerFactory
) -> None:
    """So the next tick is skipped."""
    client = turnout_client
    async with turnout_worker(fail):
        await client.add_schedule("f", EACH_SECOND, fail)
        await ran(client, "f", 1, "skipped")
        assert [job.state for job in await jobs_of(client, "f")] == ["retrying"]
        await client.schedule("f").delete()


async def test_a_run_that_faults_does_not_stop_the_next(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Each tick has its run, and says why it has faulted."""
    client = turnout_client
    async with turnout_worker(fault):
        await client.add_schedule("f", EACH_SECOND, fault)
        assert {run.reason for run in await ran(client, "f", 2, "faulted")} == {"failed: ValueError: never"}
        await client.schedule("f").delete()


async def test_a_backfill_doubles_nothing(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Each tick of the time runs once, however often that is asked for, and the plan stays as it is."""
    client = turnout_client
    async with turnout_worker(report):
        schedule = await client.add_schedule("daily", Schedule(cron="0 3 * * *", timezone="Europe/Berlin"), report)
        coming = (await schedule.info()).next
        start, end = datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 3, 31, tzinfo=UTC)
        handles = await schedule.backfill(start, end)
        again = await schedule.backfill(start, end + timedelta(days=1))
        expected = ["daily-20260328T020000Z", "daily-20260329T010000Z", "daily-20260330T010000Z"]
        assert [handle.id for handle in handles] == expected
        assert [handle.id for handle in again] == [*expected, "daily-20260331T010000Z"]
        await asyncio.gather(*(handle.result(timeout=30) for handle in again))
        assert [job.attempt for job in await jobs_of(client, "daily")] == [1, 1, 1, 1]
        assert [run.id for run in await recent(client, "daily")] == [handle.id for handle in again]
        assert (await schedule.info()).next == coming


async def test_a_trigger_leaves_the_plan_alone(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Its run has an id of its own, and the arguments of the schedule."""
    client = turnout_client
    async with turnout_worker(report):
        schedule = await client.add_schedule("yearly", YEARLY, report, of="a year")
        before = await client.store.schedules.load("yearly")
        handle = await schedule.trigger()
        assert handle.id.startswith(f"yearly-{datetime.now(UTC):%Y%m%dT%H}")
        assert len(handle.id) == len("yearly-20260101T000000Z-") + 6
        assert await handle.result(timeout=30) == "a year"
        after = await client.store.schedules.load("yearly")
        assert before.record is not None
        assert after.record is not None
        assert (after.record.cursor, after.record.previous) == (before.record.cursor, before.record.previous)


async def test_the_same_again_changes_nothing(turnout_client: Client) -> None:
    """An unchanged schedule is not written; a changed one keeps its pause and its runs."""
    client = turnout_client
    schedule = await client.add_schedule("s", YEARLY, report, of="x")
    await schedule.trigger()
    await schedule.pause("for now")
    before = await client.store.schedules.load("s")
    await client.add_schedule("s", Schedule(cron="@yearly"), report, of="x")
    assert await client.store.schedules.load("s") == before
    await client.add_schedule("s", Schedule(cron="@daily"), report, of="y")
    info = await schedule.info()
    assert (info.paused, info.note, info.payload, info.schedule.cron) == (True, "for now", {"of": "y"}, "@daily")
    assert len(info.recent) == 1


async def test_a_deleted_schedule_fires_no_more(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """It is gone, and with it its ticks; every verb says so."""
    client = turnout_client
    async with turnout_worker(report):
        schedule = await client.add_schedule("fast", EACH_SECOND, report)
        await ran(client, "fast", 1)
        await schedule.delete()

        async def no_ticks() -> bool:
            info = await client.store.connection.api(
                f"STREAM.INFO.{client.store.names.work}", {"subjects_filter": client.store.names.tick_timer("*", "*")}
            )
            return not info["state"].get("subjects")

        await until(no_ticks)  # whoever was at a tick may have armed the next one: that comes, and finds nothing
        assert [each async for each in client.schedules()] == []
        for call in (schedule.info, schedule.pause, schedule.resume, schedule.trigger, schedule.delete):
            with pytest.raises(ScheduleNotFound, match="no schedule fast"):
                await call()
        await client.add_schedule("fast", EACH_SECOND, report)
        await ran(client, "fast", 1)
        await schedule.delete()


async def test_sync_adds_replaces_and_removes(turnout_client: Client) -> None:
    """What begins with the prefix is as it is wanted, and nothing else is touched."""
    client = turnout_client
    await client.add_schedule("app-old", YEARLY, report)
    await client.add_schedule("other", YEARLY, report)
    wanted = {
        "app-a": (YEARLY, report, {"of": "a"}),
        "app-b": (Schedule(cron="@daily"), close_books, {"month": 3}),
        "app-c": (Schedule(cron="@daily"), "named", {"x": 1}),
        "app-d": (YEARLY, workflow_ref("elsewhere"), [1]),
    }
    await client.sync_schedules(wanted, prefix="app-")
    found = {info.name: info async for info in client.schedules()}
    assert list(found) == ["app-a", "app-b", "app-c", "app-d", "other"]
    assert [info.payload for info in found.values()] == [{"of": "a"}, {"month": 3}, {"x": 1}, [1], {}]
    assert [info.kind for info in found.values()] == ["activity", "workflow", "activity", "workflow", "activity"]
    with pytest.raises(InvalidValue, match="does not begin with the prefix"):
        await client.sync_schedules({"app-a": wanted["app-a"], "b": wanted["app-b"]}, prefix="app-")
    with pytest.raises(InvalidValue, match="prefix must be"):
        await client.sync_schedules({}, prefix="")
    assert len([each async for each in client.schedules()]) == 5
    await client.sync_schedules({}, prefix="app-")
    assert [each.name async for each in client.schedules()] == ["other"]


async def test_a_lost_tick_is_armed_again(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """The acting supervisor arms what the record says, whoever has removed it."""
    client = turnout_client
    await client.add_schedule("fast", Schedule(every=1, catch_up="none"), report)
    names = client.store.names
    await client.store.connection.api(f"STREAM.PURGE.{names.work}", {"filter": names.tick_timer("*", "*")})
    async with turnout_worker(report):
        await ran(client, "fast", 1)
        await client.schedule("fast").delete()


async def test_what_is_in_the_past_or_the_future_is_refused(turnout_client: Client) -> None:
    """A backfill takes a time that has passed, with time zones, and not more than a thousand ticks."""
    schedule = await turnout_client.add_schedule("fast", EACH_SECOND, report)
    now = datetime.now(UTC)
    for start, end, says in (
        (now, now + timedelta(days=1), "in the future"),
        (now, now - timedelta(days=1), "must not be earlier than start"),
        (now - timedelta(hours=1), now - timedelta(minutes=1), "at most 1,000 ticks"),
        (datetime(2026, 1, 1), now, "start must be a datetime with a time zone"),  # noqa: DTZ001
    ):
        with pytest.raises(InvalidValue, match=says):
            await schedule.backfill(start, end)
    await schedule.delete()


async def test_bad_input_is_refused_before_anything_is_stored(turnout_client: Client) -> None:
    """Each error says what would be right."""
    client = turnout_client
    add = client.add_schedule
    with pytest.raises(InvalidValue, match="a schedule's name must match"):
        await add("a" * 41, YEARLY, report)
    with pytest.raises(InvalidValue, match=r"must be a turnout\.Schedule"):
        await add("a", "0 3 * * *", report)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="neither an activity nor a workflow"):
        await add("a", YEARLY, print)  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments):
        await add("a", YEARLY, report, off="sales")
    with pytest.raises(InvalidValue, match="leave the option id out"):
        await add("a", YEARLY, report.options(id="x"))
    with pytest.raises(InvalidValue, match="leave the option delay out"):
        await add("a", YEARLY, close_books.options(delay=3), 1)
    with pytest.raises(InvalidValue, match="without a signal"):
        await add("a", YEARLY, workflow_ref("w").with_signal("s"))
    with pytest.raises(InvalidValue, match="256 KiB"):
        await add("a", YEARLY, activity_ref("big"), {"text": "x" * 300_000})
    with pytest.raises(InvalidValue, match="a schedule's name must match"):
        client.schedule("a.b")
    with pytest.raises(InvalidValue, match="note must be text"):
        await client.schedule("a").pause(5)  # type: ignore[arg-type]
    assert [each async for each in client.schedules()] == []


async def test_a_wake_leaves_no_moment_without_one(turnout_client: Client, nats_server: NatsServer) -> None:
    """Whoever dies in the midst of it has stored the new message before the old one goes; one is left."""
    store, names = turnout_client.store, turnout_client.store.names
    heard: list[str] = []
    async with Client.connect(nats_server.url, namespace=turnout_client.namespace) as other:
        for subject in (names.tick("s", "now"), f"$JS.API.STREAM.MSG.DELETE.{names.work}"):
            await other.store.connection.subscribe(subject, lambda message: heard.append(message.subject))
        await other.store.connection.flush()
        for _ in range(2):
            await store.schedules.wake("s")
        await other.store.connection.flush()
    assert [subject.split(".")[-1] for subject in heard] == ["now", "now", names.work]
    assert dict([each async for each in Stream(store.connection, names.work).subjects(names.tick("s", "*"))]) == {
        names.tick("s", "now"): 1
    }
