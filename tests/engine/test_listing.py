"""Listing and counting jobs: all of them, once, in order, and no more is read than is shown."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import random
import urllib.request
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

import attrs
import pytest
import pytest_asyncio

from tests.support import records
from tests.support.records import NODES, put, record, store
from tests.support.values import changed
from turnout import Client, JobFaulted, JobInfo, JobState, activity_ref
from turnout.core.lifecycle import newer, record_of
from turnout.core.record import JobRecord
from turnout.core.spec import Body
from turnout.nats.pages import PAGE_BYTES, WINDOW, Backward
from turnout.nats.stream import kv_stream
from turnout.testing import NatsServer
from turnout.testing.fixtures import own_namespace
from turnout.testing.server import _free_port

STATES = [state.value for state in JobState]
DAY = 86_400.0


async def listed(client: Client, **filters: Any) -> list[JobInfo]:
    return [info async for info in client.jobs(**filters)]


async def all_jobs(client: Client) -> list[JobRecord]:
    """Every job by plain reading: all messages, then all records."""
    store_ = client.store
    waiting = {(found.activity, found.id): found async for found in store_.queue.scan()}
    jobs = []
    async for loaded in store_.registry.scan():
        if loaded.record is not None:
            found = waiting.pop((loaded.record.activity, loaded.record.id), None)
            is_newer = found is not None and newer(found, loaded.record)
            jobs.append(record_of(found, loaded.record) if found is not None and is_newer else loaded.record)
    return [*jobs, *(record_of(found) for found in waiting.values())]


async def populate(client: Client, seed: int) -> None:
    """Some dozens of jobs of every state and kind, submitted at all times, stored in any order."""
    dice = random.Random(seed)
    now = client.store.connection.now()
    bare = client.store.names.bare("noop")
    for number in range(60):
        state = dice.choice(STATES)
        job = record(
            f"job-{number}",
            state,
            now - dice.uniform(0, 10 * DAY),
            activity=dice.choice(["noop", "encode"]),
            labels=dice.choice([{}, {"customer": "1"}, {"customer": "2", "état": '"x"'}, {"state": "faulted"}]),
            node=dice.choice(NODES),
        )
        recorded = state != "queued" or dice.random() < 0.3
        if recorded:
            await store(client, [job])
        if not job.state.final or dice.random() < 0.3:  # of some that have ended the message is not yet gone
            await put(client, job)
        if job.state in (JobState.faulted, JobState.cancelled) and dice.random() < 0.5:
            again = changed(job, generation=2)
            found = await client.store.queue.find_named(job.activity, job.id)
            await client.store.queue.replace(again.spec, found.message.seq if found else 0, 0, "again")
    for name in ("bare-1", "bare-2", ""):
        await client.store.connection.store(bare, b"{}", {"Nats-Msg-Id": name} if name else {})


# --- what is listed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.breadth) for seed in range(1, 3))])
async def test_every_filter_gives_what_reading_everything_gives(turnout_client: Client, seed: int) -> None:
    """Whatever is asked for, jobs() lists exactly the jobs that match, in the order of their submission, and count()
    counts them."""
    await populate(turnout_client, seed)
    everything = await all_jobs(turnout_client)
    assert len(everything) == 63
    now = turnout_client.store.connection.now()
    checks: dict[str, list[tuple[Any, Callable[[JobRecord], bool]]]] = {
        "state": [
            (None, lambda job: True),
            *((state, lambda job, state=state: job.state == state) for state in STATES),
            (["running", "completed"], lambda job: job.state in ("running", "completed")),
            (["queued", JobState.faulted], lambda job: job.state in ("queued", "faulted")),
            (["queued", "scheduled"], lambda job: job.state in ("queued", "scheduled")),
        ],
        "activity": [(None, lambda job: True), ("encode", lambda job: job.activity == "encode")],
        "label": [
            (None, lambda job: True),
            ("customer", lambda job: "customer" in job.spec.options.labels),
            ("customer=2", lambda job: job.spec.options.labels.get("customer") == "2"),
            (("état", '"x"'), lambda job: "état" in job.spec.options.labels),
        ],
        "since": [(None, lambda job: True), (5 * DAY, lambda job: job.spec.submitted_at >= now - 5 * DAY)],
        "node": [
            (None, lambda job: True),
            ("alpha", lambda job: job.state == "running" and job.token is not None and job.token.node == NODES[0]),
        ],
    }
    for chosen in itertools.product(*checks.values()):
        filters = dict(zip(checks, (value for value, _ in chosen), strict=True))
        wanted = [job for job in everything if all(matches(job) for _, matches in chosen)]
        newest = sorted(wanted, key=lambda job: job.spec.submitted_at, reverse=True)
        assert [info.id for info in await listed(turnout_client, **filters)] == [job.id for job in newest], filters
        found = await turnout_client.count(**filters)
        assert +Counter(found) == Counter(job.state for job in wanted), filters
        assert list(found) == list(JobState)


async def test_what_was_due_and_requeued_is_scheduled_still(turnout_client: Client) -> None:
    """Nobody has received it: it is as its record says, in a list of these alone too, and for what acts on them all."""
    delayed = activity_ref("noop").options(delay=3600)
    early = await turnout_client.submit(delayed)
    await early.run_now()
    later = await turnout_client.submit(delayed)
    for filters in ({}, {"state": "scheduled"}, {"state": ["scheduled", "queued"]}):
        assert [info.id for info in await listed(turnout_client, **filters)] == [later.id, early.id]
    assert await turnout_client.cancel_jobs(state="scheduled") == 2


async def test_a_limit_takes_the_newest(turnout_client: Client) -> None:
    """limit=n gives the first n of what there is without it."""
    await populate(turnout_client, 4)
    every = [info.id for info in await listed(turnout_client)]
    for limit in (1, 2, 30, 63, 64, 1000):
        assert [info.id for info in await listed(turnout_client, limit=limit)] == every[:limit]


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "3"])
async def test_a_limit_that_is_none(turnout_client: Client, limit: Any) -> None:
    """What is no number of jobs, workflows or lines, or of an attempt is a ValueError before anything is asked for."""
    lists: list[AsyncGenerator[Any]] = [
        turnout_client.jobs(limit=limit),
        turnout_client.workflows(limit=limit),
        turnout_client.job("nobody").follow_logs(limit),
    ]
    for each in lists:
        with pytest.raises(ValueError, match="limit must be an integer of at least 1, not "):
            await anext(each)
    with pytest.raises(ValueError, match="limit must be an integer of at least 1, not "):
        await turnout_client.job("nobody").logs(limit)
    with pytest.raises(ValueError, match="attempt must be a number from 1, or None, not "):
        await turnout_client.job("nobody").logs(attempt=limit)


@pytest.mark.parametrize("state", ["asleep", ["running", "asleep"], 3, [None]])
async def test_a_state_that_is_none(turnout_client: Client, state: Any) -> None:
    """An unknown state is a ValueError that names it, alone or among others, of a job as of a workflow."""
    with pytest.raises(ValueError, match=r"state must be one of .*not "):
        await listed(turnout_client, state=state)
    with pytest.raises(ValueError, match=r"state must be one of .*not "):
        await turnout_client.count_workflows(state=state)


async def test_an_empty_namespace(turnout_client: Client) -> None:
    """Where there is nothing, nothing is listed."""
    assert await listed(turnout_client) == []
    assert await listed(turnout_client, state=[]) == []
    assert set((await turnout_client.count()).values()) == {0}


async def test_a_record_that_cannot_be_read_hides_no_other(
    turnout_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """One of a later version is left out with one warning, and so is what its message tells. What no turnout has
    written is as good as no record, with a warning: its job waits. All others are listed and counted."""
    now = turnout_client.store.connection.now()
    names, connection = turnout_client.store.names, turnout_client.store.connection
    for number, spoilt in enumerate(
        [b'{"v":99,"id":"x"}', b"not json", b'{"v":1,"id":"a","activity":"noop","state":"nap"}']
    ):
        await connection.store(names.record("noop", f"bad-{number}"), spoilt)
        await put(turnout_client, record(f"bad-{number}", "queued", now))
    await store(turnout_client, [record("good", "running", now)])
    await put(turnout_client, record("good", "running", now))
    await put(turnout_client, record("waits", "queued", now))
    for filters in ({}, {"state": ["queued", "running"]}):
        with caplog.at_level(logging.WARNING, "turnout.registry"):
            caplog.clear()
            assert {info.id for info in await listed(turnout_client, **filters)} == {"good", "waits", "bad-1", "bad-2"}
        assert sorted(str(next(iter(each.args))).rpartition(".")[2] for each in caplog.records if each.args) == [
            "bad-0",
            "bad-1",
            "bad-2",
        ]
    assert +Counter(await turnout_client.count()) == {"running": 1, "queued": 3}


async def test_an_overdue_job_is_listed_as_what_it_is(turnout_client: Client) -> None:
    """A queued job whose deadline has passed shows as faulted to whoever lists or counts first."""
    now = turnout_client.store.connection.now()
    for number in range(2):
        late = record(f"late-{number}", "queued", now - 60)
        late = changed(late, options=attrs.evolve(late.spec.options, expires_in=1.0))
        await store(turnout_client, [late])
        await put(turnout_client, late)
        if number == 0:
            assert [info.id for info in await listed(turnout_client, state="faulted")] == ["late-0"]
    assert (await turnout_client.count())[JobState.faulted] == 2
    assert await listed(turnout_client, state="queued") == []


async def test_readers_write_nothing() -> None:
    """Whoever may only read sees an overdue job as it is, lists, counts and waits for it; nothing is written."""
    config = """
    authorization { users: [
      {user: all, password: p}
      {user: observer, password: p, permissions: {publish: {allow: ["$JS.API.>"], deny: ["$JS.API.STREAM.PURGE.>",
        "$JS.API.STREAM.MSG.DELETE.>"]}}}
    ] }"""
    with NatsServer(config=config) as server:
        async with (
            Client.connect(server.url, user="all", password="p") as client,
            Client.connect(server.url, user="observer", password="p") as observer,
        ):
            overdue = record("late", "queued", client.store.connection.now() - 60)
            overdue = changed(overdue, options=attrs.evolve(overdue.spec.options, expires_in=1.0))
            await store(client, [overdue])
            await put(client, overdue)
            before = [await last_seq(client, stream) for stream in ("work", "faults", "KV_jobs")]
            info = await observer.job("late").info()
            assert [each.state for each in await listed(observer, state="faulted")] == ["faulted"]
            assert (info.state, info.reason) == ("faulted", "expired")
            assert (await observer.count())[JobState.faulted] == 1
            with pytest.raises(JobFaulted, match="expired"):
                await observer.job("late").result(timeout=30)
            assert [state async for state in observer.job("late").watch()] == [info]
            assert observer.store.connection.violations == ()
            assert [await last_seq(client, stream) for stream in ("work", "faults", "KV_jobs")] == before
            await client.job("late").retry()
            assert (await observer.job("late").info()).state == "queued"


async def last_seq(client: Client, stream: str) -> int:
    name = f"KV_{client.namespace}_jobs" if stream == "KV_jobs" else f"{client.namespace}_{stream}"
    return int((await client.store.connection.api(f"STREAM.INFO.{name}"))["state"]["last_seq"])


# --- very many -------------------------------------------------------------------------------------------------------


@pytest.fixture
def monitored() -> Iterator[tuple[NatsServer, int]]:
    """A server of its own, and the port of its counters."""
    port = _free_port()
    with NatsServer(config=f'http: "127.0.0.1:{port}"') as server:
        yield server, port


@pytest_asyncio.fixture
async def crowd(monitored: tuple[NatsServer, int]) -> AsyncIterator[tuple[Client, Callable[[], int]]]:
    """5,000 ended jobs, five of which have faulted, beside a few that have not ended, and the count of messages that
    the server has sent since it was last asked."""
    server, port = monitored
    async with own_namespace(server) as client:
        now = client.store.connection.now()
        states = ["faulted" if number % 1_000 == 500 else "completed" for number in range(5_000)]
        await store(client, (record(f"old-{n:04}", state, now - 10_000 + n) for n, state in enumerate(states)))
        for number, state in enumerate(["scheduled", "queued", "running", "retrying"]):
            job = record(state, state, now - 20_000 - number)
            if state != "queued":
                await store(client, [job])
            await put(client, job)
        sent = 0

        def since() -> int:
            nonlocal sent
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=30) as answer:
                before, sent = sent, int(json.load(answer)["out_msgs"])
            return sent - before

        since()
        yield client, since


async def test_the_first_page_reads_one_page(crowd: tuple[Client, Callable[[], int]]) -> None:
    """The newest twenty of thousands are shown after a window was read, by whatever state they are asked for."""
    client, sent = crowd
    for filters in ({}, {"state": "completed"}, {"activity": "noop"}, {"state": ["completed", "running"]}):
        found = [info.id for info in await listed(client, limit=20, **filters)]
        ended = [job_id for job_id in found if job_id != "queued"]  # a message is as old as it is
        assert ended == [f"old-{n:04}" for n in range(4999, 4999 - len(ended), -1)]
        assert len(ended) >= 19
        assert WINDOW <= sent() < 1.3 * WINDOW + 50
    async with contextlib.aclosing(client.jobs()) as jobs:
        async for _ in jobs:
            break
    assert sent() < 1.3 * WINDOW + 50


async def test_what_has_not_ended_is_found_without_reading_what_has(crowd: tuple[Client, Callable[[], int]]) -> None:
    """Thousands of ended jobs cost a listing of the others nothing."""
    client, sent = crowd
    for state in ("scheduled", "queued", "running", "retrying"):
        assert [info.id for info in await listed(client, state=state)] == [state]
    assert {info.id for info in await listed(client, node="alpha")} == {"running"}
    assert {info.id for info in await listed(client, state=["running", "queued"])} == {"running", "queued"}
    assert sent() < 120


async def test_what_runs_is_found_without_reading_what_waits(monitored: tuple[NatsServer, int]) -> None:
    """Thousands of queued jobs cost a listing of those that run nothing: they have no records yet, these have."""
    server, port = monitored
    async with own_namespace(server) as client:
        await client.submit_many(activity_ref("noop"), [{}] * 3_000)
        now = client.store.connection.now()
        for number, state in enumerate(["running", "retrying"]):
            job = record(state, state, now - 20_000 - number)
            await store(client, [job])
            await put(client, job)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=30) as answer:
            before = int(json.load(answer)["out_msgs"])
        for state in ("running", "retrying"):
            assert [info.id for info in await listed(client, state=state)] == [state]
        assert [info.id for info in await listed(client, node="alpha")] == ["running"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=30) as answer:
            assert int(json.load(answer)["out_msgs"]) - before < 120
        assert len(await listed(client, state=["running", "queued"])) == 3_001


async def test_a_rare_state_among_thousands(crowd: tuple[Client, Callable[[], int]]) -> None:
    """All that match are found, newest first, and each is shown before what is older has been read."""
    client, sent = crowd
    found = []
    async with contextlib.aclosing(client.jobs(state="faulted")) as jobs:
        async for info in jobs:
            found.append(info.id)
            if len(found) == 1:
                assert sent() < 1.3 * WINDOW + 50
    assert found == [f"old-{n:04}" for n in (4500, 3500, 2500, 1500, 500)]
    assert +Counter(await client.count()) == {
        "completed": 4_995,
        "faulted": 5,
        "scheduled": 1,
        "queued": 1,
        "running": 1,
        "retrying": 1,
    }


async def test_since_ends_the_walk(crowd: tuple[Client, Callable[[], int]]) -> None:
    """What was last written before the instant is not read: no job of it can be younger."""
    client, sent = crowd
    assert len(await listed(client, since=10_600, state="completed")) == 4_995  # all were written just now
    sent()
    assert await listed(client, since=-3_600) == []
    assert sent() < 1.3 * WINDOW + 50


async def test_everything_is_listed_once_and_about_in_order(crowd: tuple[Client, Callable[[], int]]) -> None:
    """A listing of thousands has each once; those that were written last come first."""
    client, _ = crowd
    found = [info.id for info in await listed(client)]
    assert len(found) == len(set(found)) == 5_004
    ended = [job_id for job_id in found if job_id.startswith("old-")]
    assert ended == sorted(ended, reverse=True)


async def test_all_of_twenty_thousand_are_read_once_and_in_few_requests(monitored: tuple[NatsServer, int]) -> None:
    """Listing all jobs, and counting them, costs a message for each and a request for each window of them: what takes
    two seconds with 20,000 would take minutes if each were asked for by itself."""
    server, port = monitored
    many = 20_000

    def counters() -> tuple[int, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=30) as answer:
            told = json.load(answer)
        return int(told["in_msgs"]), int(told["out_msgs"])

    async with own_namespace(server) as client:
        now = client.store.connection.now()
        await store(client, (record(f"old-{n:05}", "completed", now - 2 * many + n) for n in range(many)))
        for look in ("listed", "counted"):
            asked_before, sent_before = counters()
            if look == "listed":
                assert len({info.id async for info in client.jobs()}) == many
            else:
                assert (await client.count())[JobState.completed] == many
            asked, sent = counters()
            assert many <= sent - sent_before < 1.1 * many + 200, look
            assert asked - asked_before < many / WINDOW * 10 + 100, look


async def test_sparse_and_dense_streams_are_walked_whole(turnout_client: Client) -> None:
    """Gaps of any size, subjects of any rarity: backwards, each message comes once, none is missed."""
    dice = random.Random(7)
    names, connection = turnout_client.store.names, turnout_client.store.connection
    now = connection.now()
    await store(turnout_client, (record(f"a-{n}", "completed", now - n, activity="rare") for n in range(3)))
    await store(turnout_client, (record(f"b-{n}", "completed", now - n) for n in range(1_500)))
    # The same three hundred again and again: what is left of these are the last writes of each.
    await store(turnout_client, (record(f"c-{dice.randrange(300)}", "running", now) for n in range(12_000)))
    await store(turnout_client, [record("a-3", "completed", now, activity="rare")])
    wanted = {"rare": 4, "noop": 1_500 + 300, "*": 1_804, "none": 0}
    for activity, count in wanted.items():
        walk = Backward(connection, kv_stream(names.jobs_bucket), names.record(activity, "*"))
        windows = [[raw.seq for raw in window] async for window in walk.windows()]
        seen = [seq for window in reversed(windows) for seq in window]
        assert seen == sorted(set(seen))
        assert len(seen) == count
        assert walk.top == seen[-1] if seen else walk.top < 3 + 1_500 + 12_000 + 1


async def test_large_records_are_read_in_small_windows(turnout_client: Client) -> None:
    """However large the records are, no window holds much more than a page's bytes, and none is missed."""
    now = turnout_client.store.connection.now()
    text = "x" * 500_000
    many = 3 * PAGE_BYTES // len(text)
    for number in range(many):
        await store(turnout_client, [record(f"large-{number:03}", "completed", now + number, result=Body(text=text))])
    found = [info.id for info in await listed(turnout_client, state="completed")]
    assert found == [f"large-{number:03}" for number in range(many - 1, -1, -1)]
    names = turnout_client.store.names
    walk = Backward(turnout_client.store.connection, kv_stream(names.jobs_bucket), names.record("*", "*"))
    sizes = [sum(len(raw.data) for raw in window) async for window in walk.windows()]
    assert max(sizes) < 3.1 * PAGE_BYTES
    assert len(sizes) > 1


