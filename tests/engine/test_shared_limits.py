"""Limits over all nodes: how many run at once, who waits, and what a job that waits does not hold. On a real server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from functools import partial
from typing import Any

import attrs
import pytest

from tests.support.rawsocket import raw_publish
from tests.support.waiting import parked, until
from turnout import Client, InvalidValue, JobHandle, JobState, Limit, LimitInfo, RetryPolicy, activity, current_job
from turnout.core.limits import Entry, Holder, LimitKey, Rule
from turnout.nats.stream import Stream
from turnout.store.consumers import consumer_of
from turnout.testing import NatsServer
from turnout.testing.fixtures import WorkerFactory

runs: list[tuple[str, float, float]] = []
"""What ran, from when until when."""
running: Counter[str] = Counter()
meetings: list[Meeting] = []


@attrs.define
class Meeting:
    """So many of these names are to run at once: until they do each of them goes on, however slow the machine is."""

    names: set[str]
    many: int
    met: asyncio.Event = attrs.field(factory=asyncio.Event)


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    for each in (runs, running, meetings):
        each.clear()


async def run(name: str, seconds: float) -> None:
    began = time.monotonic()
    running[name] += 1
    try:
        for meeting in meetings:
            if name in meeting.names:
                if sum(running[each] for each in meeting.names) >= meeting.many:
                    meeting.met.set()
                await meeting.met.wait()
        await asyncio.sleep(seconds)
    finally:
        running[name] -= 1
        runs.append((name, began, time.monotonic()))


def most_at_once(name: str | None = None) -> int:
    """How many of those of this name ran at one time."""
    chosen = [each for each in runs if name is None or each[0] == name]
    return max((sum(1 for _, began, ended in chosen if began <= at < ended) for _, at, _ in chosen), default=0)


@activity(limits=[Limit("one", concurrency=1)])
async def alone(seconds: float = 0.05) -> None:
    await run("alone", seconds)


@activity(limits=[Limit("two", concurrency=2)])
async def left(seconds: float = 0.05) -> None:
    await run("left", seconds)


@activity(limits=[Limit("two", concurrency=2)])
async def right(seconds: float = 0.05) -> None:
    await run("right", seconds)


@activity(limits=[Limit("tenant:{tenant}", concurrency=1)])
async def serve(tenant: str, seconds: float = 0.05) -> None:
    await run(tenant, seconds)


@activity(limits=[Limit("one", concurrency=1), Limit("both", concurrency=1)])
async def needs_both() -> None:
    await run("both", 0.05)


@activity(limits=[Limit("both", concurrency=1)])
async def needs_one_of_both() -> None:
    await run("one of both", 0.05)


@activity(limits=[Limit("mail", rate=20, burst=2)])
async def send(seconds: float = 0.0) -> None:
    await run("send", seconds)


@activity(limits=[Limit("mail", rate=20, burst=2), Limit("one", concurrency=1)])
async def send_alone(seconds: float = 0.0) -> None:
    await run("send", seconds)


@activity(limits=[Limit("api", concurrency=2, rate=1000)])
async def call(slow: bool = False) -> None:
    if slow:
        await current_job().slow_down("api", 3600)


@activity(limits=[Limit("one", concurrency=1)], retry=RetryPolicy(delays=[3600]))
async def fails() -> None:
    raise ValueError("not today")


@activity
async def free() -> str:
    return current_job().id


@activity
async def errs() -> None:
    await current_job().slow_down("apy", 3600)


async def waits_for(client: Client, job_id: str) -> tuple[str, str] | None:
    waiting = (await client.job(job_id).info()).waiting_for
    return None if waiting is None else (waiting.kind, waiting.name)


async def limit(client: Client, name: str) -> LimitInfo:
    [found] = [each async for each in client.limits() if each.name == name]
    return found


async def nobody_uses(client: Client, name: str) -> bool:
    found = await limit(client, name)
    return (found.held, found.waiting, found.holders) == (0, 0, [])


async def nothing_left(client: Client) -> bool:
    """Whether no message is in the work stream: nobody waits for the acknowledgement that removes one."""
    info = await client.store.connection.api(f"STREAM.INFO.{client.store.names.work}")
    return int(info["state"]["messages"]) == 0


async def test_a_freed_place_is_handed_on_at_once(turnout_client: Client, turnout_worker: Any) -> None:
    """Ten jobs of 50 ms, one at a time over two nodes, are done within 2 s, within 8 s where the machine is that busy:
    had each to wait for a look of the supervisor, it would be 20 s. Nothing of them is left."""
    async with turnout_worker(alone, name="a"), turnout_worker(alone, name="b"):
        begun = time.monotonic()
        handles = await turnout_client.submit_many(alone, [{}] * 10)
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
        took = time.monotonic() - begun
        assert most_at_once() == 1
        assert took < 8.0
        await until(partial(nobody_uses, turnout_client, "one"))
        await until(partial(nothing_left, turnout_client))


async def test_a_limit_is_shared_by_activities_and_nodes(turnout_client: Client, turnout_worker: Any) -> None:
    """Two at once of both activities together, over two nodes, no more and no fewer."""
    meetings.append(Meeting({"left", "right"}, 2))
    async with turnout_worker(left, right, name="a"), turnout_worker(left, right, name="b"):
        handles = await turnout_client.submit_many(left, [{}] * 10) + await turnout_client.submit_many(right, [{}] * 10)
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
    assert most_at_once() == 2
    assert Counter(name for name, _, _ in runs) == {"left": 10, "right": 10}


async def test_a_limit_has_places_for_each_value_of_its_field(turnout_client: Client, turnout_worker: Any) -> None:
    """One at a time of each tenant, whatever characters its name has; different ones run beside each other."""
    names = ["a", "b c.>*", "Zoë {x}"]
    meetings.append(Meeting(set(names), 2))
    async with turnout_worker(serve, concurrency=20):
        payloads = [{"tenant": name} for name in names for _ in range(4)]
        handles = await turnout_client.submit_many(serve, payloads)
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
    assert [most_at_once(name) for name in names] == [1, 1, 1]
    assert most_at_once() > 1


async def test_a_job_that_waits_holds_no_slot(turnout_client: Client, turnout_worker: Any) -> None:
    """On a node with two slots ten jobs wait for a place, and others run; each says what it waits for, and is listed,
    found and counted as any queued job."""
    async with turnout_worker(alone, free, concurrency=2):
        holder = await turnout_client.submit(alone, seconds=3600)
        await until(lambda: _running(turnout_client, holder.id))
        waiting = await turnout_client.submit_many(alone, [{}] * 10)
        for handle in waiting:
            await until(partial(parked, turnout_client, handle.id))
        assert await (await turnout_client.submit(free)).result(timeout=30)
        assert await waits_for(turnout_client, waiting[0].id) == ("limit", "one")
        listed = {info.id async for info in turnout_client.jobs(state="queued")}
        assert listed == {handle.id for handle in waiting}
        assert {info.id async for info in turnout_client.jobs()} >= listed
        assert (await turnout_client.count())[JobState.queued] == 10
        found = await limit(turnout_client, "one")
        assert (found.held, found.waiting, found.holders) == (1, 10, [holder.id])
        consumer = await consumer_of(turnout_client.store.connection, turnout_client.store.names, "alone")
        assert consumer is not None
        assert consumer.pending == 0
        await holder.cancel("enough")
        await asyncio.gather(*(handle.result(timeout=30) for handle in waiting))


async def test_free_places_are_handed_on_together(turnout_client: Client, turnout_worker: Any) -> None:
    """Of sixty jobs for which there is room at once, not each is looked for in the line by itself."""
    connection, names = turnout_client.store.connection, turnout_client.store.names
    asked: list[bytes] = []
    await turnout_client.set_limit("two", 0)
    async with turnout_worker(left, concurrency=10):
        handles = await turnout_client.submit_many(left, [{"seconds": 0.0}] * 60)
        for handle in handles:
            await until(partial(parked, turnout_client, handle.id))
        verb = f"$JS.API.STREAM.MSG.GET.{names.work}"
        heard = await connection.subscribe(verb, lambda request: asked.append(request.data))
        await turnout_client.set_limit("two", 60)
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
        await until(partial(nobody_uses, turnout_client, "two"))
        await heard.close()
    assert 0 < sum(b"next_by_subj" in each for each in asked) < 60, asked


async def test_two_that_change_places_at_once_give_none_twice(turnout_client: Client, nats_server: NatsServer) -> None:
    """Each believes what it has written last until the other has written: never more are let in than there are places,
    and nobody is kept out once they are free."""
    key, inside, most = LimitKey("few", "few", Rule(3)), 0, 0

    async def attempt(client: Client, name: str, number: int) -> None:
        nonlocal inside, most
        holder = Holder("left", f"{name}-{number}", 1, 1, 0.0, name)
        while await client.store.places.take(key, holder) is not Entry.held:
            await asyncio.sleep(0)
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.001)
        inside -= 1
        await client.store.places.leave(key, holder)

    async with Client.connect(nats_server.url, namespace=turnout_client.namespace) as other:
        async with asyncio.timeout(60):
            both = (turnout_client, "one"), (other, "another")
            await asyncio.gather(*(attempt(client, name, n) for n in range(40) for client, name in both))
    assert most == 3
    found = (await turnout_client.store.places.load("few"))[0]
    assert found is not None
    assert found.holders == ()


async def test_many_wishes_are_written_together(turnout_client: Client) -> None:
    """What is asked of a desk while it writes is written together, behind that."""
    desks, key = turnout_client.store.places, LimitKey("roomy", "roomy", Rule(1000))

    def take(name: str) -> asyncio.Future[Entry]:
        return desks.take(key, Holder("left", name, 1, 1, 0.0, "a"))

    before = await Stream(turnout_client.store.connection, turnout_client.store.names.limits).last_seq()
    first = take("first")
    await asyncio.sleep(0)  # it is being written
    assert set(await asyncio.gather(first, *(take(f"later-{n}") for n in range(200)))) == {Entry.held}
    assert await Stream(turnout_client.store.connection, turnout_client.store.names.limits).last_seq() == before + 2


async def test_what_is_let_go_is_free_once_the_server_is_back(
    nats_server: NatsServer, turnout_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for that, nor does it get lost; whoever stops waits until it is done."""

    async def failed() -> bool:
        return "are not free yet" in caplog.text

    desks, key = turnout_client.store.places, LimitKey("roomy", "roomy", Rule(1000))
    holder = Holder("left", "a-job", 1, 1, 0.0, "a")
    assert await desks.take(key, holder) is Entry.held
    await asyncio.to_thread(nats_server.stop)
    with caplog.at_level(logging.DEBUG, "turnout.store"):
        desks.let_go(key, holder)
        settled = asyncio.ensure_future(desks.settled())
        assert await until(failed)
    assert not settled.done()
    await asyncio.to_thread(nats_server.start)
    async with asyncio.timeout(60):
        await settled
    found = (await desks.load("roomy"))[0]
    assert found is not None
    assert found.holders == ()


