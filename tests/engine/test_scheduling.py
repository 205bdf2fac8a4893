"""Later, and not at all: delay, at, expires_in."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.proxy import Proxy
from tests.support.waiting import best_of_three, until
from turnout import (
    Client,
    InvalidValue,
    JobExists,
    JobFaulted,
    JobHandle,
    JobInfo,
    JobState,
    RetryPolicy,
    TurnoutError,
    activity,
    activity_ref,
    current_job,
    wire,
)
from turnout.core.record import JobRecord
from turnout.core.spec import Body, JobSpec, SubmitOptions
from turnout.store.perform import Performer
from turnout.supervisor.apply import Applier
from turnout.supervisor.deadlines import Deadlines
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory

LATE_S = 0.5


@activity
async def stamp(value: str = "") -> str:
    return value


@activity
async def hang() -> str:
    await asyncio.Event().wait()
    return "never"


@activity(retry=RetryPolicy(max_attempts=3, delay=600))
async def fail() -> None:
    raise ValueError("not yet")


@activity
async def since_submission() -> float:
    return (datetime.now(UTC) - current_job().submitted_at).total_seconds()


def due(info: JobInfo) -> datetime:
    assert info.next_attempt_at is not None
    return info.next_attempt_at


def lateness(info: JobInfo, at: datetime) -> float:
    """Seconds from the instant to the start of the first attempt."""
    assert info.started_at is not None
    return (info.started_at - at).total_seconds()


async def reached(handle: JobHandle[Any], state: str) -> JobInfo:
    async def there() -> JobInfo | None:
        info = await handle.info()
        return info if info.state == state else None

    return await until(there)


async def test_delays_are_never_early_and_hardly_late(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Delayed jobs start at their instant or within half a second of it, whatever fraction it has."""
    async with turnout_worker(stamp, concurrency=20):
        for lates in best_of_three(LATE_S):
            jobs = [
                (await turnout_client.submit(stamp.options(delay=delay)), delay)
                for delay in (0.05, 0.2, 0.5, timedelta(seconds=0.333), 1, 1.0009, 1.25)
            ]
            for handle, delay in jobs:
                await handle.result(timeout=30)
                info = await handle.info()
                seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
                late = lateness(info, info.submitted_at + timedelta(seconds=seconds))
                assert late >= 0, f"delay {delay}: {-late:.3f} s early"
                lates.append(late)


