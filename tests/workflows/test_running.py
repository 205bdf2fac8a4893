"""Workflows from start to end, on a real server: activities, timers, signals, ends."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
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
    family,
    fatal,
    faulting,
    large,
    patient,
    sleeper,
    timed,
)
from turnout import (
    Client,
    History,
    InvalidArguments,
    RetryPolicy,
    Worker,
    WorkflowCancelled,
    WorkflowEnded,
    WorkflowExists,
    WorkflowFaulted,
    WorkflowHandle,
    WorkflowNotFound,
    WorkflowState,
    WorkflowTerminated,
    current_workflow,
    workflow,
)
from turnout.core.workflows.values import InputKind
from turnout.nats.stream import nak
from turnout.store.inbox import Wakeup
from turnout.testing import replay
from turnout.worker.workflows.code import CodeThread
from turnout.worker.workflows.dispatch import Dispatcher
from turnout.worker.workflows.settling import NO_HISTORY_S, Settling


@pytest.fixture
async def worker(client: Client) -> AsyncIterator[Worker]:
    async with Worker(client, activities=ACTIVITIES, workflows=WORKFLOWS) as started:
        yield started


async def nothing_lies(client: Client) -> bool:
    """Whether all inboxes are empty."""
    info = await client.store.connection.api(
        f"STREAM.INFO.{client.store.names.inbox}", {"subjects_filter": f"{client.namespace}.workflows.>"}
    )
    return not info["state"].get("subjects")


async def test_activities_run_as_jobs_and_their_results_come_back(client: Client, worker: Worker) -> None:
    """Activities are jobs, one after the other or side by side; the result is what the code returns."""
    handle = await client.start(arithmetic, 3)
    assert await handle.result(timeout=30) == 12 + 7
    jobs = [info async for info in client.jobs()]
    assert sorted(info.activity for info in jobs) == ["double", "double", "increment"]
    assert (await handle.info()).state == "completed"


async def test_another_process_awaits_the_result(client: Client, worker: Worker) -> None:
    """A result is what any client of the namespace gets, by the id alone."""
    handle = await client.start(arithmetic.options(id="far"), 3)
    code = (
        "import asyncio, turnout\n"
        "async def main():\n"
        f"    async with turnout.Client.connect({client.connect_options.servers[0]!r}, "
        f"namespace={client.namespace!r}) as client:\n"
        "        print(await client.workflow('far').result(timeout=30))\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "19", done.stderr
    assert await handle.result() == 19


async def test_a_start_by_name_and_a_bare_one(client: Client, worker: Worker) -> None:
    """A workflow starts by its name with a payload, and by a bare publish whose message id becomes its id."""
    handle = await client.start("arithmetic", {"number": 1})
    assert await handle.result(timeout=30) == 7
    connection = client.store.connection
    await connection.store(f"{client.namespace}.workflows.arithmetic", b'{"number": 2}', {"Nats-Msg-Id": "bare-1"})
    assert await until(lambda: _result(client, "bare-1")) == 13


async def _result(client: Client, workflow_id: str) -> int | None:
    try:
        result: int = await client.workflow(workflow_id).result(timeout=30)
    except WorkflowNotFound:
        return None
    return result


async def test_a_timer_is_durable_and_on_time(client: Client, worker: Worker) -> None:
    """`asyncio.sleep` is a timer of the server's, or for a short one the owner's; now() has moved on by as much."""
    handle = await client.start(sleeper, 0.3)
    assert 0.3 <= await handle.result(timeout=30) < 0.8
    longer = await client.start(sleeper, 1.2)
    assert 1.2 <= await longer.result(timeout=30) < 2.0


@workflow
async def drowsy(seconds: float) -> None:
    await asyncio.sleep(seconds)


@pytest.mark.parametrize("seconds", [3e8, 7.6e9, 2.5e11, 1e15, 1e300])
async def test_a_timer_may_be_as_far_away_as_one_likes(client: Client, worker: Worker, seconds: float) -> None:
    """The server can't count to every instant: what is due behind its last one comes no earlier, and can be ended."""
    async with Worker(client, workflows=[drowsy]):
        handle = await client.start(drowsy, seconds)

        async def sleeps() -> bool:
            info = await handle.info()
            return bool(info.waiting) or info.state.final

        await until(sleeps)
        await (await client.start(sleeper, 1.2)).result(timeout=30)  # the server has fired what it took for due
        assert (await handle.info()).state == "running"
        await handle.terminate("enough")
        with pytest.raises(WorkflowTerminated):
            await handle.result(timeout=30)


