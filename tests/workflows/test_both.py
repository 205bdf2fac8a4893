"""What users see of workflows, the same in the test environment and on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import (
    ACTIVITIES,
    WORKFLOWS,
    Cart,
    Decision,
    approval,
    arithmetic,
    compensating,
    counting,
    double,
    family,
    fatal,
    faulting,
    large,
    patient,
    sleeper,
    third_time,
)
from turnout import (
    Client,
    InvalidArguments,
    RetryPolicy,
    UpdateRejected,
    Worker,
    WorkflowCancelled,
    WorkflowEnded,
    WorkflowExists,
    WorkflowFaulted,
    WorkflowNotFound,
    WorkflowState,
    WorkflowTerminated,
    current_workflow,
    workflow,
)
from turnout.testing import NatsServer, WorkflowEnvironment
from turnout.testing.fixtures import own_namespace


@workflow
async def retried_activity() -> int:
    return await third_time()


@workflow
async def napping(seconds: float) -> None:
    await asyncio.sleep(seconds)


@workflow
class Errands:
    """Its signals are plain functions that begin what takes a while."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.running: set[asyncio.Task[None]] = set()

    @workflow.run
    async def run(self) -> list[str]:
        await current_workflow().wait_for(lambda: len(self.done) == 3)
        return sorted(self.done)

    async def _do(self, what: str) -> None:
        await double(1)
        self.done.append(what)

    @workflow.signal
    def by_a_task(self, what: str) -> None:
        task = asyncio.create_task(self._do(what))
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    @workflow.signal
    def by_a_timer(self, what: str) -> None:
        asyncio.get_running_loop().call_later(0.1, self.done.append, what)

    @workflow.signal
    def by_a_coroutine(self, what: str) -> Coroutine[Any, Any, None]:
        asyncio.get_running_loop().call_later(0.05, print)
        return self._do(what)


OURS = [*WORKFLOWS, retried_activity, napping, Errands]


@pytest.fixture(params=["environment", "server"])
async def client(request: pytest.FixtureRequest, server: NatsServer) -> AsyncIterator[Client]:
    """A client with a worker: in memory, and on a real server."""
    if request.param == "environment":
        async with WorkflowEnvironment(workflows=OURS, activities=ACTIVITIES) as env:
            yield env.client
    else:
        async with (
            own_namespace(server) as connected,
            Worker(connected, activities=ACTIVITIES, workflows=OURS),
        ):
            yield connected


async def test_activities_and_their_jobs(client: Client) -> None:
    """Activities run as jobs that know their workflow; the result is what the code returns."""
    handle = await client.start(arithmetic.options(id="sum", labels={"a": "b"}), 3)
    assert await handle.result(timeout=30) == 19
    jobs = [info async for info in client.jobs(workflow="sum")]
    assert sorted(info.activity for info in jobs) == ["double", "double", "increment"]
    info = await handle.info()
    assert (info.state, info.labels, info.payload, info.result) == ("completed", {"a": "b"}, {"number": 3}, 19)


async def test_timers_and_their_time(client: Client) -> None:
    """A timer is as long as it was asked for, in the workflow's own time."""
    assert 0.3 <= await (await client.start(sleeper, 0.3)).result(timeout=30) < 5


async def test_failures(client: Client) -> None:
    """What leaves `run` faults the workflow, with its info; an activity that fails is retried first."""
    assert await (await client.start(retried_activity)).result(timeout=30) == 3
    assert await (await client.start(compensating)).result(timeout=30) == "ValueError: no stock"
    with pytest.raises(WorkflowFaulted, match="no stock") as caught:
        await (await client.start(faulting, "no stock")).result(timeout=30)
    assert caught.value.info.state == "faulted"
    with pytest.raises(WorkflowFaulted, match="never again"):
        await (await client.start(fatal)).result(timeout=30)
    again = await client.start(faulting.options(retry=RetryPolicy(max_attempts=3, delay=0.05)), "again")
    with pytest.raises(WorkflowFaulted, match="again"):
        await again.result(timeout=30)
    assert (await again.info()).run == 3


async def test_signals_queries_and_updates(client: Client) -> None:
    """A class is talked to while it runs, in order; a rejected update changes nothing."""
    handle = await client.start(Cart.run, "ann")
    await handle.signal(Cart.add, "tea")
    await handle.signal("add", {"item": "milk"})
    assert await handle.query(Cart.count) == 2
    with pytest.raises(UpdateRejected, match="an item has a name"):
        await handle.update(Cart.replace, "")
    assert await handle.update(Cart.replace, "rice") == 1
    await handle.signal("close")
    assert await handle.result(timeout=30) == ["ann's rice"]
    assert await handle.query("count") == 1
    with pytest.raises(WorkflowEnded):
        await handle.signal(Cart.add, "late")


async def test_a_signal_that_is_received(client: Client) -> None:
    """`receive` takes the next signal of its name, typed; it may ride along with the start."""
    handle = await client.start(approval.options(id="a").with_signal("decision", Decision("bob", yes=True)))
    assert await handle.result(timeout=30) == "bob: True"


