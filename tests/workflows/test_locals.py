"""Local activities (W15): they run on the workflow's worker, without a job, and stand in the history."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest

from tests.support.waiting import until
from tests.workflows.definitions import refuse
from turnout import (
    Client,
    Fatal,
    InvalidValue,
    JobCancelled,
    JobFaulted,
    Limit,
    NotInJob,
    RetryLater,
    RetryPolicy,
    Worker,
    WorkflowFaulted,
    WorkflowState,
    activity,
    activity_ref,
    current_job,
    current_workflow,
    workflow,
)
from turnout.core.workflows.standing import Standing, stand
from turnout.core.workflows.values import CommandKind, InputKind
from turnout.errors import ServerUnavailable
from turnout.store.histories import Stored
from turnout.store.inbox import Wakeup
from turnout.testing import NatsServer, WorkflowEnvironment, replay
from turnout.testing.fixtures import own_namespace
from turnout.worker.workflows import local_activity
from turnout.worker.workflows.code import CodeThread
from turnout.worker.workflows.driver import Driver
from turnout.worker.workflows.locals import Locals
from turnout.worker.workflows.settling import Settling

QUICK = RetryPolicy(delays=[0, 0])


@attrs.define
class Gates:
    """What the code of the test and that of activities tell each other."""

    open: asyncio.Event = attrs.field(factory=asyncio.Event)
    began: int = 0
    ends: list[str | None] = attrs.field(factory=list)
    at_once: list[int] = attrs.field(factory=list)


gates: dict[str, Gates] = {}


async def until_true(condition: Callable[[], bool]) -> None:
    async def held() -> bool:
        return condition()

    await until(held)


def gate() -> Gates:
    """That of the workflow whose local activity runs: they have ids of their own, the test has one."""
    return gates["now"]


@pytest.fixture(autouse=True)
def fresh_gates() -> None:
    gates["now"] = Gates()


@activity
async def double(number: int) -> int:
    return 2 * number


@activity
def thread_name() -> str:
    return threading.current_thread().name


@activity(retry=QUICK)
async def third_time() -> list[object]:
    job = current_job()
    if job.attempt == 2:
        raise RetryLater(0, "once more")
    if job.attempt < 3:
        raise ValueError("not yet")
    return [job.attempt, job.id, job.cancel_reason, dict(job.labels)]


@activity(retry=QUICK)
async def slow_in_the_end() -> None:
    if current_job().attempt < 3:
        raise ValueError("not yet")
    await asyncio.sleep(0.08)


@activity
async def fatal() -> None:
    raise Fatal("no stock")


@activity(retry=RetryPolicy(delays=[3600]))
async def hourly() -> int:
    if current_job().attempt < 2:
        raise ValueError("come back in an hour")
    return current_job().attempt


@activity(retry=RetryPolicy.none())
async def gated() -> str:
    now = gate()
    now.began += 1
    try:
        await now.open.wait()
    except asyncio.CancelledError:
        now.ends.append(current_job().cancel_reason)
        raise
    now.ends.append("open")
    return "open"


@activity(retry=RetryPolicy.none())
async def shut() -> int:
    await gate().open.wait()
    return 2


@activity(retry=RetryPolicy.none())
def told() -> str:
    """In a thread: it ends by itself when it is told to stop."""
    gate().began += 1
    current_job().wait_cancelled()
    return "told"


@activity(heartbeat_timeout=0.05, retry=RetryPolicy.none())
async def silent() -> None:
    await asyncio.sleep(60)


@activity(timeout=0.2, retry=RetryPolicy(delays=[0] * 9))
async def slow_at_first(stubborn: bool) -> None:
    """The first attempt is timed out, and may be left behind; those after it count how many of them run at once."""
    now = gate()
    if current_job().attempt == 1:
        try:
            await asyncio.sleep(60)
        finally:
            if stubborn:
                await now.open.wait()
    now.open.set()
    now.began += 1
    now.at_once.append(now.began)
    try:
        await asyncio.sleep(0.1)
    finally:
        now.began -= 1


@activity
async def checkpoints() -> None:
    await current_job().checkpoint(1)


@activity(limits=[Limit("api", concurrency=1)])
async def limited() -> int:
    return 1


@activity
async def size(text: str) -> str:
    return text * 2


@workflow
async def tries_again(stubborn: bool) -> None:
    await slow_at_first.options(local=True)(stubborn)


@workflow
async def several() -> list[object]:
    found = await asyncio.gather(*(double.options(local=True)(number) for number in range(3)))
    name = await thread_name.options(local=True).execute()
    return [*found, "turnout" in name, *await third_time.options(local=True)(), await double(21)]


@workflow
async def caught() -> list[str]:
    seen = []
    for each in (fatal, silent, gated.options(timeout=0.05), checkpoints.options(retry=RetryPolicy.none())):
        try:
            await each.options(local=True)()
        except JobFaulted as fault:
            info = fault.info
            seen.append(f"{info.activity} {info.state} {info.reason} {info.attempt} {info.error.type}")
    return seen


@workflow
async def ends_late() -> None:
    await slow_in_the_end.options(local=True)()


@workflow
async def uncaught() -> None:
    await fatal.options(local=True)()


@workflow
async def patient() -> str:
    """Takes signals while its local activity runs."""
    call = asyncio.ensure_future(gated.options(local=True)())
    heard = await current_workflow().receive("word", str)
    return f"{heard} {await call}"


@workflow
async def given_up(how: str) -> str:
    local = gated.options(local=True)
    if how == "wait":
        local = local.options(cancellation="wait")
    elif how == "abandon":
        local = local.options(cancellation="abandon")
    call = asyncio.ensure_future(local())
    await current_workflow().receive("stop")
    call.cancel()
    try:
        return await call
    except JobCancelled as cancelled:
        return f"job cancelled: {cancelled.info.state} {cancelled.info.reason}"
    except asyncio.CancelledError:
        return "cancelled"


@workflow
async def two() -> list[object]:
    return list(await asyncio.gather(gated.options(local=True)(), shut.options(local=True)()))


@workflow
async def tells() -> str:
    return await told.options(local=True).execute()


@workflow
async def much() -> int:
    return len(await size.options(local=True)("a" * 50_000))


@workflow
async def waits_an_hour() -> int:
    return await hourly.options(local=True)()


@workflow
async def refused() -> str:
    try:
        return str(await limited.options(local=True)())
    except InvalidValue as error:
        return str(error)


@workflow
async def refused_by_name() -> object:
    return await activity_ref("limited").options(local=True).execute()


ACTIVITIES: list[Any] = [double, thread_name, third_time, fatal, hourly, gated, silent, checkpoints, limited, size]
WORKFLOWS: list[Any] = [several, caught, uncaught, patient, given_up, much, waits_an_hour, refused, refused_by_name]


@pytest.fixture(params=["environment", "server"])
async def client(request: pytest.FixtureRequest, server: NatsServer) -> AsyncIterator[Client]:
    """A client with a worker: in memory, and on a real server."""
    if request.param == "environment":
        async with WorkflowEnvironment(workflows=WORKFLOWS, activities=ACTIVITIES) as env:
            yield env.client
    else:
        async with (
            own_namespace(server) as connected,
            Worker(connected, activities=ACTIVITIES, workflows=WORKFLOWS),
        ):
            yield connected


async def test_local_activities_have_no_jobs_and_stand_in_the_history(client: Client) -> None:
    """They give what jobs would, by themselves, in threads and after failures; and a replay runs none of them."""
    handle = await client.start(several)
    *found, attempt, own_id, reason, labels, last = await handle.result(timeout=30)
    assert found == [0, 2, 4, True]
    assert (attempt, reason, labels, last) == (3, None, {}, 42)
    assert [job.activity async for job in client.jobs()] == ["double"]
    history = await handle.history()
    kinds = [event.kind for event in history]
    assert kinds.count("ask_local") == 5
    assert kinds.count("tried") == 2
    assert own_id not in {command.id for record in history.records for command in record.commands}
    await replay(history.to_jsonl(), workflows=[several])


async def test_failures_tell_what_jobs_would(client: Client) -> None:
    """A JobInfo that no listing has; a timeout, a silence, `Fatal`, and what a local activity can't do."""
    handle = await client.start(caught)
    assert await handle.result(timeout=30) == [
        "fatal faulted fatal 1 Fatal",
        "silent faulted timed_out 1 TimeoutError",
        "gated faulted timed_out 1 TimeoutError",
        "checkpoints faulted failed 1 NotInJob",
    ]
    assert gate().ends == ["timed_out"]
    with pytest.raises(WorkflowFaulted, match="no stock"):
        await (await client.start(uncaught)).result(timeout=30)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_the_rest_of_one_attempt_does_not_end_the_next(monkeypatch: pytest.MonkeyPatch, stubborn: bool) -> None:
    """Neither the time that its code had to stop in, nor code that is left behind and stops later."""
    monkeypatch.setattr(local_activity, "CLEANUP_S", 0.05)
    async with WorkflowEnvironment(workflows=[tries_again], activities=[slow_at_first]) as env:
        await (await env.start(tries_again, stubborn)).result()
    assert set(gate().at_once) == {1}


