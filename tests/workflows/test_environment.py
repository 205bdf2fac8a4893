"""The test environment: production code over a server in memory, in virtual time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.workflows.definitions import ACTIVITIES, WORKFLOWS, Cart, approval, counting, double, family, large, sleeper
from turnout import (
    History,
    InvalidValue,
    JobFaulted,
    NonDeterminism,
    RetryPolicy,
    WorkflowCancelled,
    WorkflowFaulted,
    WorkflowNotFound,
    WorkflowTerminated,
    activity,
    activity_ref,
    current_workflow,
    workflow,
)
from turnout.testing import NothingCanHappen, WorkflowEnvironment, replay

YEAR = timedelta(days=365)


@activity(retry=RetryPolicy(max_attempts=5, delay=3600, max_delay=7200, jitter=0))
async def charge(amount: int) -> str:
    raise AssertionError("the real one is never called in these tests")


@workflow
async def paying(amount: int) -> str:
    return await charge(amount)


@workflow
async def yearly(times: int) -> list[str]:
    days = []
    for _ in range(times):
        await asyncio.sleep(YEAR.total_seconds())
        days.append(current_workflow().now().date().isoformat())
    return days


@workflow
async def reminding() -> str:
    try:
        async with asyncio.timeout(30 * 24 * 3600):
            return await current_workflow().receive("answer", str)
    except TimeoutError:
        return "no answer"


@workflow
async def broken() -> None:
    raise ZeroDivisionError("a mistake in the code")


@workflow
async def random_path() -> None:
    if os.environ.pop("TURNOUT_TEST_FIRST_TIME", None):
        await asyncio.sleep(1)
    await asyncio.sleep(2)


@workflow
async def parent_of_random() -> None:
    await random_path()


@workflow
async def by_name() -> Any:
    elsewhere = activity_ref("elsewhere")
    return [await elsewhere.execute({"number": 4}), await elsewhere({"number": 5})]


async def test_a_year_passes_at_once() -> None:
    """Time skips to the next timer while a result is awaited, and stands still else."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    async with WorkflowEnvironment(workflows=[yearly], began_at=began) as env:
        handle = await env.start(yearly, 3)
        assert env.now() == began
        assert await handle.result() == ["2027-01-01", "2028-01-01", "2028-12-31"]
        assert env.now() == began + 3 * YEAR


async def test_advancing_stops_at_its_time() -> None:
    """`advance` lets happen what is due meanwhile, and no more."""
    async with WorkflowEnvironment(workflows=[reminding]) as env:
        handle, began = await env.start(reminding), env.now()
        await env.advance(timedelta(days=29))
        assert env.now() == began + timedelta(days=29)
        assert (await handle.info()).state == "running"
        await env.advance(timedelta(days=2))
        assert (await handle.info()).state == "completed"
        assert await handle.result() == "no answer"


async def test_a_signal_in_time() -> None:
    """A signal reaches the code before the time goes on."""
    async with WorkflowEnvironment(workflows=[reminding]) as env:
        handle = await env.start(reminding)
        await env.advance(timedelta(days=1))
        await handle.signal("answer", "yes")
        assert await handle.result() == "yes"


async def test_fakes_stand_for_activities() -> None:
    """A fake keeps the name and options of its activity: a failure is retried after the delay, which is skipped."""
    calls: list[int] = []

    def fake(amount: int) -> str:
        calls.append(amount)
        if len(calls) < 3:
            raise ConnectionError("not yet")
        return f"paid {amount}"

    async with WorkflowEnvironment(workflows=[paying], activities={charge: fake}) as env:
        began = env.now()
        assert await (await env.start(paying, 7)).result() == "paid 7"
        assert calls == [7, 7, 7]
        assert timedelta(hours=2) <= env.now() - began < timedelta(days=1)


@pytest.mark.parametrize(
    "fake",
    [
        lambda euros: f"paid {euros}",
        lambda euros, /: f"paid {euros}",
        lambda **of: f"paid {of['amount']}",
        {7: "paid 7"}.__getitem__,
    ],
    ids=["another name", "no name", "all names", "a builtin"],
)
async def test_a_fake_may_call_its_parameters_as_it_likes(fake: Callable[..., str]) -> None:
    """It is called by the names of its activity's parameters if it takes them, otherwise in their order."""
    async with WorkflowEnvironment(workflows=[paying], activities={charge: fake}) as env:
        assert await (await env.start(paying, 7)).result() == "paid 7"


