"""Updates: asked by any client, checked, run as handlers, answered once and for good."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.waiting import until
from turnout import (
    Client,
    Fatal,
    InvalidArguments,
    InvalidState,
    RetryPolicy,
    UpdateFailed,
    UpdateRejected,
    Worker,
    WorkflowEnded,
    WorkflowExists,
    WorkflowHandle,
    WorkflowNotFound,
    activity,
    current_workflow,
    update_ref,
    workflow,
    workflow_ref,
)
from turnout.testing import WorkflowEnvironment


@activity
async def charge(amount: int) -> str:
    return f"paid {amount}"


@workflow
class Till:
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.sum = 0
        self.log: list[str] = []
        self.lock = asyncio.Lock()
        self.open = True

    @workflow.run
    async def run(self, owner: str) -> int:
        await current_workflow().wait_for(lambda: not self.open)
        return self.sum

    @workflow.update
    async def pay(self, amount: int) -> str:
        async with self.lock:
            self.log.append(f"begin {amount}")
            answer = await charge(amount)
            self.sum += amount
            self.log.append(f"end {amount}")
        return answer

    @pay.validator
    def may_pay(self, amount: int) -> None:
        if amount <= 0:
            raise ValueError(f"{amount} is no amount")

    @workflow.update
    def add(self, amount: int) -> int:
        self.sum += amount
        return self.sum

    @workflow.update
    async def until_sum(self, least: int) -> list[str]:
        await current_workflow().wait_for(lambda: self.sum >= least)
        return self.log

    @workflow.update
    async def refuse(self) -> None:
        raise Fatal("not with me")

    @workflow.update
    async def close(self) -> int:
        self.open = False
        return self.sum

    @workflow.update
    async def again(self) -> int:
        current_workflow().continue_as_new(self.owner)

    @workflow.signal
    def end(self) -> None:
        self.open = False


@workflow
class Temper:
    """Raises what is seldom raised: what has no text, holds others, or is no Exception."""

    @workflow.run
    async def run(self) -> str:
        word: str = await current_workflow().receive("word", str)
        return word

    @workflow.update
    async def break_off(self, how: str) -> None:
        raise ODD[how]

    @workflow.update
    async def ask(self, how: str) -> None:
        """Never comes here: see below."""

    @ask.validator
    def refuse(self, how: str) -> None:
        raise ODD[how]


@workflow
class Careful:
    """Ends when no handler runs any more."""

    def __init__(self) -> None:
        self.began = 0
        self.asked = False

    @workflow.run
    async def run(self) -> int:
        wf = current_workflow()
        await wf.wait_for(lambda: self.asked)
        await wf.wait_for(wf.all_handlers_finished)
        return self.began

    @workflow.update
    async def work(self, amount: int) -> str:
        self.began += 1
        assert current_workflow().all_handlers_finished() == (self.began == 1)
        return await charge(amount)

    @workflow.signal
    def end(self) -> None:
        self.asked = True


@workflow
class Meter:
    """Counts, in runs of a few updates each, and loses none."""

    def __init__(self, sum: int, runs: int) -> None:
        self.sum = sum
        self.counted = 0
        self.closed = False

    @workflow.run
    async def run(self, sum: int, runs: int) -> tuple[int, int]:
        wf = current_workflow()
        await wf.wait_for(lambda: self.counted >= 3 or self.closed)
        await wf.wait_for(wf.all_handlers_finished)
        if not self.closed:
            wf.continue_as_new(self.sum, runs + 1)
        return self.sum, runs

    @workflow.update
    async def count(self, number: int) -> int:
        self.counted += 1
        await asyncio.sleep(0.01)
        self.sum += number
        return number

    @workflow.update
    def text(self, size: int) -> str:
        return "x" * size

    @workflow.update
    def mistake(self) -> int:
        return 1 // 0

    @workflow.signal
    def close(self) -> None:
        self.closed = True


@workflow
class Restless:
    """Its first run fails with an update at work."""

    def __init__(self) -> None:
        self.taken = False

    @workflow.run
    async def run(self) -> str:
        wf = current_workflow()
        await wf.wait_for(lambda: self.taken)
        if wf.run == 1:
            raise TimeoutError("the first run fails")
        return "done"

    @workflow.update
    async def take(self, long: bool) -> str:
        self.taken = True
        if long:
            await asyncio.sleep(600)
        return f"taken in run {current_workflow().run}"


@workflow
async def bare() -> str:
    word: str = await current_workflow().receive("word", str)
    return word


ODD: dict[str, BaseException] = {
    "silent": TimeoutError(),
    "many": ExceptionGroup("both", [Fatal("one"), ExceptionGroup("inner", [Fatal("two"), TimeoutError()])]),
    "cancelled": asyncio.CancelledError(),
    "exit": SystemExit(3),
}

ALL: list[Any] = [Till, Temper, Careful, Meter, Restless, bare]


@pytest.fixture
async def worker(client: Client) -> AsyncIterator[Worker]:
    async with Worker(client, activities=[charge], workflows=ALL) as started:
        yield started


async def test_an_update_changes_something_and_answers(client: Client, worker: Worker) -> None:
    """The handler's return value comes back typed, whether it is a coroutine that runs activities or a plain method."""
    handle = await client.start(Till.run, "ann")
    assert await handle.update(Till.pay, 7) == "paid 7"
    assert await handle.update(Till.add, 1) == 8
    assert await handle.update("add", {"amount": 2}) == 10
    await handle.signal(Till.end)
    assert await handle.result(timeout=30) == 10