async def test_at(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A job for an instant, in any zone, shows as scheduled for it and starts then."""
    zone = datetime.now().astimezone().tzinfo
    async with turnout_worker(stamp):
        for lates in best_of_three(LATE_S):
            at = datetime.now(zone) + timedelta(seconds=3)
            handle = await turnout_client.submit(stamp.options(at=at), "x")
            info = await handle.info()
            assert (info.state, info.attempt, due(info), info.payload) == ("scheduled", 0, at, {"value": "x"})
            assert await handle.result(timeout=30) == "x"
            info = await handle.info()
            assert lateness(info, at) >= 0
            assert info.next_attempt_at is None
            assert info.submitted_at < at
            lates.append(lateness(info, at))


@pytest.mark.parametrize("ago", [timedelta(seconds=1), timedelta(days=20_000)])
async def test_an_instant_that_has_passed(
    turnout_client: Client, turnout_worker: WorkerFactory, ago: timedelta
) -> None:
    """A past instant means now."""
    async with turnout_worker(since_submission):
        for waited in best_of_three(LATE_S):
            handle = await turnout_client.submit(since_submission.options(at=datetime.now(UTC) - ago))
            waited.append(await handle.result(timeout=30))


@pytest.mark.parametrize(
    "at",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime(2200, 1, 1, tzinfo=UTC),
        datetime(300, 1, 1, tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
    ],
    ids=str,
)
async def test_an_instant_that_programs_have_for_never_and_for_at_once(
    turnout_client: Client, turnout_worker: WorkerFactory, at: datetime
) -> None:
    """What lies beyond the year 2200 is refused where it is written, and what lies before any clock runs at once."""
    if at.year >= 2200:
        with pytest.raises(InvalidValue, match="before the year 2200"):
            stamp.options(id="a", at=at)
    else:
        handle = await turnout_client.submit(stamp.options(at=at), "now")
        async with turnout_worker(stamp):
            assert await handle.result(timeout=30) == "now"
    assert {info.state for info in [info async for info in turnout_client.jobs()]} <= {JobState.completed}


async def test_a_record_with_an_odd_instant_is_listed(turnout_client: Client) -> None:
    """One record whose instants no calendar has is shown with the nearest ones, and the listing goes on."""
    odd = JobRecord(JobSpec("odd", "stamp", submitted_at=-1e300), JobState.scheduled, due_at=1e300)
    names = turnout_client.store.names
    subject = names.record("stamp", "odd")
    await turnout_client.store.connection.store(subject, wire.dump_record(odd), {})
    await turnout_client.submit(stamp.options(id="good"), "x")
    listed = {info.id: info async for info in turnout_client.jobs()}
    assert listed.keys() == {"odd", "good"}
    assert due(listed["odd"]).year == 9999
    assert listed["odd"].to_dict()["submitted_at"].startswith("0001-")


async def test_a_delay_of_nothing_is_no_delay(turnout_client: Client) -> None:
    """delay=0 queues the job as if nothing had been said."""
    assert (await (await turnout_client.submit(stamp.options(delay=0))).info()).state == "queued"


async def test_scheduled_many(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """submit_many delays every one of its jobs; they are listed and counted, and each runs once."""
    handles = await turnout_client.submit_many(stamp.options(delay=0.5), [{"value": str(n)} for n in range(50)])
    counts = await turnout_client.count()
    assert counts[JobState.scheduled] + counts[JobState.queued] == 50
    async with turnout_worker(stamp, concurrency=50):
        assert [await handle.result(timeout=30) for handle in handles] == [str(n) for n in range(50)]
    assert {info.attempt async for info in turnout_client.jobs()} == {1}


async def test_the_same_id_twice(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A scheduled id is taken, for another schedule and for an immediate submit; joining it gives the scheduled job."""
    first = await turnout_client.submit(stamp.options(id="once", delay=2), "first")
    for again in (stamp.options(id="once", delay=0.1), stamp.options(id="once"), hang.options(id="once")):
        with pytest.raises(JobExists) as caught:
            await turnout_client.submit(again)
        assert (await caught.value.handle.info()).payload == {"value": "first"}
    joined = await turnout_client.submit(stamp.options(id="once", if_exists="join"), "second")
    assert due(await joined.info()) == due(await first.info())
    async with turnout_worker(stamp):
        assert await joined.result(timeout=30) == "first"
    assert sum((await turnout_client.count()).values()) == 1


async def test_schedules_of_one_id_at_once(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Of many schedules of one id at once exactly one is made."""
    submits = [turnout_client.submit(stamp.options(id="race", delay=1.5), str(n)) for n in range(8)]
    outcomes = await asyncio.gather(*submits, return_exceptions=True)
    (winner,) = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, JobExists)]
    async with turnout_worker(stamp):
        assert await turnout_client.job("race").result(timeout=30) == str(winner)
    assert sum((await turnout_client.count()).values()) == 1


async def test_a_cancelled_schedule_never_fires(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A schedule that was cancelled in time is gone; a job that was due after it has run when it still hasn't."""
    async with turnout_worker(stamp):
        handle = await turnout_client.submit(stamp.options(delay=2))
        later = await turnout_client.submit(stamp.options(delay=2.5))
        await handle.cancel("not today")
        await later.result(timeout=30)
        info = await handle.info()
    assert (info.state, info.attempt, info.reason) == ("cancelled", 0, "not today")


async def test_cancel_while_it_fires(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A cancel in the very moment of the firing leaves one final state: it ran, or it was cancelled."""
    async with turnout_worker(stamp, concurrency=20):
        at = datetime.now(UTC) + timedelta(seconds=1)
        handles = await turnout_client.submit_many(stamp.options(at=at), [{}] * 20)
        await asyncio.sleep(max(0.0, (at - datetime.now(UTC)).total_seconds()))  # the moment is the point
        await asyncio.gather(*(handle.cancel("now") for handle in handles))

        async def all_ended() -> list[JobInfo] | None:
            infos = [await handle.info() for handle in handles]
            return infos if all(info.state.final for info in infos) else None

        infos = await until(all_ended)
        await (await turnout_client.submit(stamp)).result(timeout=30)
        assert [await handle.info() for handle in handles] == infos
    assert {info.state for info in infos} <= {"completed", "cancelled"}


# --- expires_in ------------------------------------------------------------------------------------------------------


async def test_expired_before_anybody_came(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """With no worker at all every reader sees an overdue job faulted as "expired", with attempt 0; it never runs."""
    handles = [await turnout_client.submit(stamp.options(expires_in=2)) for _ in range(3)]
    assert {(await handle.info()).state for handle in handles} == {"queued"}
    with pytest.raises(JobFaulted, match="expired") as caught:
        await handles[0].result(timeout=30)
    info = caught.value.info
    assert (info.state, info.reason, info.attempt, info.attempts) == ("faulted", "expired", 0, [])
    assert (await handles[1].info()).state == "faulted"
    assert (await turnout_client.count())[JobState.faulted] == 3
    assert {info.state async for info in turnout_client.jobs()} == {"faulted"}
    async with turnout_worker(stamp):
        await (await turnout_client.submit(stamp)).result(timeout=30)
        await until(functools.partial(has_dead_letters, turnout_client, 3))
    assert {(await handle.info()).attempt for handle in handles} == {0}


async def has_dead_letters(client: Client, count: int) -> bool:
    return len([fault async for fault in client.faults()]) == count


async def test_expired_when_a_worker_comes(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A worker that comes too late faults the job without starting it."""
    handle = await turnout_client.submit(stamp.options(expires_in=0.2))
    other = await turnout_client.submit(stamp.options(delay=0.3))  # when it has run, the deadline has passed
    await until(lambda: is_past(turnout_client, other))
    async with turnout_worker(stamp):
        info = await reached(handle, "faulted")
        await other.result(timeout=30)
    assert (info.reason, info.attempt) == ("expired", 0)


@pytest.mark.parametrize("limit", ["expires_in", "start_within"])
async def test_the_deadline_goes_with_the_message(
    turnout_client: Client, turnout_worker: WorkerFactory, limit: str
) -> None:
    """Whoever submitted it died before its record, or published it bare: readers see it overdue, and it never runs."""
    names, store = turnout_client.store.names, turnout_client.store.connection.store
    asked: dict[str, Any] = {limit: 0.2}
    spec = JobSpec(
        id="half",
        activity="stamp",
        submitted_at=turnout_client.store.connection.now(),
        payload=Body(text='{"value":"late"}', size=16),
        options=SubmitOptions(**asked),
    )
    await turnout_client.store.queue.publish(spec, "nonce")
    await store(names.bare("stamp"), b"{}", {wire.MSG_ID: "bare", wire.OPTIONS: json.dumps(asked)})
    reason = {"expires_in": "expired", "start_within": "not_started"}[limit]
    handles = [turnout_client.job(job_id, stamp) for job_id in ("half", "bare")]
    for handle in handles:
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
        info = await handle.info()
        assert (info.state, info.reason) == ("faulted", reason)
    async with turnout_worker(stamp):
        await until(functools.partial(has_dead_letters, turnout_client, 2))
    for handle in handles:
        assert ((await handle.info()).attempt, (await handle.info()).reason) == (0, reason)


async def is_past(client: Client, handle: JobHandle[Any]) -> bool:
    info = await handle.info()
    return info.state != "scheduled" or datetime.now(UTC) > due(info)


async def test_expired_while_it_runs(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """At the deadline a running attempt is timed_out, and the job faulted with reason "expired", not retried."""
    async with turnout_worker(hang):
        handle = await turnout_client.submit(hang.options(expires_in=2))
        info = await reached(handle, "faulted")
    assert (info.reason, info.attempt) == ("expired", 1)
    assert [attempt.outcome for attempt in info.attempts] == ["timed_out"]
    assert info.finished_at is not None
    assert 2 <= (info.finished_at - info.submitted_at).total_seconds() < 10


async def test_expired_while_it_waits(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A retry that would begin after the deadline isn't waited for."""
    async with turnout_worker(fail):
        handle = await turnout_client.submit(fail.options(expires_in=60))
        info = await reached(handle, "faulted")
    assert (info.reason, info.attempt) == ("expired", 1)
    assert info.error is not None
    assert info.error.message == "not yet"


async def test_in_time(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A job that ends before its deadline has completed, and stays so after it."""
    async with turnout_worker(stamp):
        handle = await turnout_client.submit(stamp.options(expires_in=2), "quick")
        assert await handle.result(timeout=30) == "quick"
        await (await turnout_client.submit(stamp.options(delay=2.1))).result(timeout=30)
        assert (await handle.info()).state == "completed"


async def test_an_expired_job_can_be_retried(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Whoever retries an expired job wants it to run: the deadline doesn't hold for the retry."""
    handle = await turnout_client.submit(stamp.options(expires_in=0.1), "late")
    await reached(handle, "faulted")
    await handle.retry()
    assert (await handle.info()).state == "queued"
    async with turnout_worker(stamp):
        assert await handle.result(timeout=30) == "late"


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "cut short"])
async def test_a_deadline_without_a_record_or_a_worker(
    turnout_client: Client, turnout_worker: WorkerFactory, bare: bool
) -> None:
    """A bare job, or one whose submitter has died before its record: the supervisor of a worker for others ends it,
    with its dead letter, and lets those be whose time has not come."""
    client = turnout_client
    connection, names = client.store.connection, client.store.names
    late, early = '{"expires_in": 2, "labels": {"a": "late"}}', '{"start_within": 3600}'
    for job_id, options in (("late", late), ("early", early)):
        subject = names.bare("hang") if bare else names.jobs("hang", job_id)
        await connection.store(
            subject, b"{}", {wire.OPTIONS: options, wire.MSG_ID: job_id if bare else f"{job_id}.1.x"}
        )
    async with turnout_worker(stamp):

        async def letters() -> list[str]:
            return [letter.id async for letter in client.faults(activity="hang")]

        assert await until(letters) == ["late"]
        assert (await client.job("late").info()).reason == "expired"
        assert [info.id async for info in client.jobs(activity="hang", state="queued")] == ["early"]


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "cut short"])
@pytest.mark.parametrize("busy", [True, False], ids=["a busy node", "no node"])
async def test_a_deadline_without_a_record_is_noticed_in_time(
    turnout_client: Client, turnout_worker: Any, bare: bool, busy: bool
) -> None:
    """It waits for a node all of whose slots are taken, or for one at all: it ends within 2 s of its deadline."""
    registry, names = turnout_client.store.registry, turnout_client.store.names
    async with turnout_worker(hang if busy else stamp, concurrency=1):
        if busy:
            await reached(await turnout_client.submit(hang), "running")
        for late in best_of_three(2.0):
            job_ids = [f"late-{time.time_ns()}-{n}" for n in range(4)]
            for n, job_id in enumerate(job_ids):
                headers = {
                    wire.OPTIONS: json.dumps({"expires_in": 0.5 + n}),
                    wire.MSG_ID: job_id if bare else f"{job_id}.1.x",
                }
                subject = names.bare("hang") if bare else names.jobs("hang", job_id)
                await turnout_client.store.connection.store(subject, b"{}", headers)
            for job_id in job_ids:

                async def ended(job_id: str = job_id) -> JobRecord | None:
                    record = (await registry.load("hang", job_id)).record
                    return record if record is not None and record.state.final else None

                record = await until(ended)
                assert record is not None
                assert (record.attempt, record.reason) == (0, "expired")
                assert record.finished_at is not None
                assert record.spec.expires_at is not None
                late.append(record.finished_at - record.spec.expires_at)


async def test_a_deadline_is_not_lost_with_a_look_that_fails(turnout_client: Client, nats_server: NatsServer) -> None:
    """What was due when the server did not answer is due still; it has been read once."""
    async with (
        Proxy(nats_server.port) as proxy,
        Client.connect(proxy.url, namespace=turnout_client.namespace) as beyond,
    ):
        store, names = beyond.store, beyond.store.names
        headers = {wire.OPTIONS: '{"expires_in": 1}', wire.MSG_ID: "late"}
        await store.connection.store(names.bare("hang"), b"{}", headers)
        deadlines = Deadlines(store, Applier(Performer(store)), least_age_s=-60.0)  # whatever the clocks say
        await deadlines.read()
        while True:
            proxy.block(up=False)
            try:
                async with asyncio.timeout(30):
                    await deadlines.look()
            except TurnoutError:
                break
            finally:
                proxy.unblock()
            await asyncio.sleep(0.1)

        async def letters() -> list[str]:
            with contextlib.suppress(TurnoutError):  # it may be connecting again
                await deadlines.look()
            return [letter.id async for letter in turnout_client.faults(activity="hang")]

        assert await until(letters) == ["late"]


async def test_what_has_just_come_is_not_read_for_its_deadline(turnout_client: Client) -> None:
    """A queue that is worked off quickly costs its supervisor nothing; what has waited for a moment is looked at."""
    store = turnout_client.store
    headers = {wire.OPTIONS: '{"expires_in": 0.01}', wire.MSG_ID: "late"}
    await store.connection.store(store.names.bare("hang"), b"{}", headers)
    await asyncio.sleep(0.05)
    for least_age_s, ended in ((60.0, []), (-60.0, ["late"])):
        deadlines = Deadlines(store, Applier(Performer(store)), least_age_s=least_age_s)
        await deadlines.read()
        await asyncio.sleep(0.5)  # longer than the grain of what is noted
        await deadlines.look()
        assert [letter.id async for letter in turnout_client.faults(activity="hang")] == ended


async def test_a_deadline_in_the_queue_is_noticed_in_time(turnout_client: Client, turnout_worker: Any) -> None:
    """No worker takes the job, and nobody reads it: the supervisor of a worker for others ends it within 2 s."""
    nobodys, registry = activity_ref("nobody"), turnout_client.store.registry
    async with turnout_worker(stamp):
        for late in best_of_three(2.0):
            handles = [await turnout_client.submit(nobodys.options(expires_in=1.0 + n / 4), {}) for n in range(4)]
            for handle in handles:

                async def ended(job_id: str = handle.id) -> JobRecord | None:
                    record = (await registry.load("nobody", job_id)).record
                    return record if record is not None and record.state.final else None

                record = await until(ended)
                assert record is not None
                assert record.finished_at is not None
                assert record.spec.expires_at is not None
                late.append(record.finished_at - record.spec.expires_at)