async def test_a_long_one_stops_nobody(client: Client) -> None:
    """The workflow takes signals meanwhile, others go on, and what it waits for is shown with its attempt."""
    handle = await client.start(patient)
    await until_true(lambda: gate().began == 1)

    async def shown() -> bool:
        waits = (await handle.info()).waiting
        return ("activity", "gated", 1) in [(each.kind, each.name, each.attempt) for each in waits]

    await until(shown)
    await handle.signal("word", "hello")
    assert await (await client.start(much)).result(timeout=30) == 100_000
    gate().open.set()
    assert await handle.result(timeout=30) == "hello open"
    assert gate().began == 1


@pytest.mark.parametrize(
    ("how", "result", "ends"),
    [
        ("try", "cancelled", ["cancelled: workflow x does not wait for it any more"]),
        (
            "wait",
            "job cancelled: cancelled workflow x does not wait for it any more",
            ["cancelled: workflow x does not wait for it any more"],
        ),
        ("abandon", "cancelled", ["open"]),
    ],
)
async def test_cancelling(client: Client, how: str, result: str, ends: list[str]) -> None:
    """As with jobs: asked to cancel and not waited for, waited for, or left alone."""
    handle = await client.start(given_up.options(id="x"), how)
    await until_true(lambda: gate().began == 1)
    await handle.signal("stop")
    assert await handle.result(timeout=30) == result
    if how == "abandon":
        gate().open.set()
    await until_true(lambda: gate().ends == ends)