async def test_a_validator_rejects_and_nothing_has_changed(client: Client, worker: Worker) -> None:
    """Whatever the validator raises is UpdateRejected with its message; the state is what it was."""
    handle = await client.start(Till.run, "ann")
    with pytest.raises(UpdateRejected, match="-1 is no amount"):
        await handle.update(Till.pay, -1)
    assert await handle.update(Till.add, 0) == 0
    kinds = [event.kind for event in await handle.history()]
    assert "update_rejected" in kinds
    assert "ask_activity" not in kinds


async def test_what_a_handler_raises_fails_the_update_alone(client: Client, worker: Worker) -> None:
    """What would fault the workflow in run is the caller's UpdateFailed; the workflow goes on."""
    handle = await client.start(Till.run, "ann")
    with pytest.raises(UpdateFailed, match="not with me"):
        await handle.update(Till.refuse)
    assert (await handle.info()).state == "running"
    assert await handle.update(Till.add, 3) == 3


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("silent", "TimeoutError"),
        ("many", "both: one; two; TimeoutError"),
        ("cancelled", "CancelledError"),
        ("exit", "3"),
    ],
)
async def test_whatever_is_raised_is_told(client: Client, worker: Worker, how: str, told: str) -> None:
    """The answer says what was raised, also without a text of its own, and a validator may raise anything at all."""
    handle = await client.start(Temper.run)
    with pytest.raises(UpdateRejected, match=f"was rejected: {told}$"):
        await handle.update(Temper.ask, how)
    if how != "exit":
        with pytest.raises(UpdateFailed, match=f"failed: {told}$"):
            await handle.update(Temper.break_off, how)
    await handle.signal("word", "well")
    assert await handle.result(timeout=60) == "well"


async def test_unknown_names_and_misfitting_arguments(client: Client, worker: Worker) -> None:
    """An unknown update lists the known ones; a payload that doesn't fit says where; typed ones fail at the caller."""
    handle = await client.start(Till.run, "ann")
    with pytest.raises(UpdateFailed, match="known: add, again, close, pay, refuse, until_sum"):
        await handle.update("nothing")
    with pytest.raises(UpdateFailed, match="amount"):
        await handle.update("add", {"amount": "x"})
    untyped: Any = handle
    with pytest.raises(InvalidArguments):
        await untyped.update(Till.add, 1, 2)
    function = await client.start(bare)
    with pytest.raises(UpdateFailed, match="known: none"):
        await function.update("add", {})
    assert (await handle.info()).state == "running"