async def _running(client: Client, job_id: str) -> bool:
    return (await client.job(job_id).info()).state is JobState.running


async def test_a_job_that_waits_holds_no_place_of_another_limit(turnout_client: Client, turnout_worker: Any) -> None:
    """While it waits for the first of its two limits, another has the second."""
    async with turnout_worker(alone, needs_both, needs_one_of_both):
        holder = await turnout_client.submit(alone, seconds=3600)
        await until(lambda: _running(turnout_client, holder.id))
        both = await turnout_client.submit(needs_both)
        await until(lambda: parked(turnout_client, both.id))
        await (await turnout_client.submit(needs_one_of_both)).result(timeout=30)
        await holder.cancel()
        await both.result(timeout=30)


async def test_a_job_that_waits_for_its_retry_holds_no_place(turnout_client: Client, turnout_worker: Any) -> None:
    """Neither does one that waits for its instant."""
    async with turnout_worker(alone, fails):
        handle = await turnout_client.submit(fails)

        async def retrying() -> bool:
            return (await handle.info()).state is JobState.retrying

        await until(retrying)
        await turnout_client.submit(alone.options(delay=3600))
        await (await turnout_client.submit(alone)).result(timeout=30)
        assert await waits_for(turnout_client, handle.id) is None


async def starts_of(handles: list[JobHandle[Any]]) -> list[float]:
    """When these jobs have begun, by the server's clock."""
    infos = [await handle.info() for handle in handles]
    return sorted(info.started_at.timestamp() for info in infos if info.started_at is not None)


