"""Groups on the real server: whole or not at all, every end is seen, and what follows runs once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import attrs
import pytest

from tests.support.waiting import until
from turnout import (
    Client,
    Fatal,
    GroupExists,
    GroupHandle,
    GroupInfo,
    GroupNotFound,
    InvalidArguments,
    InvalidValue,
    JobCancelled,
    JobExists,
    JobFaulted,
    activity,
    current_job,
)
from turnout.core.evolve import evolve
from turnout.core.group import Ends, FollowUp, GroupRecord, MemberKind, Roster, then_id
from turnout.core.record import JobState
from turnout.core.spec import SubmitOptions
from turnout.store.members import Members
from turnout.supervisor.groups import GroupWatch
from turnout.testing.fixtures import WorkerFactory

GATES: dict[str, asyncio.Event] = {}
RAN: Counter[str] = Counter()


@attrs.frozen
class Doubled:
    value: int


@activity
async def double(value: int) -> Doubled:
    RAN[current_job().id] += 1
    if value < 0:
        raise Fatal(f"{value} is too small")
    return Doubled(2 * value)


@activity
async def hold(gate: str) -> str:
    await GATES[gate].wait()
    return current_job().id


@activity
async def summarize(ended: list[dict[str, Any]]) -> list[dict[str, Any]]:
    RAN[current_job().id] += 1
    return ended


@activity
async def fill(count: int) -> str:
    return "x" * count


@activity
async def no_list(count: int) -> int:
    return count


async def finished(group: GroupHandle[Any]) -> GroupInfo:
    async def check() -> GroupInfo | None:
        info = await group.info()
        return info if info.finished_at is not None else None

    return await until(check, 30)


def values(*numbers: int) -> list[dict[str, int]]:
    return [{"value": number} for number in numbers]


async def test_results_come_in_order(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Results are typed and in order, a fault stands in its place, and the counts hold every state."""
    async with turnout_worker(double):
        group = await turnout_client.submit_group(double, values(1, -1, 3))
        one, two, three = await group.results(timeout=30)
        assert (one, three) == (Doubled(2), Doubled(6))
        assert isinstance(two, JobFaulted)
        assert "-1 is too small" in str(two)
        assert (two.info.id, two.info.group) == (f"{group.id}-1", group.id)
        info = await group.info()
    assert info.counts == {state: {"completed": 2, "faulted": 1}.get(state, 0) for state in JobState}
    assert (info.total, info.then) == (3, None)
    assert info.finished_at is not None
    assert [job.payload["value"] async for job in group.jobs()] == [1, -1, 3]
    assert {job.id async for job in turnout_client.jobs(group=group.id)} == {f"{group.id}-{n}" for n in range(3)}
    assert (await turnout_client.count(group=group.id))[JobState.completed] == 2
    assert [each.id async for each in turnout_client.groups()] == [group.id]
    assert await turnout_client.group(group.id).results() != []