# --- while jobs change -----------------------------------------------------------------------------------------------


class Changes:
    """Jobs go on with their lives, one step after the other, as fast as the server stores it."""

    def __init__(self, client: Client, jobs: int, seed: int) -> None:
        self.going = True
        self.steps = 0
        self._client = client
        self._dice = random.Random(seed)
        now = client.store.connection.now()
        self.jobs = {f"job-{n}": record(f"job-{n}", "queued", now - n) for n in range(jobs)}

    async def begin(self) -> None:
        for job in self.jobs.values():
            await put(self._client, job)
        for _ in range(3 * len(self.jobs)):
            await self.step()

    async def run(self) -> None:
        while self.going:
            await self.step()
            self.steps += 1

    async def step(self) -> None:
        job = self._dice.choice(list(self.jobs.values()))
        queue = self._client.store.queue
        match job.state:
            case JobState.queued:
                after = record(job.id, "running", job.spec.submitted_at, generation=job.generation)
                await store(self._client, [after])
            case JobState.running:
                state = self._dice.choice(["running", "retrying", "completed", "faulted", "cancelled"])
                after = record(job.id, state, job.spec.submitted_at, generation=job.generation)
                await store(self._client, [after])
            case JobState.retrying:
                after = record(job.id, "running", job.spec.submitted_at, generation=job.generation)
                await store(self._client, [after])
            case JobState.completed:
                after = job
                await store(self._client, [after])  # as it is, once more
            case _:
                after = record(job.id, "queued", job.spec.submitted_at, generation=job.generation + 1)
                found = await queue.find_named(job.activity, job.id)
                await queue.replace(after.spec, found.message.seq if found else 0, 0, "again")
        if after.state.final and (found := await queue.find_named(job.activity, job.id)) is not None:
            await queue.remove(found.message)
        self.jobs[job.id] = after


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.breadth) for seed in range(1, 3))])
async def test_jobs_that_change_are_listed_and_counted_once(turnout_client: Client, seed: int) -> None:
    """Whatever happens to jobs while they are listed or counted, each is there exactly once."""
    changes = Changes(turnout_client, 40, seed)
    await changes.begin()
    going = asyncio.create_task(changes.run())
    try:
        for turn in range(25):
            found = []
            async for info in turnout_client.jobs():
                found.append(info.id)
                if turn % 2:
                    await asyncio.sleep(0)
            assert sorted(found) == sorted(changes.jobs), turn
            assert sum((await turnout_client.count()).values()) == len(changes.jobs), turn
            for states in (["completed"], ["faulted", "cancelled"], ["queued", "running", "retrying"]):
                some = [info.id async for info in turnout_client.jobs(state=states)]
                assert len(some) == len(set(some)), (turn, states)
        assert changes.steps > 100
    finally:
        changes.going = False
        await going
    counted = +Counter(await turnout_client.count())
    assert counted == Counter(job.state for job in changes.jobs.values())


async def test_what_moves_behind_a_listing_is_still_shown(turnout_client: Client) -> None:
    """A job that is written while a listing rests is not missed: it comes at the end, as it is by then."""
    now = turnout_client.store.connection.now()
    await store(turnout_client, (record(f"old-{n:04}", "faulted", now - 10_000 + n) for n in range(5_000)))
    found: list[JobInfo] = []
    async for info in turnout_client.jobs():
        found.append(info)
        if len(found) == 1:
            moved = [records.record(f"old-{n:04}", "completed", now - 10_000 + n) for n in range(0, 5_000, 50)]
            await store(turnout_client, moved)
            await store(turnout_client, [record("new", "completed", now + 60)])
    ids = [info.id for info in found]
    assert len(ids) == len(set(ids)) == 5_000, "one that was submitted meanwhile is none of this listing"
    behind = [info.id for info in found[-60:] if info.state == "completed"]
    assert len(behind) == 60