async def test_a_rate_holds_over_nodes_and_activities(turnout_client: Client, turnout_worker: Any) -> None:
    """In no time do more start than the rate gives in it, and a burst; the line goes on without a supervisor's look,
    which could not be often enough; those who hold a place of another limit are no exception."""
    async with turnout_worker(send, send_alone, name="a"), turnout_worker(send, send_alone, name="b"):
        handles = await turnout_client.submit_many(send, [{}] * 20) + await turnout_client.submit_many(
            send_alone, [{}] * 10
        )
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
    starts = await starts_of(handles)
    assert len(starts) == 30
    for first, begun in enumerate(starts):
        for last in range(first, len(starts)):  # a start is recorded a moment after its token was taken
            assert last - first + 1 <= 2 + 20 * (starts[last] - begun + 0.1)
    await until(partial(nobody_uses, turnout_client, "mail"))


async def test_a_line_is_woken_whose_alarm_is_lost(turnout_client: Client, turnout_worker: Any) -> None:
    """The process that was to wake it has died, as far as anybody can see: the supervisor lets in who waits."""
    rule, places = Rule(rate=1.0, per=3600.0, burst=1), turnout_client.store.places

    async def has_alarm() -> bool:
        found = (await places.load("mail"))[0]
        return found is not None and found.waker != ""

    async with turnout_worker(send):
        await turnout_client.set_limit("mail", rate=1, per=3600)
        await (await turnout_client.submit(send)).result(timeout=30)
        handle = await turnout_client.submit(send)
        await until(has_alarm)
        found, revision = await places.load("mail")
        assert found is not None
        await places.store(attrs.evolve(found, waker="the dead", used_at=found.used_at - 3600), revision, rule)
        await handle.result(timeout=30)