async def test_a_failed_activity_is_caught_by_the_code(client: Client, worker: Worker) -> None:
    """A faulted activity raises JobFaulted with its JobInfo where it is awaited; the code may go on."""
    handle = await client.start(compensating)
    assert await handle.result(timeout=30) == "ValueError: no stock"


async def test_what_faults_a_workflow(client: Client, worker: Worker) -> None:
    """JobFaulted and Fatal leaving run end the workflow as faulted, with error and info."""
    with pytest.raises(WorkflowFaulted, match="no stock") as caught:
        await (await client.start(faulting, "no stock")).result(timeout=30)
    assert caught.value.info.state == "faulted"
    with pytest.raises(WorkflowFaulted, match="never again"):
        await (await client.start(fatal)).result(timeout=30)


async def test_arguments_that_do_not_fit(client: Client, worker: Worker) -> None:
    """Wrong arguments are refused before anything is stored; a bad payload from outside faults the workflow."""
    untyped: Any = client
    with pytest.raises(InvalidArguments):
        await untyped.start(arithmetic, "three", 4)
    assert [info async for info in client.workflows()] == []
    with pytest.raises(WorkflowFaulted, match="number"):
        await (await client.start("arithmetic", {"number": "x"})).result(timeout=30)


async def test_signals_are_received_in_order(client: Client, worker: Worker) -> None:
    """A function receives a typed signal, also one that came first; one that doesn't fit is dropped."""
    handle = await client.start(approval)
    await handle.signal("decision", {"by": 1})
    await handle.signal("decision", Decision("ann", True))
    assert await handle.result(timeout=30) == "ann: True"


async def test_handlers_take_signals_and_conditions_hold(client: Client, worker: Worker) -> None:
    """Handlers run in the order of the signals, and `wait_for` wakes when its condition holds."""
    handle = await client.start(Cart.run.options(id="c"), "ann")
    for item in ("tea", "cup"):
        await handle.signal(Cart.add, item)
    await handle.signal("close")
    assert await handle.result(timeout=30) == ["ann's tea", "ann's cup"]


async def test_signals_before_any_worker_lives(client: Client) -> None:
    """What was sent before a worker lived finds its handler before run can end."""
    handle = await client.start(Cart.run, "ann")
    await handle.signal(Cart.add, "tea")
    await handle.signal("close")
    async with Worker(client, workflows=[Cart]):
        assert await handle.result(timeout=30) == ["ann's tea"]


async def test_what_rode_along_comes_first(client: Client) -> None:
    """A first signal is taken before what was sent behind it, also where all of that lies there when a worker comes."""
    handle = await client.start(Cart.run.with_signal(Cart.add, "tea"), "ann")
    await handle.signal(Cart.add, "cup")
    await handle.signal("close")
    async with Worker(client, workflows=[Cart]):
        assert await handle.result(timeout=30) == ["ann's tea", "ann's cup"]


async def test_a_first_signal_rides_along(client: Client, worker: Worker) -> None:
    """`with_signal`: start and first signal are stored both; with join a running one gets the signal."""
    ref = Cart.run.options(id="c", if_exists="join")
    handle = await client.start(ref.with_signal(Cart.add, "tea"), "ann")
    again = await client.start(ref.with_signal(Cart.add, "cup"), "ann")
    assert again.id == handle.id
    await handle.signal("close")
    assert await handle.result(timeout=30) == ["ann's tea", "ann's cup"]