async def test_signals_that_are_plain_functions(client: Client) -> None:
    """What they begin is named by the signal, each apart; a coroutine that one returns is awaited as its handler's."""
    handle = await client.start(Errands.run)
    await until(lambda: _waits(handle))  # the begin is an input of its own then, and the first that counts
    await handle.signal(Errands.by_a_task, "task")
    await handle.signal(Errands.by_a_timer, "timer")
    await handle.signal(Errands.by_a_coroutine, "coroutine")
    assert await handle.result(timeout=30) == ["coroutine", "task", "timer"]
    asked = {event.id for event in await handle.history() if event.id.startswith("h")}
    assert asked == {"h2.0-0", "h3-0", "h4-0", "h4-1"}


async def test_ends_from_outside(client: Client) -> None:
    """A cancel lets the code clean up, a terminate does not; an unknown id is told."""
    first = await client.start(patient.options(id="first"))
    await until(lambda: _waits(first))
    await first.cancel("enough")
    with pytest.raises(WorkflowCancelled, match="enough"):
        await first.result(timeout=30)
    assert "double" in [info.activity async for info in client.jobs(workflow="first")]
    second = await client.start(approval)
    await second.terminate("closed")
    with pytest.raises(WorkflowTerminated, match="closed"):
        await second.result(timeout=30)
    with pytest.raises(WorkflowNotFound):
        await client.workflow("nobody").info()


async def _waits(handle: Any) -> bool:
    return bool((await handle.info()).waiting)


async def test_children_and_runs(client: Client) -> None:
    """Children give their results or raise; continue-as-new goes on under the same id."""
    assert await (await client.start(family, 1)).result(timeout=30) == 20
    handle = await client.start(counting, 1, 3)
    assert await handle.result(timeout=30) == 3
    assert (await handle.info()).run == 3


async def test_starts(client: Client) -> None:
    """Ids are unique unless joined or replaced; wrong arguments are refused; a start may be delayed."""
    first = await client.start(approval.options(id="one"))
    with pytest.raises(WorkflowExists):
        await client.start(approval.options(id="one"))
    assert (await client.start(approval.options(id="one", if_exists="join"))).id == "one"
    await client.start(approval.options(id="one", if_exists="replace"))
    with pytest.raises(WorkflowNotFound):
        await first.result(timeout=30)
    untyped: Any = client
    with pytest.raises(InvalidArguments):
        await untyped.start(arithmetic, "a", "b", "c")
    delayed = await client.start(arithmetic.options(delay=timedelta(seconds=0.3)), 1)
    assert (await delayed.info()).state == "scheduled"
    assert await delayed.result(timeout=30) == 7


async def test_many_replace_at_once(client: Client) -> None:
    """Of those who replace one at the same time each has its way, one after the other; one of their starts is left."""
    await client.start(approval.options(id="one"))
    replacing = approval.options(id="one", if_exists="replace")

    async def replace(number: int) -> Any:
        for _ in range(5 * number):  # at another step of the one before
            await client.store.histories.newest("one")
        return await client.start(replacing)

    left = 0
    for handle in await asyncio.gather(*map(replace, range(5))):
        try:
            await handle.cancel()
            left += 1
        except WorkflowNotFound:  # its life is over
            pass
    assert left == 1


async def test_a_handle_deletes_its_own_life_alone(client: Client) -> None:
    """Not the one that was started under the same id since."""
    first = await client.start(arithmetic.options(id="again"), 1)
    await first.result(timeout=60)
    await first.delete()
    second = await client.start(arithmetic.options(id="again"), 1)
    await second.result(timeout=60)
    with pytest.raises(WorkflowNotFound, match="started again"):
        await first.delete()
    assert await second.result(timeout=60) == 7


async def test_large_values(client: Client) -> None:
    """Large payloads and results come through, and stand in the history."""
    handle = await client.start(large, 30_000)
    assert await handle.result(timeout=30) == 90_000
    done = [event for event in await handle.history() if event.kind == "done"]
    assert len(done[0].data["result"]) == 90_002


async def test_listing_counting_and_deleting(client: Client) -> None:
    """Workflows are listed by what they have in common, counted by state, and forgotten."""
    for number in range(3):
        await (await client.start(napping.options(id=f"n-{number}", labels={"odd": str(number % 2)}), 0)).result()
    assert [info.id async for info in client.workflows(name="napping", label="odd=1")] == ["n-1"]
    assert (await client.count_workflows(name="napping"))[WorkflowState.completed] == 3
    await client.workflow("n-1").delete()
    assert {info.id async for info in client.workflows(name="napping")} == {"n-0", "n-2"}


async def test_forks_and_retries(client: Client) -> None:
    """A fork goes on from any event, a retry from where it failed; neither runs again what has ended before."""
    first = await client.start(arithmetic, 3)
    assert await first.result(timeout=30) == 19
    events = await first.history()
    for at in (2, 4, 6, len(events)):
        fork = await first.fork(at)
        assert await fork.result(timeout=30) == 19
        known = sum(event.kind == "done" for event in events[: at - 1])
        assert len([job async for job in client.jobs(workflow=fork.id)]) == 3 - known
    failed = await client.start(faulting, "no")
    with pytest.raises(WorkflowFaulted):
        await failed.result(timeout=30)
    again = await failed.retry()
    with pytest.raises(WorkflowFaulted, match="no"):
        await again.result(timeout=30)
    assert len([job async for job in client.jobs(workflow=again.id)]) == 1
