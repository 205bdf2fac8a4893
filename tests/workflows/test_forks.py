"""Forks: a workflow that goes on from any event of another one, and one that goes on from where it failed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import double, increment, nap
from turnout import (
    Client,
    InvalidState,
    RetryPolicy,
    Worker,
    WorkflowCancelled,
    WorkflowExists,
    WorkflowFaulted,
    WorkflowNotFound,
    WorkflowState,
    activity,
    current_workflow,
    workflow,
)
from turnout.cli.workflowtrace import trace_of
from turnout.core.workflows.fork import Forking, forked
from turnout.core.workflows.task import Starting
from turnout.core.workflows.values import key_of
from turnout.errors import InvalidValue
from turnout.store.forks import Forks
from turnout.store.starts import Starts
from turnout.testing import WorkflowEnvironment, replay

ran: Counter[str] = Counter()


@activity
async def step(name: str, size: int = 1) -> str:
    ran[name] += 1
    return name * size


@activity(retry=RetryPolicy.none())
async def weak(name: str) -> str:
    ran[name] += 1
    if ran[name] == 1:
        raise ValueError("not yet")
    return name


@workflow
async def child(name: str) -> str:
    return await step(name)


@workflow(name="journey")
async def journey() -> list[str]:
    wf = current_workflow()
    found = [await step("a"), str(wf.uuid4())]
    found += await asyncio.gather(step("b"), child("c"))
    found.append(await wf.receive("go", str))
    await asyncio.sleep(0.01)
    return [*found, await step("d")]


@workflow(name="journey")
async def detour() -> list[str]:
    """The same until the first activity has ended."""
    return [await step("a"), str(current_workflow().uuid4()), await step("elsewhere")]


@activity
async def beside(name: str) -> str:
    """Ends when the other one does not fail any more."""
    while ran[name] < 2:
        await asyncio.sleep(0.01)
    return f"beside {name}"


@workflow
async def together() -> list[str]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(weak("a")), group.create_task(beside.options(cancellation="wait")("a"))]
    return [task.result() for task in tasks]


@workflow
async def mending() -> list[str]:
    return [await step("first"), *await asyncio.gather(weak("second"), step("third"))]


ACTIVITIES: list[Any] = [step, weak, beside, double, increment, nap]


@pytest.fixture(autouse=True)
def nothing_has_run() -> None:
    ran.clear()


async def test_from_every_event(client: Client) -> None:
    """A fork from any event of an ended workflow has its result, and runs what had not ended there and nothing else."""
    async with Worker(client, activities=ACTIVITIES, workflows=[journey, child]):
        first = await client.start(journey.options(id="first"))
        await first.signal("go", "on")
        result = await first.result(timeout=30)
        events = await first.history()
        assert events[-1].kind == "completed"
        drawn = next(event.task for event in events if event.kind == "done")
        for at in range(2, len(events) + 1):
            ran.clear()
            fork = await first.fork(at=at, id=f"from-{at}")
            if not any(event.kind == "signal" for event in events[: at - 1]):
                await fork.signal("go", "on")
            again = await fork.result(timeout=30)
            known = [event.id for event in events[: at - 1] if event.kind == "done"]
            expected = {
                event.data["payload"].split('"')[3]
                for event in events
                if event.kind in ("ask_activity", "ask_child") and event.id not in known
            }
            assert set(ran) == expected, (at, events[at - 1])
            assert set(ran.values()) <= {1}
            assert (again[0], again[2:]) == (result[0], result[2:])
            if events[at - 1].task > drawn:
                assert again[1] == result[1]
            shared = await fork.history()
            assert shared[0].data == events[0].data
            await replay(shared, workflows=[journey, child])
        assert await first.result() == result


async def test_other_code_goes_another_way(client: Client) -> None:
    """What stands behind the shared events is the code's of today, and the original is left alone."""
    async with Worker(client, activities=ACTIVITIES, workflows=[journey, child]):
        first = await client.start(journey)
        await until(lambda: _waits(first, "signal"))
    at = next(event.number for event in await first.history() if event.kind == "done") + 1
    async with Worker(client, activities=ACTIVITIES, workflows=[detour]):
        ran.clear()
        fork = await first.fork(at)
        assert (await fork.result(timeout=30))[2] == "elsewhere"
        assert set(ran) == {"elsewhere"}
        assert (await first.info()).state is WorkflowState.running
        assert (await fork.info()).history_length == len(await fork.history()) - 1


async def _waits(handle: Any, *kinds: str) -> bool:
    return sorted(each.kind for each in (await handle.info()).waiting) == sorted(kinds)