async def test_what_waits_for_a_token_holds_no_place(turnout_client: Client, turnout_worker: Any) -> None:
    """It says what it waits for; the place of its other limit is for others, and no token is taken in vain."""
    async with turnout_worker(send, send_alone, alone):
        await turnout_client.set_limit("mail", rate=2, per=3600)
        holder = await turnout_client.submit(alone, seconds=3600)
        await until(lambda: _running(turnout_client, holder.id))
        waiting = await turnout_client.submit_many(send_alone, [{}] * 4)  # each has a token, and gives it back
        for handle in waiting:
            await until(partial(parked, turnout_client, handle.id))
        assert await waits_for(turnout_client, waiting[0].id) == ("limit", "one")
        for handle in await turnout_client.submit_many(send, [{}] * 2):
            await handle.result(timeout=30)
        last = await turnout_client.submit(send)
        await until(partial(parked, turnout_client, last.id))
        assert await waits_for(turnout_client, last.id) == ("limit", "mail")
        await holder.cancel()
        await (await turnout_client.submit(alone)).result(timeout=30)
        await turnout_client.set_limit("mail", rate=1000)
        await asyncio.gather(*(handle.result(timeout=30) for handle in (*waiting, last)))


async def test_a_rate_is_set_and_cleared_at_run_time(turnout_client: Client, turnout_worker: Any) -> None:
    """0 holds all up; what is set of the rate leaves concurrency as it is, and the other way round."""
    async with turnout_worker(call, send):
        await turnout_client.set_limit("mail", rate=0, duration=3600)
        handle = await turnout_client.submit(send)
        await until(lambda: parked(turnout_client, handle.id))
        found = await limit(turnout_client, "mail")
        assert (found.rate, found.per, found.burst, found.source) == (0, 1, 0, "set")
        assert (found.concurrency, found.waiting, found.until is not None) == (None, 1, True)
        await turnout_client.clear_limit("mail")
        await handle.result(timeout=30)
        found = await limit(turnout_client, "mail")
        assert (found.rate, found.per, found.burst, found.source) == (20, 1, 2, "declared")
        await turnout_client.set_limit("api", rate=0.5, per=60)
        found = await limit(turnout_client, "api")
        assert (found.concurrency, found.rate, found.per, found.burst) == (2, 0.5, 60, 1)
        await turnout_client.set_limit("api", 5)
        found = await limit(turnout_client, "api")
        assert (found.concurrency, found.rate, found.per, found.burst) == (5, 1000, 1, 1000)