async def test_an_update_of_one_id_is_done_once(client: Client, worker: Worker) -> None:
    """Sent again, after the workflow's end too, an id gets its first answer; nothing is done twice."""
    handle = await client.start(Till.run.options(id="t"), "ann")
    assert await handle.update(Till.add.options(id="u1"), 5) == 5
    assert await handle.update(Till.add.options(id="u1"), 5) == 5
    first, second = await asyncio.gather(
        handle.start_update(Till.pay.options(id="u2"), 4), handle.start_update(Till.pay.options(id="u2"), 4)
    )
    assert (first.id, second.id) == ("u2", "u2")
    assert await first.result(timeout=30) == await second.result(timeout=30) == "paid 4"
    assert await handle.update(Till.close) == 9
    assert await handle.result(timeout=30) == 9
    assert await client.workflow("t").update(Till.add.options(id="u1"), 5) == 5
    with pytest.raises(WorkflowEnded):
        await handle.update(Till.add.options(id="u3"), 5)
    with pytest.raises(WorkflowEnded):
        await handle.update(Till.add, 5)
    with pytest.raises(WorkflowNotFound):
        await client.workflow("nothing").update("add", {"amount": 1})


async def test_an_answer_outlives_continue_as_new(client: Client, worker: Worker) -> None:
    """The next run remembers what was answered; an update that the run's end has broken off has failed."""
    handle = await client.start(Till.run, "ann")
    assert await handle.update(Till.add.options(id="u1"), 5) == 5
    waiting = await handle.start_update(Till.until_sum.options(id="u2"), 100)
    with pytest.raises(UpdateFailed, match="before the update was finished"):
        await handle.update(Till.again)
    with pytest.raises(UpdateFailed, match="run of the workflow has ended"):
        await waiting.result(timeout=30)
    assert (await handle.info()).run == 2
    assert await handle.update(Till.add.options(id="u1"), 5) == 5
    with pytest.raises(UpdateFailed, match="run of the workflow has ended"):
        await handle.update(Till.until_sum.options(id="u2"), 100)
    assert await handle.update(Till.add, 1) == 1, "the new run begins with a sum of its own"


async def test_updates_before_a_worker_lives(client: Client) -> None:
    """An update is stored at once and waits for a worker; its result has a timeout that leaves it as it is."""
    handle = await client.start(Till.run, "ann")
    update = await handle.start_update(Till.pay, 7)
    with pytest.raises(TimeoutError, match="not answered within"):
        await update.result(timeout=0.1)
    async with Worker(client, activities=[charge], workflows=ALL):
        assert await update.result(timeout=30) == "paid 7"
        assert await update.result() == "paid 7"