async def test_what_was_waited_for_is_asked_for_anew(client: Client) -> None:
    """Of a running one: its activity runs for the fork, too, its timer is due when it was, its signal is its own."""

    @workflow
    async def waiting() -> list[Any]:
        wf = current_workflow()
        async with asyncio.timeout(600):
            return list(await asyncio.gather(nap(0.05), wf.receive("go", str), child.options(id="mine")("c")))

    handle = await client.start(waiting.options(id="first"))
    async with Worker(client, activities=[step], workflows=[waiting, child]):
        await until(lambda: _waits(handle, "timer", "activity", "signal"))
        events = await handle.history()
        fork = await handle.fork(len(events) + 1)
        info = await fork.info()
        assert [each.due_at for each in info.waiting if each.kind == "timer"] == [
            each.due_at for each in (await handle.info()).waiting if each.kind == "timer"
        ]
        assert [event.kind for event in await fork.history()] == [event.kind for event in events]
        await handle.signal("go", "first")
        await fork.signal("go", "fork")
    async with Worker(client, activities=[step, nap], workflows=[waiting, child]):
        assert await handle.result(timeout=30) == [0.05, "first", "c"]
        assert await fork.result(timeout=30) == [0.05, "fork", "c"]
        assert ran == {"c": 1}  # a child whose id the code has chosen is joined
        jobs = [info.workflow async for info in client.jobs(activity="nap")]
        assert set(jobs) == {"first", fork.id}
        assert len(jobs) == 2


async def test_a_stuck_one_and_its_fork(client: Client) -> None:
    """A fork of a stuck workflow goes on with repaired code; the stuck one is none of its business."""

    @workflow(name="broken")
    async def broken() -> str:
        name = await step("a")
        raise KeyError(name)

    @workflow(name="broken")
    async def repaired() -> str:
        return await step("a") + await step("b")

    handle = await client.start(broken.options(id="first"))
    async with Worker(client, activities=ACTIVITIES, workflows=[broken], build="one"):
        await until(lambda: _is(handle, WorkflowState.stuck))
        await handle.fork(len(await handle.history()) + 1, id="fork")
        await until(lambda: _is(client.workflow("fork"), WorkflowState.stuck))
    async with Worker(client, activities=ACTIVITIES, workflows=[repaired], build="two"):
        assert await client.workflow("fork").result(timeout=30) == "ab"


async def _is(handle: Any, state: WorkflowState) -> bool:
    """False as well while one life of the id has made room and the next has not begun."""
    try:
        return (await handle.info()).state is state
    except WorkflowNotFound:
        return False


async def test_a_faulted_one_goes_on_from_where_it_failed(client: Client) -> None:
    """What had completed is not run again, what it failed by is, and what was beside that and had not ended."""
    async with Worker(client, activities=ACTIVITIES, workflows=[mending, child]):
        handle = await client.start(mending.options(id="first"))
        with pytest.raises(WorkflowFaulted, match="not yet"):
            await handle.result(timeout=30)
        fork = await handle.retry(id="again")
        assert await fork.result(timeout=30) == ["first", "second", "third"]
        assert ran["first"] == 1
        assert ran["second"] == 2
        with pytest.raises(InvalidState, match="only a faulted one"):
            await fork.retry()
        with pytest.raises(WorkflowExists, match="choose another id") as raised:
            await handle.retry(id="again")
        assert (await raised.value.handle.info()).state is WorkflowState.completed


async def test_what_was_cancelled_because_of_a_failure_is_not_what_failed(client: Client) -> None:
    """The end that was waited for came last; what had the code ask for it is run again as well."""
    async with Worker(client, activities=ACTIVITIES, workflows=[together]):
        handle = await client.start(together)
        with pytest.raises(WorkflowFaulted, match="not yet"):
            await handle.result(timeout=30)
        assert [event.kind for event in await handle.history()].count("done") == 2
        assert await (await handle.retry()).result(timeout=30) == ["a", "beside a"]


async def test_a_failed_child_is_started_again_under_its_id(client: Client) -> None:
    """An id that the code has chosen is the failed child's no more; one that has completed is joined, not run again."""

    @workflow
    async def weakling() -> str:
        return await weak("child")

    @workflow
    async def parent() -> list[str]:
        return [await child.options(id="first")("c"), await weakling.options(id="second")()]

    async with Worker(client, activities=ACTIVITIES, workflows=[parent, child, weakling]):
        handle = await client.start(parent)
        with pytest.raises(WorkflowFaulted, match="not yet"):
            await handle.result(timeout=30)
        assert await (await handle.retry()).result(timeout=30) == ["c", "child"]
        with pytest.raises(WorkflowFaulted, match="second exists already"):  # it is asked for behind what is shared
            await (await handle.fork(4)).result(timeout=30)
        assert ran == {"c": 1, "child": 2}