async def test_a_job_slows_a_limit_down_for_all(turnout_client: Client, turnout_worker: Any) -> None:
    """Nothing that needs it starts any more, on any node; whoever looks sees until when; clearing it ends it."""
    async with turnout_worker(call, name="a"), turnout_worker(call, name="b"):
        await (await turnout_client.submit(call, slow=True)).result(timeout=30)
        handle = await turnout_client.submit(call)
        await until(lambda: parked(turnout_client, handle.id))
        found = await limit(turnout_client, "api")
        assert (found.concurrency, found.rate, found.source) == (0, 1000, "set")
        assert found.until is not None
        assert 3500 < found.until.timestamp() - time.time() < 3700
        await turnout_client.clear_limit("api")
        await handle.result(timeout=30)


async def test_limits_are_set_and_cleared_at_run_time(turnout_client: Client, turnout_worker: Any) -> None:
    """0 holds everything up; what was set ends when it is cleared, or by itself; who waits is let in at once."""
    async with turnout_worker(alone):
        await turnout_client.set_limit("one", 0)
        assert (await limit(turnout_client, "one")).source == "set"
        handles = await turnout_client.submit_many(alone, [{}] * 3)
        for handle in handles:
            await until(partial(parked, turnout_client, handle.id))
        meetings.append(Meeting({"alone"}, 3))
        await turnout_client.set_limit("one", 3)
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
        assert most_at_once() == 3
        await turnout_client.set_limit("one", 0, duration=1.0)
        handle = await turnout_client.submit(alone)
        await until(lambda: parked(turnout_client, handle.id))
        assert (await limit(turnout_client, "one")).until is not None
        await handle.result(timeout=30)
        await turnout_client.set_limit("one", 0)
        handle = await turnout_client.submit(alone)
        await until(lambda: parked(turnout_client, handle.id))
        await turnout_client.clear_limit("one")
        await handle.result(timeout=30)
        found = await limit(turnout_client, "one")
        assert (found.concurrency, found.source, found.until) == (1, "declared", None)


async def test_one_key_has_a_limit_of_its_own(turnout_client: Client, turnout_worker: Any) -> None:
    """What is set for a key goes over what is declared for all of them."""
    meetings.append(Meeting({"big"}, 3))
    async with turnout_worker(serve, concurrency=20):
        await turnout_client.set_limit("tenant:big", 3)
        payloads = [{"tenant": name} for name in ("big", "small") for _ in range(6)]
        handles = await turnout_client.submit_many(serve, payloads)
        await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
    assert (most_at_once("big"), most_at_once("small")) == (3, 1)


async def test_what_is_set_and_not_declared_says_so(turnout_client: Client, turnout_worker: Any) -> None:
    """A misspelt name is told from a limit of the code, or a key of one; who declares it later makes it one."""
    for name in ("tenant:big", "tenants:big", "one"):
        await turnout_client.set_limit(name, 3)

    async def strange() -> set[str]:
        return {found.name async for found in turnout_client.limits() if not found.declared}

    assert await strange() == {"tenant:big", "tenants:big", "one"}
    async with turnout_worker(serve, alone):
        assert await strange() == {"tenants:big"}


async def test_a_debounced_job_takes_the_places_of_what_it_runs_with(
    turnout_client: Client, turnout_worker: Any
) -> None:
    """Of the last submission: the message that brings it has the payload of the first."""
    await turnout_client.set_limit("tenant:first", 0)
    ref = serve.options(debounce=0.2, debounce_key="k")
    await turnout_client.submit(ref, "first")
    handle = await turnout_client.submit(ref, "last")
    async with turnout_worker(serve):
        await handle.result(timeout=30)
    assert [name for name, _, _ in runs] == ["last"]


async def test_the_newest_declaration_counts(turnout_client: Client, turnout_worker: Any) -> None:
    """A worker that starts with another number says what holds from then on, for all."""

    @activity(name="alone", limits=[Limit("one", concurrency=2)])
    async def wider(seconds: float = 0.05) -> None:
        await run("alone", seconds)

    async with turnout_worker(alone):
        assert (await limit(turnout_client, "one")).concurrency == 1
        async with turnout_worker(wider):
            assert (await limit(turnout_client, "one")).concurrency == 2