async def test_a_fake_by_name_and_an_async_one() -> None:
    """What is called by its name alone is faked by its name; a fake may be a coroutine function."""

    async def elsewhere(number: int) -> int:
        await asyncio.sleep(0)
        return number * 10

    async with WorkflowEnvironment(workflows=[by_name], activities={"elsewhere": elsewhere}) as env:
        assert await (await env.start(by_name)).result() == [40, 50]


async def test_a_failing_fake_faults_the_workflow() -> None:
    """The error of an activity that has no attempts left is the workflow's, as on a server."""

    def fake(amount: int) -> str:
        raise ValueError("card stolen")

    async with WorkflowEnvironment(workflows=[paying], activities={charge: fake}) as env:
        with pytest.raises(WorkflowFaulted, match="card stolen"):
            await (await env.start(paying, 7)).result()


async def test_what_would_be_stuck_raises_its_error() -> None:
    """An error that is not the workflow's end comes out of `result()` as it was raised."""
    async with WorkflowEnvironment(workflows=[broken]) as env:
        handle = await env.start(broken)
        with pytest.raises(ZeroDivisionError, match="a mistake in the code"):
            await handle.result()
        assert (await handle.info()).state == "stuck"


async def test_what_can_never_go_on_says_what_it_waits_for() -> None:
    """Where nothing can happen any more, `result()` raises, and names the signal and the line that waits."""
    async with WorkflowEnvironment(workflows=[approval, paying]) as env:
        handle = await env.start(approval)
        with pytest.raises(NothingCanHappen, match=r"nothing can happen any more: it waits for signal decision at def"):
            await handle.result()
        await handle.signal("decision", {"by": "ann", "yes": True})
        assert await handle.result() == "ann: True"
        with pytest.raises(NothingCanHappen, match=r"activity charge .which this environment was not given"):
            await (await env.start(paying, 1)).result()


async def test_code_that_does_not_do_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each workflow that ends is replayed: a difference comes out of `result()`, or of the environment at its end."""
    monkeypatch.setenv("TURNOUT_TEST_FIRST_TIME", "1")
    async with WorkflowEnvironment(workflows=[random_path]) as env:
        with pytest.raises(NonDeterminism, match="timer"):
            await (await env.start(random_path)).result()
    monkeypatch.setenv("TURNOUT_TEST_FIRST_TIME", "1")
    with pytest.raises(NonDeterminism, match="timer"):
        async with WorkflowEnvironment(workflows=[random_path, parent_of_random]) as env:
            await (await env.start(parent_of_random)).result()


async def test_handles_are_those_of_a_client() -> None:
    """Cancel, terminate, info, listing and history work as on a server."""
    async with WorkflowEnvironment(workflows=WORKFLOWS, activities=ACTIVITIES) as env:
        first = await env.start(sleeper.options(id="first"), 3600)
        await first.cancel("enough")
        with pytest.raises(WorkflowCancelled, match="enough"):
            await first.result()
        second = await env.start(Cart.run.options(id="second"), "ann")
        await second.signal(Cart.add, "tea")
        await second.terminate("closed")
        with pytest.raises(WorkflowTerminated):
            await env.workflow("second").result()
        states = {info.id: info.state async for info in env.client.workflows()}
        assert states == {"first": "cancelled", "second": "terminated"}
        assert (await first.history())[0].kind == "started"


async def test_children_and_runs() -> None:
    """Children and continue-as-new work, and are replayed run by run."""
    async with WorkflowEnvironment(workflows=WORKFLOWS, activities=ACTIVITIES) as env:
        assert await (await env.start(family, 1)).result() == 7 + 13
        handle = await env.start(counting, 1, 4)
        assert await handle.result() == 4
        assert (await handle.info()).run == 4


async def test_an_unknown_workflow_is_refused() -> None:
    """A workflow that the environment was not given is refused at the start, with those that it knows."""
    async with WorkflowEnvironment(workflows=[paying]) as env:
        with pytest.raises(InvalidValue, match="sleeper is not among the workflows of this environment: paying"):
            await env.start(sleeper, 1)


async def test_time_waits_for_an_activity_that_works() -> None:
    """While an activity runs the time stands still, and `advance` leaves it running."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def fake(number: int) -> int:
        begun.set()
        await go_on.wait()
        return number

    @workflow
    async def waiting() -> int:
        async with asyncio.timeout(3600):
            return await double(1)

    async with WorkflowEnvironment(workflows=[waiting], activities={double: fake}) as env:
        handle = await env.start(waiting)
        await begun.wait()
        await env.advance(60)
        go_on.set()
        assert await handle.result() == 1
        begun.clear()
        go_on.clear()
        late = await env.start(waiting)
        await begun.wait()
        await env.advance(7200)
        with pytest.raises(WorkflowFaulted) as caught:
            await late.result()
        assert caught.value.info.error is not None
        assert caught.value.info.error.type == "TimeoutError"
        assert issubclass(JobFaulted, Exception)