async def test_a_failure_of_the_code_itself(client: Client) -> None:
    """It is given the last input again: the code of today decides."""

    @workflow(name="strict", fail_on=(ValueError,))
    async def strict() -> str:
        heard = await current_workflow().receive("go", str)
        raise ValueError(heard)

    @workflow(name="strict")
    async def lenient() -> str:
        return await current_workflow().receive("go", str)

    handle = await client.start(strict)
    await handle.signal("go", "there")
    async with Worker(client, workflows=[strict]):
        with pytest.raises(WorkflowFaulted, match="there"):
            await handle.result(timeout=30)
    fork = await handle.retry()
    async with Worker(client, workflows=[lenient]):
        assert await fork.result(timeout=30) == "there"


async def test_what_it_shares_is_its_own(client: Client) -> None:
    """Large results outlive the workflow that they were recorded by, also over a fork of a fork."""

    @workflow
    async def large() -> int:
        text = await step("large", 40_000)
        await current_workflow().receive("go")
        return len(text)

    async with Worker(client, activities=ACTIVITIES, workflows=[large]):
        handle = await client.start(large)
        await until(lambda: _waits(handle, "signal"))
        fork = await handle.fork(len(await handle.history()) + 1)
        await handle.terminate()
        await handle.delete()
    second = await fork.fork(len(await fork.history()) + 1)
    await fork.terminate()
    await fork.delete()
    async with Worker(client, activities=ACTIVITIES, workflows=[large]):
        await second.signal("go")
        assert await second.result(timeout=30) == 200_000
        assert ran == {"large": 1}


async def test_whoever_finds_it_asks_for_what_is_missing(client: Client) -> None:
    """A client that dies right behind the fork's record leaves the rest to a worker."""
    async with Worker(client, activities=[step], workflows=[journey, child]):
        handle = await client.start(journey.options(id="first"))
        await until(lambda: _waits(handle, "signal"))
    store = client.store
    newest = await store.histories.newest("first")
    assert newest is not None
    records = [each.record for each in await store.histories.read("first", newest)]
    asked = next(event.number for event in await handle.history() if event.kind == "ask_activity")
    start, past = forked(records, asked + 1, Forking(id="fork", life="l1", at=store.connection.now()))
    starting = Starting(id="fork", name="journey", life="l1", nonce="n1", start=start)
    await Starts(store.inbox, store.histories).start(await Forks(store)._owned(starting, past))
    async with Worker(client, activities=[step], workflows=[journey, child]):
        fork = client.workflow("fork")
        await until(lambda: _waits(fork, "signal"))
        await fork.signal("go", "on")
        assert (await fork.result(timeout=30))[-1] == "d"
    command = next(event.id for event in await handle.history() if event.kind == "ask_activity")
    assert [job.id async for job in client.jobs(workflow="fork")].count(key_of("fork", "l1", 1, command)) == 1


async def test_errors_come_before_anything_is_stored(client: Client) -> None:
    """An event that there is not, the end of an ended one, an id that is taken or none, a workflow that is gone."""
    async with Worker(client, activities=[double], workflows=[child, journey]):
        handle = await client.start(journey.options(id="first"))
        for at in (0, 1, 99, "2", True):
            with pytest.raises(InvalidValue, match="at must be the number of an event from 2"):
                await handle.fork(at=at)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="id"):
            await handle.fork(at=2, id="a b")
        with pytest.raises(WorkflowExists) as raised:
            await handle.fork(at=2, id="first")
        assert raised.value.handle.id == "first"
        await handle.terminate()
        ended = len(await handle.history())
        with pytest.raises(InvalidValue, match=f"from 2 to {ended}"):
            await handle.fork(at=ended + 1)
        with pytest.raises(WorkflowNotFound):
            await client.workflow("nobody").fork(at=2)
        assert [info.id async for info in client.workflows()] == ["first"]


# --- children ---------------------------------------------------------------------------------------------------------


@workflow(name="listener")
async def listener() -> str:
    return await current_workflow().receive("go", str)


@workflow(name="patience")
async def patience(named: bool) -> str:
    """Gives up a child, and goes on when it is told to."""
    wf = current_workflow()
    ref = listener.options(id=f"{wf.id}-child") if named else listener
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            return await ref()
    return await wf.receive("go", str)