async def test_a_parked_job_is_cancelled_and_expires(turnout_client: Client, turnout_worker: Any) -> None:
    """As any queued job, and it leaves the line."""
    async with turnout_worker(alone):
        await turnout_client.set_limit("one", 0)
        cancelled = await turnout_client.submit(alone)
        overdue = await turnout_client.submit(alone.options(expires_in=2))
        for handle in (cancelled, overdue):
            await until(partial(parked, turnout_client, handle.id))
        await cancelled.cancel("no more")

        async def ended() -> bool:
            return [(await each.info()).state for each in (cancelled, overdue)] == [
                JobState.cancelled,
                JobState.faulted,
            ]

        await until(ended)

        async def gone() -> bool:
            return (await limit(turnout_client, "one")).waiting == 0

        await until(gone)


async def test_bare_jobs_heed_limits(turnout_client: Client, turnout_worker: Any, nats_server: NatsServer) -> None:
    """What `nats pub` submits is parked and run like any other job, once."""
    async with turnout_worker(serve):
        for _ in range(5):
            raw_publish(nats_server.url, f"{turnout_client.namespace}.jobs.serve", b'{"tenant": "a"}')

        async def done() -> bool:
            return (await turnout_client.count())[JobState.completed] == 5

        await until(done)
        assert (len(runs), most_at_once()) == (5, 1)
        await until(partial(nobody_uses, turnout_client, "tenant:{tenant}"))
        await until(partial(nothing_left, turnout_client))


async def test_a_payload_that_fits_no_function_needs_no_place(turnout_client: Client, turnout_worker: Any) -> None:
    """Its limits can't be told from it: it is faulted for what is wrong with it."""
    async with turnout_worker(serve):
        store = turnout_client.store
        await store.connection.store(store.names.jobs("serve", "j"), b'{"wrong": 1}')
        handle = turnout_client.job("j", "serve")

        async def faulted() -> bool:
            return (await handle.info()).state is JobState.faulted

        await until(faulted)
        assert (await handle.info()).reason == "invalid_payload"


async def test_jobs_without_limits_know_nothing_of_them(turnout_client: Client, turnout_worker: Any) -> None:
    """They write nothing into the stream of limits."""
    async with turnout_worker(free):
        await (await turnout_client.submit(free)).result(timeout=30)
        info = await turnout_client.store.connection.api(f"STREAM.INFO.{turnout_client.store.names.limits}")
        assert info["state"]["last_seq"] == 0


async def test_bad_limits_are_refused_before_anything_is_stored(turnout_client: Client) -> None:
    """What can't be set says what would be right."""
    with pytest.raises(InvalidValue, match="concurrency must be an integer between 0"):
        await turnout_client.set_limit("one", -1)
    with pytest.raises(InvalidValue, match="needs a concurrency or a rate"):
        await turnout_client.set_limit("one")
    with pytest.raises(InvalidValue, match="rate must be a number of at least 0"):
        await turnout_client.set_limit("one", rate=-1)
    with pytest.raises(InvalidValue, match="burst and per need a rate"):
        await turnout_client.set_limit("one", 1, burst=5)
    with pytest.raises(InvalidValue, match="name must be"):
        await turnout_client.set_limit("", 1)
    with pytest.raises(InvalidValue, match="duration must be"):
        await turnout_client.set_limit("one", 1, duration=0)
    await turnout_client.clear_limit("nobody knows it")
    assert [each async for each in turnout_client.limits()] == []


async def test_who_slows_down_what_nobody_has_declared_is_told(
    turnout_client: Client, turnout_worker: WorkerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelt name holds nothing up: the log says so, and the list of limits; of a declared one it says nothing."""
    async with turnout_worker(call, errs):
        await (await turnout_client.submit(call, slow=True)).result(timeout=30)
        assert "slow_down" not in caplog.text
        await (await turnout_client.submit(errs)).result(timeout=30)
        assert "no worker has declared a limit apy" in caplog.text
        assert [(each.name, each.declared) async for each in turnout_client.limits()] == [("api", True), ("apy", False)]