async def test_two_thousand_of_two_activities(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Thousands of members of several activities end up in one group, each run once, results in order."""
    RAN.clear()
    members = [(double, {"value": n}) if n % 2 else ("summarize", {"ended": [{"n": n}]}) for n in range(2000)]
    async with turnout_worker(double, summarize, concurrency=100):
        group = await turnout_client.submit_group(members, id="many")
        results = await group.results(timeout=120)
    assert results == [Doubled(2 * n) if n % 2 else [{"n": n}] for n in range(2000)]
    assert set(RAN.values()) == {1}
    assert (await group.info()).counts[JobState.completed] == 2000


async def test_what_follows_runs_once(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """Its argument is the list of how all have ended; nobody need wait for it."""
    RAN.clear()
    async with turnout_worker(double, summarize):
        group = await turnout_client.submit_group(double, values(1, -1), then=summarize)
        await group.results(timeout=30)
        then = (await group.info()).then
        assert then is not None
        completed, faulted = await turnout_client.job(then, summarize).result(timeout=30)
    assert completed == {"id": f"{group.id}-0", "state": "completed", "result": {"value": 2}, "error": None}
    assert (faulted["state"], faulted["result"], faulted["error"]["type"]) == ("faulted", None, "Fatal")
    assert RAN[then] == 1
    assert (await turnout_client.job(then).info()).group is None


async def test_what_follows_completion_alone(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """With `then_on="completed"` nothing follows a group with a fault; by its name, it is given the list."""
    async with turnout_worker(double, summarize):
        bad = await turnout_client.submit_group(double, values(1, -1), then=summarize, then_on="completed")
        good = await turnout_client.submit_group(double, values(1), then="summarize", then_on="completed")
        await asyncio.gather(bad.results(timeout=30), good.results(timeout=30))
        assert (await bad.info()).then is None
        then = (await good.info()).then
        assert then is not None
        assert [each["result"] for each in await turnout_client.job(then).result(timeout=30)] == [{"value": 2}]


async def test_a_list_that_is_too_large(
    turnout_client: Client, turnout_worker: WorkerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the results have no room each is left out, and says so; the members keep theirs."""
    monkeypatch.setattr("turnout.store.payloads.LIMIT_BYTES", 8_000)
    async with turnout_worker(fill, summarize):
        group = await turnout_client.submit_group(fill, [{"count": 2_000}] * 8, then=summarize)
        assert await group.results(timeout=30) == ["x" * 2_000] * 8
        then = (await group.info()).then
        assert then is not None
        listed = await turnout_client.job(then).result(timeout=30)
    assert [(each["id"], each["result"], each["omitted"]) for each in listed] == [
        (f"{group.id}-{n}", None, True) for n in range(8)
    ]


async def test_cancelling_a_group(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """What runs, waits, or is delayed ends as cancelled with the reason; what has ended stays, and so does the id."""
    GATES["never"] = asyncio.Event()
    members: list[tuple[Any, Any]] = [(double, {"value": 1}), *[(hold, {"gate": "never"})] * 3]
    members.append((hold.options(delay=3600), {"gate": "never"}))
    async with turnout_worker(double, hold, concurrency=2):
        group = await turnout_client.submit_group(members, id="night", then=summarize)

        async def begun() -> bool:
            counts = (await group.info()).counts
            assert sum(counts.values()) == 5
            return counts[JobState.completed] == 1 and counts[JobState.running] == 2 and counts[JobState.scheduled] == 1

        await until(begun, 30)
        with pytest.raises(TimeoutError, match="night has not finished"):
            await group.results(timeout=0)
        with pytest.raises(GroupExists) as taken:
            await turnout_client.submit_group(double, values(1), id="night")
        assert taken.value.handle.id == "night"
        await group.cancel("wrong files")
        results = await group.results(timeout=30)
    assert results[0] == Doubled(2)
    assert all(isinstance(each, JobCancelled) and "wrong files" in str(each) for each in results[1:])
    assert (await group.info()).then == "night-then"
    await group.cancel("too late")


async def test_bad_input_is_refused_before_anything_is_stored(turnout_client: Client) -> None:
    """Each error says what to do; no job and no group is there afterwards."""
    submit: Any = turnout_client.submit_group
    for arguments, options, says in (
        ((double, []), {}, "at least one job"),
        ((double,), {}, "give a list"),
        (([double],), {}, "pairs of an activity and its payload"),
        ((double, values(1)), {"id": "a" * 59}, "at most 58 characters"),
        ((double.options(id="x"), values(1)), {}, "leave the option id out"),
        ((double, values(1)), {"then_on": "faulted"}, "then_on"),
        ((double, values(1)), {"then": summarize.options(delay=5)}, "leave the option delay out"),
        ((double, values(*range(100_001))), {}, "at most 100,000"),
    ):
        with pytest.raises(InvalidValue, match=says):
            await submit(*arguments, **options)
    with pytest.raises(InvalidArguments):
        await submit(double, [{"value": "one"}])
    with pytest.raises(InvalidArguments):
        await submit(double, values(1), then=no_list)
    with pytest.raises(GroupNotFound):
        await turnout_client.group("nobody").info()
    await turnout_client.submit(no_list.options(id="b-1"), 1)
    with pytest.raises(JobExists, match="b-1 exists already"):
        await turnout_client.submit_group(double, values(1, 2), id="b")
    assert [each async for each in turnout_client.groups()] == []
    assert [job.id async for job in turnout_client.jobs()] == ["b-1"]


async def half_submitted(client: Client, count: int, there: int) -> GroupHandle[Any]:
    """A group whose submitter was killed when so many of its members were there."""
    kind = MemberKind("double", SubmitOptions(priority=1))
    roster = Roster((kind,), tuple(f'{{"value":{n}}}' for n in range(count)))
    record = await client.store.groups.put_roster(GroupRecord("half", count, "double", nonce="n"), roster)
    members = Members(client.store, client._performer)
    part = evolve(record, total=there)
    await client.store.groups.create(record)
    await members._publish(part, roster, range(there))
    return client.group("half")


async def test_whoever_lives_submits_what_is_missing(
    turnout_client: Client, turnout_worker: WorkerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submitter who dies between record and members, or among them, leaves a group that is there whole."""
    RAN.clear()
    monkeypatch.setattr("turnout.supervisor.groups.LEFT_S", 0.2)
    group = await half_submitted(turnout_client, 30, 7)
    assert (await group.info()).counts[JobState.queued] == 30
    async with turnout_worker(double):
        info = await finished(group)
    assert info.counts[JobState.completed] == 30
    assert Counter({f"half-{n}": 1 for n in range(30)}) == RAN


async def test_nothing_is_written_behind_the_last_record_of_a_group(
    turnout_client: Client, turnout_worker: WorkerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its jobs may all have ended before its submitter comes to write that he has submitted them: it expires still."""
    monkeypatch.setattr("turnout.supervisor.groups.LEFT_S", 60.0)
    client, store = turnout_client, turnout_client.store
    members = Members(store, client._performer)
    roster = Roster((MemberKind("double"),), ('{"value":1}',))
    record = await store.groups.put_roster(GroupRecord("slow", 1, "double", nonce="n"), roster)
    kept = await store.groups.create(record)
    await members._publish(record, roster, range(1))
    async with turnout_worker(double):
        await finished(client.group("slow"))
        last = await store.groups.load("slow")
        await members.publish(kept, roster, fresh=True)
    assert await store.groups.load("slow") == last


async def test_a_deadline_holds_whoever_has_submitted_the_member(
    turnout_client: Client, turnout_worker: WorkerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if that one died between message and record, and of what follows; nobody works on any of them."""
    monkeypatch.setattr("turnout.supervisor.groups.LEFT_S", 0.2)
    client = turnout_client
    store, members, options = client.store, Members(client.store, client._performer), SubmitOptions(expires_in=0.01)
    roster = Roster((MemberKind("double", options),), tuple(f'{{"value":{n}}}' for n in range(3)))
    then = FollowUp("summarize", "ended", options, "ended")
    record = await store.groups.put_roster(GroupRecord("half", 3, "double", nonce="n", then=then), roster)
    follower = await members._spec(record, "summarize", then_id("half"), '{"ended":[]}', options)
    for spec in [(await members._submitted(record, roster, n)).spec for n in range(2)] + [follower]:
        await store.queue.publish(spec, "n")
    await store.groups.create(record)
    async with turnout_worker(hold):
        info = await finished(client.group("half"))
        assert info.counts[JobState.faulted] == 3
        assert info.then is not None
        with pytest.raises(JobFaulted, match="expire"):
            await client.job(info.then).result(timeout=30)
    assert (await client.count(activity="summarize"))[JobState.faulted] == 1


async def test_a_removed_member_does_not_hang_the_group(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A job that somebody has purged, or deleted before its end was seen, counts as cancelled."""
    group = await turnout_client.submit_group(double, values(1, 2, 3))
    store = turnout_client.store
    found = await store.queue.find_named("double", f"{group.id}-1")
    assert found is not None
    await store.queue.remove(found.message)
    watch = GroupWatch(store, turnout_client._performer, gone_after_s=0.0)
    await watch.look()
    counts = (await group.info()).counts
    assert {state: count for state, count in counts.items() if count} == {"queued": 2, "cancelled": 1}
    async with turnout_worker(double):
        results = await group.results(timeout=30)
    assert (results[0], results[2]) == (Doubled(2), Doubled(6))
    assert isinstance(results[1], JobCancelled)


async def test_a_large_roster_and_large_results(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """What is too large for a record is kept beside it: the roster, payloads, results, and the list."""
    long = "x" * 50_000
    async with turnout_worker(summarize):
        payloads = [{"ended": [{"text": long, "n": n}]} for n in range(3)]
        group = await turnout_client.submit_group(summarize, payloads, then=summarize)
        results = await group.results(timeout=30)
        assert results == [payload["ended"] for payload in payloads]
        then = (await group.info()).then
        assert then is not None
        assert [each["result"] for each in await turnout_client.job(then).result(timeout=30)] == results


def test_ends_are_two_bits_of_each() -> None:
    """They come back from text as they were, in whatever order they were seen; the first end of a member counts."""
    states = [JobState.completed, JobState.faulted, JobState.cancelled]
    for total in (1, 3, 4, 1001):
        ends = Ends.none(total)
        for number in range(total - 1, -1, -2):
            ends = Ends.of(ends.with_ends({number: states[number % 3]}).text, total)
        again = ends.with_ends(dict.fromkeys(range(total), JobState.cancelled))
        assert again.left == 0
        for number in range(total):
            seen = (total - 1 - number) % 2 == 0
            assert ends.of_member(number) == (states[number % 3] if seen else None)
            assert again.of_member(number) == (states[number % 3] if seen else JobState.cancelled)
        assert ends.open(0, total) == [n for n in range(total) if (total - 1 - n) % 2]
