"""Runs and ends: continue-as-new, retries, timeouts, cancellation, delays, deletion, the end of retention."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from tests.support.waiting import until
from tests.workflows.definitions import approval, arithmetic, double, increment, nap, patient, refuse
from turnout import (
    Client,
    Fatal,
    InvalidState,
    JobCancelled,
    RetryPolicy,
    Worker,
    WorkflowCancelled,
    WorkflowEnded,
    WorkflowFaulted,
    WorkflowNotFound,
    WorkflowState,
    WorkflowTerminated,
    activity,
    current_job,
    current_workflow,
    workflow,
)


@workflow
async def draining(heard: list[str]) -> list[str]:
    """Receives one signal in each run; the others go over."""
    wf = current_workflow()
    if wf.run == 1:
        await wf.receive("start")
    heard = [*heard, await wf.receive("item", str)]
    if len(heard) < 3:
        wf.continue_as_new(heard)
    return heard


@workflow
async def flaky(need: int) -> str:
    wf = current_workflow()
    if wf.run < need:
        await refuse(f"run {wf.run}")
    return f"run {wf.run} after {wf.last_failure.message if wf.last_failure else 'nothing'}"


@workflow
async def hopeless() -> None:
    raise Fatal(f"run {current_workflow().run}")


@activity(lease=1)
async def stubborn(seconds: float) -> str:
    """Takes a cancel as a reason to finish, with a result."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        return f"stopped: {current_job().cancel_reason is not None}"
    return "slept"


@workflow
async def cancelling(how: Any) -> str:
    try:
        return f"slept {await nap.options(cancellation=how)(30)} s"
    except JobCancelled:
        return "the activity was cancelled"


@workflow
async def careful() -> str:
    """Needs a while to clean up, and says in its details how far it has come."""
    wf = current_workflow()
    try:
        await nap(30)
    finally:
        wf.set_details("cleaning up")
        await wf.receive("clean")
        await double(1)
        wf.set_details("cleaned up")
    return "?"


@workflow
async def survivor() -> str:
    try:
        await nap(30)
    except asyncio.CancelledError:
        return f"because of {current_workflow().cancel_reason}"
    return "?"


@workflow(retention=3)
async def brief(number: int) -> int:
    return await double(number)


@workflow
async def eternal(run: int) -> None:
    await asyncio.sleep(0.1)
    current_workflow().continue_as_new(run + 1)


RUNS: list[Any] = [
    *(draining, flaky, hopeless, cancelling, careful, survivor, brief, eternal),
    *(approval, arithmetic, patient),
]


@pytest.fixture
async def worker(client: Client) -> AsyncIterator[Worker]:
    async with Worker(client, activities=[double, increment, nap, refuse, stubborn], workflows=RUNS) as started:
        yield started


async def _job(client: Client, activity: str, state: str) -> bool:
    return bool([info async for info in client.jobs(activity=activity, state=state)])


async def _details(client: Client, workflow_id: str, details: str) -> bool:
    return (await client.workflow(workflow_id).info()).details == details


async def test_unreceived_signals_go_over_to_the_next_run(client: Client, worker: Worker) -> None:
    """Signals that a run has taken and nobody received are received by the next runs, in order, each once."""
    handle = await client.start(draining, [])
    for item in ("a", "b", "c"):
        await handle.signal("item", item)
    await handle.signal("start")
    assert await handle.result(timeout=30) == ["a", "b", "c"]
    assert (await handle.info()).run == 3


async def test_a_failed_run_is_followed_by_another(client: Client, worker: Worker) -> None:
    """`retry` begins a new run after its delay, with the same arguments and the failure of the run before."""
    policy = RetryPolicy(max_attempts=3, delay=0.1, jitter=0)
    handle = await client.start(flaky.options(retry=policy), 3)
    assert await handle.result(timeout=30) == "run 3 after activity refuse faulted: run 2"
    tired = await client.start(flaky.options(retry=policy), 9)
    with pytest.raises(WorkflowFaulted, match="run 3"):
        await tired.result(timeout=30)
    assert (await tired.info()).run == 3


async def test_fatal_is_not_tried_again(client: Client, worker: Worker) -> None:
    """Fatal ends a workflow whatever its retry says."""
    handle = await client.start(hopeless.options(retry=RetryPolicy(max_attempts=3, delay=0.1)))
    with pytest.raises(WorkflowFaulted, match="run 1"):
        await handle.result(timeout=30)