async def test_a_fork_runs_it_anew(server: NatsServer) -> None:
    """What ran when the history was forked runs in the fork as well; what had ended does not."""
    async with own_namespace(server) as client, Worker(client, activities=ACTIVITIES, workflows=WORKFLOWS):
        handle = await client.start(patient)
        await until_true(lambda: gate().began == 1)
        await handle.signal("word", "hello")

        async def heard() -> bool:
            return "signal" in [event.kind for event in await handle.history()]

        await until(heard)
        fork = await handle.fork(at=len(await handle.history()))
        await until_true(lambda: gate().began == 2)
        gate().open.set()
        await fork.signal("word", "again")
        assert await fork.result(timeout=30) == "again open"
        again = await fork.fork(at=len(await fork.history()))
        assert await again.result(timeout=30) == "again open"
        assert gate().began == 2


async def test_an_end_stops_it(client: Client) -> None:
    """Whoever terminates the workflow ends the code of its local activity too."""
    handle = await client.start(patient)
    await until_true(lambda: gate().began == 1)
    await handle.terminate("enough")
    await until_true(lambda: len(gate().ends) == 1)


async def test_virtual_time_passes_between_attempts() -> None:
    """A retry an hour later comes at once in the environment, and is shown while it is waited for."""
    async with WorkflowEnvironment(workflows=WORKFLOWS, activities={hourly: hourly}) as env:
        began = env.now()
        handle = await env.start(waits_an_hour)
        await env.advance(60)
        waiting = (await handle.info()).waiting[0]
        assert (waiting.attempt, waiting.due_at is not None) == (2, True)
        assert await handle.result() == 2
        assert env.now() - began >= timedelta(minutes=50)


async def test_quick_ones_cost_no_record_of_their_own(client: Client) -> None:
    """The end of one that is quick stands in the record that asks for it, which is the only one."""
    handle = await client.start(much)
    await handle.result(timeout=30)
    kinds = [event.kind for event in await handle.history()]
    assert kinds.count("ask_local") == kinds.count("done") == 1
    assert len((await handle.history()).records) <= 3