@activity(retry=RetryPolicy(max_attempts=2, delay=10, jitter=0), timeout=30)
async def slow() -> str:
    raise AssertionError("the real one is never called in these tests")


@workflow
async def patient(option: str) -> list[Any]:
    ref = {"own": slow, "given": slow.options(timeout=100), "expiring": slow.options(expires_in=50)}.get(option)
    try:
        return [await (ref or slow.options(local=True))()]
    except JobFaulted as error:
        info: Any = error.info
        return [info.reason, info.attempt, current_workflow().now().timestamp()]


@pytest.mark.parametrize(
    ("option", "reason", "attempt", "after"),
    [
        ("own", "timed_out", 2, 30 + 10 + 30),
        ("given", "timed_out", 2, 100 + 10 + 100),
        ("expiring", "expired", 2, 50),
        ("local", "timed_out", 2, 30 + 10 + 30),
    ],
)
async def test_attempts_that_take_too_long(option: str, reason: str, attempt: int, after: float) -> None:
    """What limits an attempt is over when so much time has been let pass, each in its turn; and not before."""

    async def hanging() -> str:
        await asyncio.Event().wait()
        return "never"

    async with WorkflowEnvironment(workflows=[patient], activities={slow: hanging}) as env:
        began = env.now().timestamp()
        handle = await env.start(patient, option)
        await env.advance(after - 1)
        assert (await handle.info()).state == "running"
        await env.advance(2)
        assert (await handle.info()).state == "completed"
        *found, ended = await handle.result()
        assert found == [reason, attempt]
        assert ended - began == pytest.approx(after, abs=0.5)


async def test_an_attempt_that_takes_its_real_time_is_not_ended_by_time_that_is_let_pass() -> None:
    """Code of an activity lives in real time: a tenth of a second is no hour."""

    async def unhurried() -> str:
        await asyncio.sleep(0.1)
        return "done"

    async with WorkflowEnvironment(workflows=[patient], activities={slow: unhurried}) as env:
        handle = await env.start(patient, "own")
        await env.advance(3600)
        assert await handle.result() == ["done"]


async def test_an_attempt_in_time_is_not_ended_later() -> None:
    """The limit of one that has ended is over: time that passes afterwards ends nothing."""
    async with WorkflowEnvironment(workflows=[patient], activities={slow: lambda: "quick"}) as env:
        handle = await env.start(patient, "own")
        await env.advance(3600)
        assert await handle.result() == ["quick"]


async def test_a_history_is_replayed_elsewhere() -> None:
    """A history goes into a file and back, large bodies included; changed code is told with both sides."""
    async with WorkflowEnvironment(workflows=WORKFLOWS, activities=ACTIVITIES) as env:
        handle = await env.start(large, 30_000)
        assert await handle.result() == 90_000
        history = await handle.history()
    text = history.to_jsonl()
    again = History.from_jsonl(text)
    assert again == history
    assert again.records == history.records
    await replay(again, workflows=[large])
    await replay(text, workflows=WORKFLOWS)

    @workflow(name="large")
    async def changed(times: int) -> int:
        await double(times)
        return 0

    with pytest.raises(NonDeterminism, match=r"(?s)- 0-0 activity repeat.*\+ 0-0 activity double"):
        await replay(history, workflows=[changed])
    with pytest.raises(WorkflowNotFound, match="of workflow large, which is not among those to replay: paying"):
        await replay(history, workflows=[paying])
    with pytest.raises(InvalidValue, match="no records"):
        await replay("", workflows=[paying])