async def test_another_process_updates(client: Client, worker: Worker) -> None:
    """An update is asked by any client of the namespace, by the names alone."""
    await client.start(Till.run.options(id="far"), "ann")
    code = (
        "import asyncio, turnout\n"
        "async def main():\n"
        f"    async with turnout.Client.connect({client.connect_options.servers[0]!r}, "
        f"namespace={client.namespace!r}) as client:\n"
        "        print(await client.workflow('far').update('pay', {'amount': 3}))\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "paid 3", done.stderr


async def test_a_handler_waits_for_what_another_does(client: Client, worker: Worker) -> None:
    """Conditions wake handlers too, and a lock keeps handlers apart over the activities that they await."""
    handle = await client.start(Till.run, "ann")
    waiting = await handle.start_update(Till.until_sum, 6)
    await asyncio.gather(*(handle.update(Till.pay, amount) for amount in (1, 2, 3)))
    log = await waiting.result(timeout=30)
    begins, ends = log[::2], log[1::2]
    assert len(log) == 6
    assert [each.removeprefix("begin ") for each in begins] == [each.removeprefix("end ") for each in ends]


async def test_the_end_with_handlers_running(client: Client, worker: Worker) -> None:
    """An update that the end of its workflow breaks off has failed; one in the same breath as the end is answered."""
    handle = await client.start(Till.run, "ann")
    waiting = await handle.start_update(Till.until_sum, 100)
    await until(lambda: _accepted(client, handle.id))
    assert await handle.update(Till.close) == 0
    with pytest.raises(UpdateFailed, match="has ended before the update was finished"):
        await waiting.result(timeout=30)
    other = await client.start(Till.run, "bob")
    taken = await other.start_update(Till.until_sum, 100)
    await until(lambda: _accepted(client, other.id))
    await other.terminate("enough")
    with pytest.raises(UpdateFailed, match="ended"):
        await taken.result(timeout=30)


async def _accepted(client: Client, workflow_id: str) -> bool:
    return "update_accepted" in [event.kind for event in await client.workflow(workflow_id).history()]


async def test_an_update_that_nobody_took_before_the_end(client: Client) -> None:
    """Stored while nobody works and never taken, since the workflow was terminated: WorkflowEnded from its result."""
    handle = await client.start(Till.run, "ann")
    update = await handle.start_update(Till.add, 1)
    await handle.terminate("enough")
    with pytest.raises(WorkflowEnded, match="before update add reached it"):
        await update.result(timeout=30)


async def test_all_handlers_finished(client: Client, worker: Worker) -> None:
    """`run` can wait until no handler runs: every update is answered, then the workflow ends."""
    handle = await client.start(Careful.run)
    updates = [await handle.start_update(Careful.work, 1), await handle.start_update(Careful.work, 2)]
    await handle.signal(Careful.end)
    assert [await each.result(timeout=30) for each in updates] == ["paid 1", "paid 2"]
    assert await handle.result(timeout=30) == 2


async def test_a_start_with_its_first_update(client: Client, worker: Worker) -> None:
    """The update rides along with the start and is applied before run begins; its answer is the handle's."""
    handle = await client.start(Till.run.options(id="c").with_update(Till.add, 4), "ann")
    assert await handle.first_update.result(timeout=30) == 4
    with pytest.raises(WorkflowExists):
        await client.start(Till.run.options(id="c").with_update(Till.add, 4), "ann")
    joined = await client.start(Till.run.options(id="c", if_exists="join").with_update(Till.add, 3), "ann")
    assert await joined.first_update.result(timeout=30) == 7
    by_name = await client.start(Till.run.options(id="c", if_exists="join").with_update("pay", {"amount": 0}), "ann")
    with pytest.raises(UpdateRejected, match="0 is no amount"):
        await by_name.first_update.result(timeout=30)
    await handle.update(Till.close)
    await handle.result(timeout=30)
    anew = await client.start(Till.run.options(id="c", if_exists="join").with_update(Till.add, 2), "ann")
    assert await anew.first_update.result(timeout=30) == 2, "an ended one is begun anew"
    with pytest.raises(InvalidState, match="with_update"):
        _ = client.workflow("c").first_update


async def test_the_first_update_counts_once(client: Client, worker: Worker) -> None:
    """An update that rode along with the start is not done again when it is sent by its id."""
    handle = await client.start(Till.run.with_update(Till.add.options(id="u1"), 4), "ann")
    assert await handle.update(Till.add.options(id="u1"), 4) == 4
    assert await handle.update(Till.add, 1) == 5


async def test_no_update_is_lost_over_many_runs(client: Client, worker: Worker) -> None:
    """Updates that come while runs end and begin are each done once, by one run or the next, and all are answered."""
    handle = await client.start(Meter.run, 0, 1)
    numbers = list(range(1, 31))
    assert await asyncio.gather(*(handle.update(Meter.count, number) for number in numbers)) == numbers
    await handle.signal(Meter.close)
    total, runs = await handle.result(timeout=30)
    assert total == sum(numbers)
    assert runs > 1


async def test_an_update_that_the_retry_of_its_workflow_breaks_off(client: Client, worker: Worker) -> None:
    """A run that fails takes its unfinished updates with it; the next run takes new ones."""
    policy = RetryPolicy(max_attempts=2, delay=0.1)
    handle = await client.start(Restless.run.options(retry=policy))
    with pytest.raises(UpdateFailed, match="the run of the workflow has ended before the update was finished"):
        await handle.update(Restless.take, long=True)
    assert await handle.update(Restless.take, long=False) == "taken in run 2"
    assert await handle.result(timeout=30) == "done"


async def test_an_update_of_a_delayed_workflow(client: Client, worker: Worker) -> None:
    """It waits until the workflow begins; one of a workflow that is cancelled before that has failed."""
    handle = await client.start(Till.run.options(delay=0.5), "ann")
    assert await handle.update(Till.add, 2) == 2
    never = await client.start(Till.run.options(delay=60), "bob")
    update = await never.start_update(Till.add, 2)
    await never.cancel("no")
    with pytest.raises(UpdateFailed, match="ended before it was finished"):
        await update.result(timeout=30)


async def test_a_large_answer(client: Client, worker: Worker) -> None:
    """An answer over the size of a message comes back whole, and so does a payload."""
    handle = await client.start(Meter.run, 0, 1)
    assert len(await handle.update(Meter.text, 2_000_000)) == 2_000_000
    with pytest.raises(UpdateFailed, match="known: count, mistake, text"):
        await handle.update("nothing", {"text": "x" * 2_000_000})


async def test_a_bug_in_a_handler_is_no_failure(client: Client, worker: Worker) -> None:
    """A handler's own mistake makes the workflow stuck; the caller waits on for repaired code."""
    handle = await client.start(Meter.run, 0, 1)
    update = await handle.start_update(Meter.mistake)
    await until(lambda: _is_stuck(client, handle.id))
    with pytest.raises(TimeoutError):
        await update.result(timeout=0.2)


async def _is_stuck(client: Client, workflow_id: str) -> bool:
    return (await client.workflow(workflow_id).info()).state == "stuck"


async def test_an_update_by_name_with_an_id(client: Client, worker: Worker) -> None:
    """An update that is known by its name alone takes an id as well, and so does one that rides along with a start."""
    named = update_ref("add").options(id="u1")
    handle = await client.start(workflow_ref("Till").with_update(named, {"amount": 5}), {"owner": "ann"})
    assert await handle.first_update.result(timeout=30) == 5
    assert await handle.update(named, {"amount": 5}) == 5
    assert await handle.update(update_ref("add"), amount=1) == 6


async def test_updates_in_the_test_environment() -> None:
    """Without a server updates are answered as they are with one, in time that skips."""
    async with WorkflowEnvironment(workflows=ALL, activities=[charge]) as env:
        handle = await env.start(Till.run.with_update(Till.add, 4), "ann")
        assert await handle.first_update.result() == 4
        assert await handle.update(Till.pay, 7) == "paid 7"
        with pytest.raises(UpdateRejected, match="-7 is no amount"):
            await handle.update(Till.pay, -7)
        unfinished = await handle.start_update(Till.until_sum, 100)
        await handle.update(Till.close)
        assert await handle.result() == 11
        with pytest.raises(UpdateFailed):
            await unfinished.result()


async def test_updates_that_race_with_the_end(client: Client, worker: Worker) -> None:
    """Whatever becomes of an update that meets the end of its workflow, its caller learns of it."""

    async def outcome(handle: WorkflowHandle[int], number: int) -> int | type[Exception]:
        try:
            update = await handle.start_update(Till.add, number)
            return await update.result(timeout=30)
        except (UpdateFailed, WorkflowEnded) as error:
            return type(error)

    async def race(number: int) -> list[int | type[Exception]]:
        handle = await client.start(Till.run, "ann")
        ending = handle.terminate("enough") if number % 3 == 0 else handle.signal(Till.end)
        early = [outcome(handle, 1) for _ in range(3)]
        outcomes = await asyncio.gather(*early, ending, outcome(handle, 1), return_exceptions=False)
        return [each for each in outcomes if each is not None]

    found = [each for outcomes in await asyncio.gather(*(race(n) for n in range(15))) for each in outcomes]
    assert len(found) == 15 * 4
    assert all(isinstance(each, int) or each in (UpdateFailed, WorkflowEnded) for each in found)
    assert any(isinstance(each, int) for each in found)