async def test_a_cancel_ends_the_wait_for_a_retry(client: Client, worker: Worker) -> None:
    """A workflow whose next run has not begun is cancelled without its code; meanwhile it is running, and waits."""
    handle = await client.start(flaky.options(retry=RetryPolicy(max_attempts=3, delay=600)), 3)

    async def waits() -> bool:
        info = await handle.info()
        return info.run == 2 and info.state is WorkflowState.running

    await until(waits)
    await handle.cancel("enough")
    with pytest.raises(WorkflowCancelled, match="enough"):
        await handle.result(timeout=30)


@pytest.mark.parametrize(("how", "left"), [("try", "cancelled"), ("abandon", "running")])
async def test_what_a_cancel_does_to_a_pending_activity(client: Client, worker: Worker, how: str, left: str) -> None:
    """By default its job is asked to cancel; abandoned it goes on. The workflow is cancelled at once."""
    handle = await client.start(cancelling, how)
    await until(lambda: _job(client, "nap", "running"))
    await handle.cancel("enough")
    with pytest.raises(WorkflowCancelled, match="enough"):
        await handle.result(timeout=30)
    assert await until(lambda: _job(client, "nap", left))
    if left == "running":
        for info in [info async for info in client.jobs(activity="nap")]:
            await client.job(info.id).cancel()


async def test_a_cancel_that_waits_for_the_activity(client: Client, worker: Worker) -> None:
    """cancellation="wait": the code goes on with what really became of the activity."""
    handle = await client.start(cancelling, "wait")
    await until(lambda: _job(client, "nap", "running"))
    await handle.cancel("enough")
    assert await handle.result(timeout=30) == "the activity was cancelled"


async def test_a_second_cancel_does_not_disturb_the_cleaning_up(client: Client, worker: Worker) -> None:
    """A workflow is asked to cancel once: a cancel that comes while it cleans up changes nothing."""
    handle = await client.start(careful)
    await until(lambda: _job(client, "nap", "running"))
    await handle.cancel("one")
    await until(lambda: _details(client, handle.id, "cleaning up"))
    await handle.cancel("two")
    await handle.signal("clean")
    with pytest.raises(WorkflowCancelled, match="one"):
        await handle.result(timeout=30)
    assert (await handle.info()).details == "cleaned up"


async def test_code_may_return_after_a_cancel(client: Client, worker: Worker) -> None:
    """A workflow that catches the cancel and returns is completed, and knows the reason."""
    handle = await client.start(survivor)
    await until(lambda: _job(client, "nap", "running"))
    await handle.cancel("rain")
    assert await handle.result(timeout=30) == "because of rain"


async def test_terminate_ends_the_cleaning_up(client: Client, worker: Worker) -> None:
    """Terminate does not wait for code."""
    handle = await client.start(careful)
    await until(lambda: _job(client, "nap", "running"))
    await handle.cancel("one")
    await until(lambda: _details(client, handle.id, "cleaning up"))
    await handle.terminate("now")
    with pytest.raises(WorkflowTerminated, match="now"):
        await handle.result(timeout=30)


async def test_the_timeout_of_the_whole_workflow(client: Client, worker: Worker) -> None:
    """It ends whatever run there is, continue-as-new included, as faulted with the reason timed_out."""
    handle = await client.start(eternal.options(timeout=1), 1)
    with pytest.raises(WorkflowFaulted, match="within its timeout") as caught:
        await handle.result(timeout=30)
    assert caught.value.info.reason == "timed_out"
    assert caught.value.info.run > 2
    quick = await client.start(arithmetic.options(timeout=1), 1)
    assert await quick.result(timeout=30) == 7

    async def cleared() -> bool:
        subjects = {"subjects_filter": f"{client.namespace}.wftimers.*.{quick.id}.>"}
        info = await client.store.connection.api(f"STREAM.INFO.{client.store.names.inbox}", subjects)
        return [subject.rpartition(".")[2] for subject in info["state"].get("subjects") or {}] == ["gc"]

    assert await until(cleared)


async def test_a_timeout_without_a_worker(client: Client, server: Any) -> None:
    """A timeout that came while nobody worked counts as soon as somebody does."""
    handle = await client.start(approval.options(timeout=1))
    await until(lambda: _timer_fired(client))
    async with Worker(client, workflows=[approval]):
        with pytest.raises(WorkflowFaulted, match="within its timeout"):
            await handle.result(timeout=30)