async def test_a_request_to_cancel_is_heard_though_its_effects_failed(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks right behind the record: the code is told by whatever task comes next."""
    commit, broken = Driver._commit, list[int]()

    async def breaks_once(self: Driver, stored: Stored, *args: Any) -> None:
        if not broken and any(command.kind is CommandKind.request for command in stored.record.commands):
            broken.append(stored.seq)
            raise ServerUnavailable("as the test says")
        await commit(self, stored, *args)

    monkeypatch.setattr(Driver, "_commit", breaks_once)
    monkeypatch.setattr("turnout.worker.workflows.locals.EXTEND_EVERY_S", 60.0)
    async with own_namespace(server) as client, Worker(client, activities=ACTIVITIES, workflows=WORKFLOWS):
        handle = await client.start(given_up, "wait")
        await until_true(lambda: gate().began == 1)
        await handle.signal("stop")
        await until_true(lambda: bool(broken))
        await handle.signal("stop")
        assert "job cancelled" in await handle.result(timeout=30)
        assert len(gate().ends) == 1


async def test_what_is_kept_is_extended_while_the_server_is_slow(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look whether it is still wanted takes long: nobody else is handed it meanwhile."""
    extend, extended = Settling.extend, list[int]()

    async def hangs(self: Locals, workflow_id: str) -> None:
        await asyncio.Event().wait()

    def noted(self: Settling, wakeup: Wakeup) -> None:
        extended.append(wakeup.seq)
        extend(self, wakeup)

    monkeypatch.setattr(Locals, "_look", hangs)
    monkeypatch.setattr(Settling, "extend", noted)
    monkeypatch.setattr("turnout.worker.workflows.locals.EXTEND_EVERY_S", 0.02)
    async with own_namespace(server) as client, Worker(client, activities=ACTIVITIES, workflows=WORKFLOWS):
        handle = await client.start(patient)
        await until_true(lambda: gate().began == 1)
        await until_true(lambda: len(extended) > 3)
        gate().open.set()
        await handle.signal("word", "hello")
        assert await handle.result(timeout=30) == "hello open"


async def test_what_ends_while_its_worker_stops_is_on_record(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that returns when it is asked to stop has returned: nobody else is handed what it was kept for."""
    append, give_back, given = Driver._append, Settling.give_back, list[int]()

    async def slow(self: Driver, *args: Any) -> Standing:
        await asyncio.sleep(0.1)
        return await append(self, *args)

    def noted(self: Settling, wakeup: Wakeup, delay_s: float) -> None:
        given.append(wakeup.seq)
        give_back(self, wakeup, delay_s)

    async with own_namespace(server) as client:
        async with Worker(client, activities=[told], workflows=[tells]) as worker:
            handle = await client.start(tells)
            await until_true(lambda: gate().began == 1)
            monkeypatch.setattr(Driver, "_append", slow)
            monkeypatch.setattr(Settling, "give_back", noted)
            await worker.stop(grace=0)
        assert given == []
        assert await handle.result(timeout=30) == "told"


async def test_what_came_in_a_task_stands_before_what_comes_behind_it(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both attempts that failed are recorded: the second while the task took the first, the end while it was stored."""
    run, append = CodeThread.run, Driver._append

    async def slow_run(self: CodeThread, call: Callable[[], object]) -> object:
        found = await run(self, call)
        await asyncio.sleep(0.05)
        return found

    async def slow_append(self: Driver, *args: Any) -> Standing:
        await asyncio.sleep(0.15)
        return await append(self, *args)

    monkeypatch.setattr("turnout.worker.workflows.locals.LONGEST_S", 0.04)
    monkeypatch.setattr("turnout.worker.workflows.locals.TOGETHER_S", 0.04)
    async with own_namespace(server) as client:
        async with Worker(client, activities=[slow_in_the_end], workflows=[ends_late]):
            monkeypatch.setattr(CodeThread, "run", slow_run)
            monkeypatch.setattr(Driver, "_append", slow_append)
            handle = await client.start(ends_late)
            await handle.result(timeout=30)
        assert [event.kind for event in await handle.history()].count("tried") == 2


async def test_another_worker_runs_it_again(server: NatsServer) -> None:
    """A node that stops hands its local activity over; nobody else has run it before, and it is run from its begin."""
    async with own_namespace(server) as client:
        first = Worker(client, activities=[gated], workflows=[patient])
        async with first:
            handle = await client.start(patient)
            await until_true(lambda: gate().began == 1)
            second = Worker(client, activities=[gated], workflows=[patient])
            async with second:
                await handle.signal("word", "moved")
                await first.stop(grace=0)
                await until_true(lambda: gate().began == 2)
                gate().open.set()
                assert await handle.result(timeout=30) == "moved open"
        assert gate().ends == ["node_stopping", "open"]


async def test_one_that_has_ended_at_once_is_not_run_by_the_next_worker(server: NatsServer) -> None:
    """Its end stands in the very record that asks for it: whoever reads that knows that there is nothing to run."""
    gate().open.set()
    async with own_namespace(server) as client:
        async with Worker(client, activities=[gated], workflows=[patient]):
            handle = await client.start(patient)

            async def ended() -> bool:
                return "done" in [event.kind for event in await handle.history()]

            await until(ended)
        assert stand([(each.record, each.seq) for each in await records_of(client, handle.id)]).locals == []
        async with Worker(client, activities=[gated], workflows=[patient]):
            await handle.signal("word", "moved")
            assert await handle.result(timeout=30) == "moved open"
        assert [event.kind for event in await handle.history()].count("done") == 1
    assert gate().began == 1


async def records_of(client: Client, workflow_id: str) -> list[Stored]:
    newest = await client.store.histories.newest(workflow_id)
    assert newest is not None
    return await client.store.histories.read(workflow_id, newest)


async def test_a_worker_without_it_says_so(server: NatsServer) -> None:
    """The workflow is stuck with an error that names the activity, and goes on where a worker has it."""
    async with own_namespace(server) as client:
        async with Worker(client, workflows=[much]):
            handle = await client.start(much)

            async def stuck() -> bool:
                return (await handle.info()).state is WorkflowState.stuck

            await until(stuck)
            info = await handle.info()
            assert info.reason == "activity_missing"
            assert info.error is not None
            assert "local activity size" in info.error.message
        async with Worker(client, activities=[size], workflows=[much], build="with it"):
            assert await handle.result(timeout=30) == 100_000


async def test_a_worker_without_one_of_two_runs_neither(server: NatsServer) -> None:
    """What both wait with is left to a worker that has both."""
    async with own_namespace(server) as client:
        async with Worker(client, activities=[gated, shut], workflows=[two]) as first:
            handle = await client.start(two)
            await until_true(lambda: gate().began == 1)
            await first.stop(grace=0)
        async with Worker(client, activities=[gated], workflows=[two]):

            async def stuck() -> bool:
                return (await handle.info()).state is WorkflowState.stuck

            await until(stuck)
            assert gate().began == 1


async def test_what_a_local_activity_can_not_have(client: Client) -> None:
    """Options of jobs are refused where they are given, local ones where nobody runs them, and those with limits."""
    with pytest.raises(InvalidValue, match="local=True and delay"):
        double.options(local=True, delay=5)
    with pytest.raises(InvalidValue, match="local=True and labels"):
        double.options(labels={"a": "b"}).options(local=True)
    with pytest.raises(InvalidValue, match="local must be"):
        double.options(local=1)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="local=True is for what a workflow calls"):
        await client.submit(double.options(local=True), 1)
    with pytest.raises(InvalidValue, match="local=True is for what a workflow calls"):
        await client.submit_many(double.options(local=True), [{"number": 1}])
    with pytest.raises(NotInJob):
        current_job()
    assert "local=True heeds neither" in await (await client.start(refused)).result(timeout=30)
    by_name = await client.start(refused_by_name)

    async def stuck() -> bool:
        return (await by_name.info()).state is WorkflowState.stuck

    await until(stuck)
    error = (await by_name.info()).error
    assert error is not None
    assert "limited has limits" in error.message
    await by_name.terminate()


@activity
async def short() -> int:
    await asyncio.sleep(0.01)
    return 1


@workflow
async def row(beside: bool) -> int:
    """Twenty local activities one after the other, and a job that is asked for before them."""
    job = asyncio.ensure_future(double(1)) if beside else None
    await asyncio.sleep(0)
    ended = [await short.options(local=True)() for _ in range(20)]
    return sum(ended) + (0 if job is None else await job)


@pytest.mark.parametrize(
    ("beside", "next_s", "longest_s", "most"),
    [(False, 5.0, 30.0, 20), (False, 5.0, 0.05, 5), (True, 0.05, 30.0, 5)],
    ids=["a row", "a long row", "beside a job"],
)
async def test_a_row_of_quick_ones_is_one_record(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch, beside: bool, next_s: float, longest_s: float, most: int
) -> None:
    """Their ends go into the record that asks for the first, until it has taken long, or a job waits for it."""
    monkeypatch.setattr("turnout.worker.workflows.locals.TOGETHER_S", next_s)
    monkeypatch.setattr("turnout.worker.workflows.locals.LONGEST_S", longest_s)
    async with own_namespace(server) as client, Worker(client, activities=[short, double], workflows=[row]):
        handle = await client.start(row, beside)
        assert await handle.result(timeout=30) == (22 if beside else 20)
        records = [each.record for each in await records_of(client, handle.id)]
    ended = [sum(given.kind is InputKind.done for given in record.inputs) for record in records]
    assert max(ended[:2]) <= most
    assert (ended == [0, 20]) == (most == 20)


async def test_a_failure_is_the_same_when_it_is_read_again() -> None:
    """What the code is shown of an activity that has failed does not differ in a replay, down to its spelling."""
    seen: list[str] = []

    @workflow(name="looking")
    async def looking() -> None:
        for failing in (refuse, refuse.options(local=True)):
            try:
                await failing("no")
            except JobFaulted as error:
                seen.append(repr(error.info))

    async with WorkflowEnvironment(workflows=[looking], activities=[refuse]) as env:
        await (await env.start(looking)).result()
    assert len(seen) >= 4
    assert len(set(seen)) == 2