async def test_ids_are_unique(client: Client, worker: Worker) -> None:
    """A taken id raises with its handle, joins, or is replaced, whatever the name."""
    first = await client.start(approval.options(id="a"))
    with pytest.raises(WorkflowExists) as caught:
        await client.start(arithmetic.options(id="a"), 1)
    assert caught.value.handle.id == "a"
    joined = await client.start(approval.options(id="a", if_exists="join"))
    replaced = await client.start(arithmetic.options(id="a", if_exists="replace"), 1)
    assert await replaced.result(timeout=30) == 7
    assert joined.id == first.id


@pytest.fixture
def put_off(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how many seconds each input was given back that was."""
    give_back, found = Settling.give_back, list[float]()

    def noted(self: Settling, wakeup: Wakeup, delay_s: float) -> None:
        found.append(delay_s)
        give_back(self, wakeup, delay_s)

    monkeypatch.setattr(Settling, "give_back", noted)
    return found


async def test_what_replaces_another_name_runs_at_once(
    client: Client, worker: Worker, monkeypatch: pytest.MonkeyPatch, put_off: list[float]
) -> None:
    """Where the end of one and the start of the other are handed over together, neither is put off."""
    receive, held = Dispatcher.receive, list[Wakeup]()

    def together(self: Dispatcher, wakeup: Wakeup) -> None:
        held.append(wakeup)
        if wakeup.name == arithmetic.name:
            while held:
                receive(self, held.pop(0))

    monkeypatch.setattr(Dispatcher, "receive", together)
    await client.start(approval.options(id="a"))
    await until(lambda: _number_of(held, 1))
    replaced = await client.start(arithmetic.options(id="a", if_exists="replace"), 1)
    assert await replaced.result(timeout=30) == 7
    assert max(put_off, default=0.0) < 1


@workflow
async def stepping(left: int) -> str:
    if left:
        current_workflow().continue_as_new(left - 1)
    return "done"


async def test_what_ends_or_goes_on_in_one_task_leaves_its_inbox_at_once(client: Client, put_off: list[float]) -> None:
    """A terminate that a worker carries out, and a run that goes on with a new one in its first task."""
    async with Worker(client, workflows=[approval, stepping]):
        waiting = await client.start(approval)
        await until(lambda: _waits(waiting))
        await client.store.inbox.append("approval", waiting.id, InputKind.terminate, b"enough")
        with pytest.raises(WorkflowTerminated):
            await waiting.result(timeout=30)
        assert await (await client.start(stepping, 5)).result(timeout=30) == "done"
        await until(lambda: nothing_lies(client))
    assert max(put_off, default=0.0) < 1


async def _waits(handle: WorkflowHandle[Any]) -> bool:
    return bool((await handle.info()).waiting)


async def _number_of(held: list[Wakeup], number: int) -> bool:
    return len(held) >= number


async def test_cancel_lets_the_code_clean_up(client: Client, worker: Worker) -> None:
    """A cancel reaches the code as CancelledError; it may await an activity; the pending one is cancelled."""
    handle = await client.start(patient)
    await until(lambda: _job(client, "nap", "running"))
    await handle.cancel("enough")
    with pytest.raises(WorkflowCancelled, match="enough"):
        await handle.result(timeout=30)
    assert await until(lambda: _job(client, "nap", "cancelled"))
    assert await _job(client, "double", "completed")
    with pytest.raises(WorkflowEnded):
        await handle.cancel()


async def _job(client: Client, activity: str, state: str) -> bool:
    return bool([info async for info in client.jobs(activity=activity, state=state)])


async def test_terminate_ends_at_once(client: Client, worker: Worker) -> None:
    """Terminating runs no code: the pending job is cancelled, and what comes later is too late."""
    handle = await client.start(patient)
    await until(lambda: _job(client, "nap", "running"))
    await handle.terminate("out")
    with pytest.raises(WorkflowTerminated, match="out"):
        await handle.result(timeout=30)
    assert await until(lambda: _job(client, "nap", "cancelled"))
    with pytest.raises(WorkflowEnded):
        await handle.signal("decision", 1)


async def test_terminate_without_a_worker(client: Client) -> None:
    """With no worker alive the client does all of it; an error says as well that nobody has said why."""
    handle = await client.start(patient)
    await handle.terminate()
    assert (await handle.info()).state is WorkflowState.terminated
    with pytest.raises(WorkflowTerminated, match="was terminated: no reason was given"):
        await handle.result(timeout=30)


async def test_a_timeout_in_the_code(client: Client, worker: Worker) -> None:
    """asyncio.timeout is a durable timer, and the activity that loses is cancelled."""
    assert await (await client.start(timed)).result(timeout=30) == "timed out"
    assert await until(lambda: _job(client, "nap", "cancelled"))


async def test_large_bodies_travel_by_claim_check(client: Client, worker: Worker) -> None:
    """A result of an activity over the threshold reaches the code whole, and replays."""
    assert await (await client.start(large, 100_000)).result(timeout=30) == 300_000


async def test_continue_as_new(client: Client, worker: Worker) -> None:
    """A new run begins with a fresh history, and the result is the last one's."""
    handle = await client.start(counting, 1, 3)
    assert await handle.result(timeout=30) == 3
    info = await handle.info()
    assert info.run == 3
    assert {event.kind for event in await handle.history()} >= {"completed"}


async def test_children(client: Client, worker: Worker) -> None:
    """Workflows called within a workflow are children: results and failures come back, and they name their parent."""
    handle = await client.start(family.options(id="p"), 1)
    assert await handle.result(timeout=30) == 7 + 13
    assert len([info async for info in client.workflows(parent="p")]) == 3


async def test_a_delayed_start(client: Client, worker: Worker) -> None:
    """Until its time no code runs; a cancel ends it without any."""
    handle = await client.start(arithmetic.options(delay=0.5), 1)
    assert (await handle.info()).state is WorkflowState.scheduled
    assert await handle.result(timeout=30) == 7
    never = await client.start(arithmetic.options(delay=60), 1)
    await never.cancel("changed my mind")
    with pytest.raises(WorkflowCancelled, match="changed my mind"):
        await never.result(timeout=30)


async def test_a_workflow_is_tried_again(client: Client, worker: Worker) -> None:
    """With a retry policy a failed run is followed by another; Fatal is not."""
    policy = RetryPolicy(max_attempts=2, delay=0.1)
    handle = await client.start(faulting.options(retry=policy), "no")
    with pytest.raises(WorkflowFaulted):
        await handle.result(timeout=30)
    assert (await handle.info()).run == 2
    once = await client.start(fatal.options(retry=policy))
    with pytest.raises(WorkflowFaulted):
        await once.result(timeout=30)
    assert (await once.info()).run == 1


async def test_the_timeout_of_the_whole_workflow(client: Client, worker: Worker) -> None:
    """It ends faulted with reason "timed_out", and no code runs any more."""
    handle = await client.start(approval.options(timeout=0.5))
    with pytest.raises(WorkflowFaulted):
        await handle.result(timeout=30)
    assert (await handle.info()).reason == "timed_out"


async def test_what_it_waits_for_is_shown(client: Client, worker: Worker) -> None:
    """Info tells the signal that is waited for, and the line of code."""
    handle = await client.start(approval)

    async def waiting() -> list[str]:
        return [f"{wait.kind} {wait.name} {wait.code}" for wait in (await handle.info()).waiting]

    (told,) = await until(waiting)
    assert told.startswith("signal decision definitions.py:")
    assert told.endswith(" approval")


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each turn that the thread of the code is asked for."""
    run, asked = CodeThread.run, list[int]()

    async def counted(self: CodeThread, call: Callable[[], object]) -> object:
        asked.append(1)
        return await run(self, call)

    monkeypatch.setattr(CodeThread, "run", counted)
    return asked


async def test_a_begin_has_the_thread_of_the_code_once(client: Client, worker: Worker, turns: list[int]) -> None:
    """A run without a history has nothing to be led through: its first task is all that the thread is waited for."""
    handle = await client.start(approval)

    async def waits() -> bool:
        return bool((await handle.info()).waiting)

    await until(waits)
    assert len(turns) == 1


async def test_an_end_does_not_wait_for_the_thread_of_the_code(
    client: Client, worker: Worker, turns: list[int]
) -> None:
    """A run that has ended and left nothing to be cleaned up is let go of without it."""
    with pytest.raises(WorkflowFaulted):
        await (await client.start(fatal)).result(timeout=30)
    await until(lambda: nothing_lies(client))
    assert len(turns) == 1


async def test_the_wake_up_of_one_that_ends_in_its_first_task(client: Client, worker: Worker) -> None:
    """It goes with that task: nobody is handed it again to find the workflow ended."""
    settled = list[bytes]()
    listening = client.store.connection
    await listening.subscribe(f"$JS.ACK.{client.store.names.inbox}.>", lambda message: settled.append(message.data))
    for _ in range(3):
        with pytest.raises(WorkflowFaulted):
            await (await client.start(fatal)).result(timeout=30)
    await until(lambda: nothing_lies(client))
    await listening.flush()
    too_early = {nak(NO_HISTORY_S[0] * 2**number) for number in range(5)}  # it may be there before its record 0
    assert [each for each in settled if each != b"+WPI" and each not in too_early] == [b"+ACK"] * 3


async def test_deleting(client: Client, worker: Worker) -> None:
    """An ended one is forgotten, and its id starts anew."""
    handle = await client.start(arithmetic.options(id="d"), 1)
    await handle.result(timeout=30)
    await handle.delete()
    with pytest.raises(WorkflowNotFound):
        await handle.info()
    again = await client.start(arithmetic.options(id="d"), 2)
    assert await again.result(timeout=30) == 13


async def test_history_is_readable_and_travels(client: Client, worker: Worker) -> None:
    """The events tell what happened, numbered; as JSON lines they come back the same."""
    handle = await client.start(arithmetic, 3)
    await handle.result(timeout=30)
    history = await handle.history()
    assert [event.number for event in history] == list(range(1, len(history) + 1))
    assert history[0].kind == "started"
    assert history[-1].kind == "completed"
    assert type(history).from_jsonl(history.to_jsonl()) == history
    assert json.loads(history.to_jsonl().splitlines()[0])["kind"] == "start"


async def test_an_exported_history_is_all_that_a_replay_needs(client: Client, worker: Worker) -> None:
    """As JSON lines it comes back the same to the last record: faults, large results, whatever a text may hold."""
    odd = "a\u2028b\x85c\x1cd\re\n"
    handles: list[WorkflowHandle[Any]] = [
        await client.start(large, 40_000),
        await client.start(approval),
        await client.start(compensating),
    ]
    await handles[1].signal("decision", Decision(odd, True))
    for handle in handles:
        await handle.result(timeout=30)
        history = await handle.history()
        text = history.to_jsonl()
        await handle.delete()
        again = History.from_jsonl(text)
        assert (again, again.records) == (history, history.records)
        assert again.to_jsonl() == text
        await replay(text, workflows=[large, approval, compensating])


async def test_listing_and_counting(client: Client, worker: Worker) -> None:
    """Workflows are listed newest first, by state, name and label."""
    one = await client.start(arithmetic.options(labels={"region": "eu"}), 1)
    await one.result(timeout=30)
    two = await client.start(approval)
    assert [info.id async for info in client.workflows()] == [two.id, one.id]
    assert [info.id async for info in client.workflows(label="region=eu")] == [one.id]
    assert [info.id async for info in client.workflows(name=approval)] == [two.id]
    counted = await client.count_workflows()
    assert (counted[WorkflowState.completed], counted[WorkflowState.running]) == (1, 1)


async def test_an_unknown_id(client: Client) -> None:
    """Asking for, or signalling, what nobody has started says so, and stores nothing."""
    with pytest.raises(WorkflowNotFound):
        await client.workflow("nobody").signal("go")
    with pytest.raises(WorkflowNotFound):
        await client.workflow("nobody").result(timeout=30)


async def test_nothing_is_left_behind(client: Client, worker: Worker) -> None:
    """Ended workflows leave nothing in their inboxes but the schedules of their collection."""
    handles = [await client.start(arithmetic, number) for number in range(20)]
    await asyncio.gather(*(handle.result(timeout=30) for handle in handles))
    assert await until(lambda: nothing_lies(client))