async def _timer_fired(client: Client) -> bool:
    subjects = {"subjects_filter": f"{client.namespace}.workflows.*.*.timer.>"}
    info = await client.store.connection.api(f"STREAM.INFO.{client.store.names.inbox}", subjects)
    return bool(info["state"].get("subjects"))


async def test_a_delayed_start_takes_signals_before_it_begins(client: Client, worker: Worker) -> None:
    """What reaches a scheduled workflow is there when its code begins, and is not lost."""
    handle = await client.start(approval.options(delay=1))
    await handle.signal("decision", {"by": "ann", "yes": True})
    assert (await handle.info()).state is WorkflowState.scheduled
    assert await handle.result(timeout=30) == "ann: True"


async def test_a_deleted_workflow_is_gone(client: Client, worker: Worker) -> None:
    """delete() forgets an ended one only; its id is free then, and the new life has nothing of the old one."""
    handle = await client.start(approval.options(id="a"))
    with pytest.raises(InvalidState, match="running"):
        await handle.delete()
    await handle.signal("decision", {"by": "ann", "yes": True})
    await handle.result(timeout=30)
    await handle.delete()
    with pytest.raises(WorkflowNotFound):
        await handle.info()
    assert [info.id async for info in client.workflows()] == []
    again = await client.start(arithmetic.options(id="a"), 1)
    assert await again.result(timeout=30) == 7
    with pytest.raises(WorkflowNotFound):
        await handle.result(timeout=30)


async def test_after_its_retention_nothing_is_left(client: Client, worker: Worker) -> None:
    """A history goes as a whole after its retention, with inbox and timers; the id is free again."""
    handle = await client.start(brief.options(id="b"), 2)
    assert await handle.result(timeout=30) == 4

    async def gone() -> bool:
        connection, names = client.store.connection, client.store.names
        counts = [
            (await connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"]
            for stream in (names.history, names.inbox)
        ]
        return counts == [0, 0]

    assert await until(gone)
    with pytest.raises(WorkflowNotFound):
        await handle.info()
    assert await (await client.start(brief.options(id="b"), 3)).result(timeout=30) == 6


async def test_what_comes_after_the_end(client: Client, worker: Worker) -> None:
    """Cancel, signal and terminate of an ended one change nothing and say so."""
    handle = await client.start(arithmetic, 1)
    await handle.result(timeout=30)
    before = await handle.info()
    for act in (handle.cancel(), handle.signal("x", 1), handle.terminate()):
        with pytest.raises(WorkflowEnded):
            await act
    assert await handle.info() == before


async def test_join_and_replace_by_a_client(client: Client, worker: Worker) -> None:
    """Joining returns the one that is there, ended or not; replacing ends it and begins another."""
    first = await client.start(approval.options(id="a"))
    joined = await client.start(approval.options(id="a", if_exists="join"))
    await joined.signal("decision", {"by": "ann", "yes": True})
    assert await first.result(timeout=30) == "ann: True"
    ended = await client.start(approval.options(id="a", if_exists="join"))
    assert await ended.result(timeout=30) == "ann: True"
    anew = await client.start(approval.options(id="a", if_exists="replace"))
    assert (await anew.info()).state is WorkflowState.running
    with pytest.raises(WorkflowNotFound):
        await first.result(timeout=timedelta(seconds=1))


async def test_all_that_match_are_ended(client: Client) -> None:
    """cancel_workflows and terminate_workflows take open ones alone, and nobody acts on all by mistake."""
    for number in range(6):
        await client.start(approval.options(id=f"w{number}", labels={"half": str(number // 3)}))
    await client.workflow("w0").terminate()
    assert await client.terminate_workflows(label="half=0", reason="wrong") == 2
    assert (await client.workflow("w1").info()).reason == "wrong"
    assert await client.cancel_workflows(name=approval, state="running", reason="enough") == 3
    assert (await client.workflow("w5").info()).cancel_requested is None
    async with Worker(client, workflows=[approval]):
        for number in range(3, 6):
            with pytest.raises(WorkflowCancelled, match="enough"):
                await client.workflow(f"w{number}").result(timeout=30)
    assert await client.cancel_workflows(since=3600) == 0
    unclear: list[dict[str, Any]] = [{}, {"name": None}, {"state": "completed"}, {"state": "odd"}]
    for filters in unclear:
        with pytest.raises(ValueError, match=r"which workflows|state must be"):
            await client.cancel_workflows(**filters)
    misspelt: dict[str, Any] = {"lable": "half=1"}
    with pytest.raises(TypeError, match="there is no filter lable; these are state, name"):
        await client.terminate_workflows(**misspelt)