@pytest.mark.parametrize("named", [True, False])
async def test_a_child_that_was_given_up_is_given_up_in_the_fork(client: Client, named: bool) -> None:
    """Its id may be made of its parent's, which is another one in the fork: the code still asks for the same."""
    async with Worker(client, workflows=[patience, listener]):
        handle = await client.start(patience, named)
        await until(lambda: _waits(handle, "signal"))
        fork = await handle.fork(len(await handle.history()) + 1)
        await fork.signal("go", "on")
        assert await fork.result(timeout=30) == "on"
        await replay(await fork.history(), workflows=[patience, listener])


async def test_a_child_that_is_given_up_later_is_started_again(client: Client) -> None:
    """From before it is given up the fork waits for a child of its own, not for one that is cancelled already."""
    async with Worker(client, workflows=[patience, listener]):
        handle = await client.start(patience.options(id="first"), True)
        await until(lambda: _waits(handle, "signal"))
        await until(lambda: _is(client.workflow("first-child"), WorkflowState.cancelled))
        asked = next(event.number for event in await handle.history() if event.kind == "ask_child")
        fork = await handle.fork(asked + 1)
        await until(lambda: _waits(fork, "signal"))  # by a timeout as well, and not by what became of the other child
        await fork.signal("go", "on")
        assert await fork.result(timeout=30) == "on"


@workflow(name="talk")
async def talk() -> list[str]:
    """Tells its child something, and waits for it."""
    wf = current_workflow()
    other = await wf.start_child(listener)
    await other.signal("go", "told")
    await wf.receive("on", str)
    return [await other.result()]


async def test_a_child_of_its_own_hears_what_was_sent_to_the_one_before(client: Client) -> None:
    """From wherever: what the fork's own child needs to end it gets, and the child before it gets nothing twice."""
    async with Worker(client, workflows=[talk, listener]):
        handle = await client.start(talk)
        await until(lambda: _ended_children(client))
        await until(lambda: _waits(handle, "signal"))
        events = await handle.history()
        told = next(event.number for event in events if event.kind == "ask_signal")
        ended = next(event.number for event in events if event.kind == "done" and event.number > told + 1)
        for at in (told, told + 1, ended):
            fork = await handle.fork(at)
            await fork.signal("on", "")
            assert await fork.result(timeout=30) == ["told"]
        await handle.signal("on", "")
        assert await handle.result(timeout=30) == ["told"]


@workflow(name="telling")
async def telling() -> str:
    """Tells its child something, then does something else before it waits for it."""
    other = await current_workflow().start_child(listener)
    await other.signal("go", "told")
    await asyncio.sleep(1)
    return str(await other.result())


async def test_the_trace_of_a_fork_tells_what_was_only_sent_again() -> None:
    """What had its end in the shared part is sent to the fork's own child, and nobody waits for its end once more."""
    async with WorkflowEnvironment(workflows=[telling, listener]) as env:
        handle = await env.start(telling)
        await handle.result()
        told = next(event.number for event in await handle.history() if event.kind == "ask_signal")
        for at, state in ((told + 1, "completed"), (told + 2, "sent again")):
            fork = await handle.fork(at)
            assert await fork.result() == "told"
            trace = trace_of(await fork.info(), await fork.history(), env.now().timestamp(), None)
            assert [(step.state, step.duration is None) for step in trace.steps if step.kind == "signal"] == [
                (state, state == "sent again")
            ]


async def _ended_children(client: Client) -> bool:
    return [info.state async for info in client.workflows(name="listener")] == [WorkflowState.completed]


@workflow(name="insisting")
async def insisting() -> str:
    """Starts another child where one has failed, under the same id."""
    ref: Any = listener.options(id="child")
    with contextlib.suppress(WorkflowCancelled):
        return str(await ref())
    return str(await ref.options(if_exists="replace")())


async def test_a_child_that_goes_on_in_the_place_of_a_failed_one_is_left_alone(client: Client) -> None:
    """A fork from before the first one failed joins the second one: the workflow before it waits for that."""
    async with Worker(client, workflows=[insisting, listener]):
        handle = await client.start(insisting)
        await until(lambda: _is_there(client, "child"))
        await client.workflow("child").cancel()
        await until(lambda: _has(handle, "ask_child", 2))
        await until(lambda: _is(client.workflow("child"), WorkflowState.running))
        asked = next(event.number for event in await handle.history() if event.kind == "ask_child")
        fork = await handle.fork(asked + 1)
        await client.workflow("child").signal("go", "there")
        assert await handle.result(timeout=30) == "there"
        assert await fork.result(timeout=30) == "there"


async def _is_there(client: Client, workflow_id: str) -> bool:
    return workflow_id in [info.id async for info in client.workflows()]


async def _has(handle: Any, kind: str, count: int) -> bool:
    return [event.kind for event in await handle.history()].count(kind) >= count
