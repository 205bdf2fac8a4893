"""The loop as its owner drives it: order, time, names, durable timers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.flow import Clock, Deadlock, Loop, Task, TimeLimitReached, Timer, run_virtual, stack_of


class Timers:
    """An owner of timers that takes every one."""

    def __init__(self) -> None:
        self.waiting: dict[str, Timer] = {}
        self.said: list[str] = []

    def timer_created(self, timer: Timer) -> bool:
        name = f"{timer.scope.path}/{timer.ordinal}"
        self.waiting[name] = timer
        self.said.append(f"created {name}")
        return True

    def timer_cancelled(self, timer: Timer) -> None:
        name = f"{timer.scope.path}/{timer.ordinal}"
        del self.waiting[name]
        self.said.append(f"cancelled {name}")


def run(main: Any, **options: Any) -> Any:
    return run_virtual(main, **options)


def test_a_year_of_sleep_takes_no_time() -> None:
    """Sleeping moves the virtual time by exactly what was slept."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        for _ in range(365):
            await asyncio.sleep(24 * 3600)
        return loop.time()

    assert run(main(), start=5.0) == 5.0 + 365 * 24 * 3600


@given(st.lists(st.integers(0, 5), max_size=30))
def test_timers_fire_by_time_and_then_in_the_order_they_were_set(delays: list[int]) -> None:
    """Callbacks come sorted by when they are due; of those due at once the one set first comes first."""
    loop = Loop()
    fired: list[tuple[int, int]] = []
    for number, delay in enumerate(delays):
        loop.call_later(delay, fired.append, (delay, number))
    while (due := loop.next_due()) is not None:
        loop.advance_to(due)
        loop.run_until_idle()
        assert all(delay <= due for delay, _ in fired)
    assert fired == sorted((delay, number) for number, delay in enumerate(delays))


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=400))
def test_cancelled_timers_neither_fire_nor_stay(timers: list[tuple[int, bool]]) -> None:
    """Of many timers those that were cancelled never fire, and most of them leave the heap before they are due."""
    loop = Loop()
    fired: list[int] = []
    handles = [loop.call_later(delay + 1, fired.append, number) for number, (delay, _) in enumerate(timers)]
    for handle, (_, cancel) in zip(handles, timers, strict=True):
        if cancel:
            handle.cancel()
    kept = [number for number, (_, cancel) in enumerate(timers) if not cancel]
    assert len(loop._timers) <= max(2 * len(kept) + 1, 101 + len(kept))
    loop.advance_to(20)
    loop.run_until_idle()
    assert sorted(fired) == kept
    assert loop.next_due() is None


def test_a_run_never_moves_the_time_and_leaves_what_is_not_due() -> None:
    """`run_until_idle` runs what is ready and due, and nothing else."""
    loop = Loop(clock=Clock(100.0))
    task = loop.create_task(asyncio.sleep(10))
    loop.run_until_idle()
    assert (loop.time(), loop.next_due(), task.done(), loop.idle) == (100.0, 110.0, False, True)
    loop.advance_to(109.9)
    loop.advance_to(50)
    loop.run_until_idle()
    assert (loop.time(), task.done()) == (109.9, False)
    loop.advance_to(110)
    assert not loop.idle
    loop.run_until_idle()
    assert task.done()


def test_paths_tell_where_a_task_stands() -> None:
    """The main task is 0, its third child 0.2, a handler what its owner says, and a callback's task is below c."""
    loop = Loop()
    paths: list[str] = []

    async def leaf() -> None:
        task = asyncio.current_task()
        assert isinstance(task, Task)
        paths.append(task.path)

    async def branch() -> None:
        await asyncio.gather(leaf(), leaf())

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(branch())
            group.create_task(leaf())
            group.create_task(leaf())

    loop.create_root(main(), "0")
    loop.create_root(branch(), "h7")
    loop.call_soon(lambda: loop.create_task(leaf()))
    loop.run_until_idle()
    assert sorted(paths) == ["0.0.0", "0.0.1", "0.1", "0.2", "c.0", "h7.0", "h7.1"]


def test_ordinals_count_in_their_own_task() -> None:
    """What one task commands changes no other task's ordinals."""
    loop = Loop()
    names: list[str] = []

    async def command(times: int) -> None:
        for _ in range(times):
            scope = loop.scope
            names.append(f"{scope.path}/{scope.next_ordinal()}")
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(command(2), command(3))
        await command(1)

    loop.create_root(main(), "0")
    loop.run_until_idle()
    assert names == ["0.0/0", "0.1/0", "0.0/1", "0.1/1", "0.1/2", "0/0"]


@given(st.permutations(range(12)), st.integers(0, 300))
def test_a_set_of_siblings_has_the_order_of_their_birth(order: list[int], others: int) -> None:
    """A set of the first children of a task has the order of their creation, whatever else the loop has created."""
    loop = Loop()
    for _ in range(others):
        loop.create_task(asyncio.sleep(0))

    async def main() -> list[str]:
        children: list[Any] = [asyncio.create_task(asyncio.sleep(1)) for _ in range(12)]
        return [child.path for child in {children[index] for index in order}]

    task = loop.create_root(main(), "0")
    loop.run_until_idle()
    loop.drop()
    assert task.result() == [f"0.{index}" for index in range(12)]


def test_timers_of_an_owner_fire_only_by_him() -> None:
    """A timer that was taken is named by task and ordinal, does not fire by time, and never fires before it is due."""
    timers = Timers()
    loop = Loop(timers=timers)
    times: list[float] = []

    async def main() -> None:
        await asyncio.sleep(10)
        times.append(loop.time())
        await asyncio.sleep(5)
        times.append(loop.time())

    loop.create_root(main(), "0")
    loop.run_until_idle()
    assert timers.said == ["created 0/0"]
    loop.advance_to(1000)
    loop.run_until_idle()
    assert times == []
    assert loop.fire(timers.waiting["0/0"])
    assert not loop.fire(timers.waiting["0/0"])
    loop.run_until_idle()
    assert times == [1000]
    assert timers.waiting["0/1"].when() == 1005
    assert loop.fire(timers.waiting["0/1"])
    loop.run_until_idle()
    assert times == [1000, 1005]
    assert timers.said == ["created 0/0", "created 0/1"], "what has fired is not cancelled afterwards"


def test_a_timer_that_is_given_up_is_told_to_its_owner() -> None:
    """A timeout that was not needed is cancelled at the owner, one that is due at once is never offered."""
    timers = Timers()
    loop = Loop(timers=timers)

    async def main() -> None:
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(1)

    task = loop.create_root(main(), "0")
    loop.run_until_idle()
    assert task.done()
    assert task.exception() is None
    assert timers.said == ["created 0/0", "cancelled 0/0", "created 0/1", "cancelled 0/1"]


def test_what_can_never_go_on_says_so() -> None:
    """With nothing ready and no timer a virtual run raises, naming each task and the line where it waits."""

    async def wait() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.gather(wait(), asyncio.create_task(wait(), name="other"))

    with pytest.raises(Deadlock) as caught:
        run(main())
    assert "other (0." in str(caught.value)
    assert "locks.py" in str(caught.value)


def test_a_virtual_run_has_a_limit() -> None:
    """Nothing that is due after `until` happens."""

    async def main() -> None:
        while True:
            await asyncio.sleep(60)

    with pytest.raises(TimeLimitReached, match="limit is 100"):
        run(main(), until=100)

    async def tidy() -> None:
        try:
            await main()
        finally:
            await asyncio.sleep(60)
            tidied.append(asyncio.get_running_loop().time())

    tidied: list[float] = []
    with pytest.raises(TimeLimitReached, match="limit is 100"):
        run(tidy(), until=100)
    assert tidied == [120]


def test_loops_take_turns_and_nest() -> None:
    """A loop that is run in another's callback puts the running loop and the current task back."""
    inner, outer = Loop(), Loop()
    seen: list[Any] = []

    async def inside() -> None:
        seen.append((asyncio.get_running_loop(), asyncio.current_task()))

    async def outside() -> None:
        task = inner.create_task(inside())
        inner.run_until_idle()
        assert seen == [(inner, task)]
        seen.append((asyncio.get_running_loop(), asyncio.current_task()))
        with pytest.raises(RuntimeError, match="already running"):
            outer.run_until_idle()

    task = outer.create_task(outside())
    outer.run_until_idle()
    assert task.exception() is None
    assert seen[1:] == [(outer, task)]
    assert asyncio._get_running_loop() is None
    assert sys.get_asyncgen_hooks() == (None, None)


def test_an_owner_may_keep_the_thread_for_many_runs() -> None:
    """Within a `with` block a loop is drained again and again; what its owner does there is outside of all tasks."""
    loop = Loop()
    received: list[int] = []

    async def main() -> None:
        queue = asyncio.Queue[int]()
        loop.call_later(5, queue.put_nowait, -1)
        feeds.append(queue)
        while True:
            received.append(await queue.get())
            with pytest.raises(RuntimeError, match="not by its own tasks"):
                loop.drain()

    feeds: list[asyncio.Queue[int]] = []
    with pytest.raises(RuntimeError, match="within its `with` block"):
        loop.drain()
    loop.create_root(main(), "0")
    with loop:
        loop.drain()
        for number in range(3):
            assert asyncio.get_running_loop() is loop
            assert loop.scope is loop.outside
            feeds[0].put_nowait(number)
            loop.drain()
            assert received[-1] == number
        loop.advance_to(5)
        loop.drain()
    assert received == [0, 1, 2, -1]
    assert loop.drop() == 0


def test_code_in_wait_for_has_the_same_name_on_every_python() -> None:
    """A coroutine in `wait_for` runs in the task that called it, so its commands keep their names in a newer Python."""

    async def named() -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        await asyncio.sleep(1)
        return f"{loop.scope.path}/{loop.scope.next_ordinal()}"

    async def main() -> tuple[str, str, bool]:
        first = await asyncio.wait_for(named(), 5)
        second = await asyncio.wait_for(named(), None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(10), 1)
        task = asyncio.create_task(named())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0)
        return first, second, task.cancelled()

    assert run(main()) == ("0/2", "0/4", True)


def test_other_loops_see_no_difference() -> None:
    """On asyncio's own loop what was replaced does what it did: sets, `wait_for`, all_tasks."""

    async def main() -> None:
        tasks = [asyncio.create_task(asyncio.sleep(0, number)) for number in range(5)]
        assert set(tasks) < asyncio.all_tasks()
        assert sorted([await one for one in asyncio.as_completed(tasks)]) == [*range(5)]
        done, pending = await asyncio.wait(tasks)
        assert (done, pending) == (set(tasks), set())
        assert await asyncio.wait_for(asyncio.sleep(0, 7), 5) == 7
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)

    Loop()
    asyncio.run(main())


def test_the_tasks_of_many_loops_are_not_compared_with_each_other() -> None:
    """The main task has the same hash in each loop; asyncio's set of all tasks, which knows them weakly, has others."""
    loops = [Loop() for _ in range(200)]
    mains = [loop.create_root(asyncio.sleep(1), "0") for loop in loops]
    assert len({hash(main) for main in mains}) == 1
    for loop, main in zip(loops, mains, strict=True):
        assert asyncio.all_tasks(loop) == {main}
    if sys.version_info < (3, 14):  # from there on asyncio keeps a list
        tasks: Any = asyncio.tasks
        known = tasks._all_tasks if sys.version_info < (3, 12) else tasks._scheduled_tasks
        ours = [each for each in known.data if each() in mains]
        assert len({hash(each) for each in ours}) == len(ours) == 200
        del ours, main, loop
        for loop in loops:
            loop.drop()
        mains.clear()
        assert not [each for each in known.data if (task := each()) is not None and task.get_loop() in loops]


def test_what_reaches_out_is_refused_with_the_owners_error() -> None:
    """Executors, connections, files and signals raise what the owner chose, with a word on what to do."""

    class Refused(Exception):
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for reach, word in (
            (lambda: loop.run_in_executor(None, print), "activity"),
            (lambda: loop.create_connection(asyncio.Protocol, "localhost", 1), "activity"),
            (lambda: loop.add_signal_handler(2, print), "signals"),
            (lambda: loop.add_reader(0, print), "activity"),
        ):
            with pytest.raises(Refused, match=word):
                await reach()  # type: ignore[misc]

    loop = Loop(refuse=Refused)
    loop.run_until_complete(main())


def test_a_task_tells_the_lines_at_which_it_waits() -> None:
    """The stack of a suspended task goes from its own coroutine to the innermost await."""
    loop = Loop()

    async def inner() -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        await inner()

    task = loop.create_root(main(), "0")
    loop.run_until_idle()
    lines = stack_of(task)
    assert [line.function for line in lines] == ["main", "inner", "sleep"]
    assert str(lines[0]).startswith(__file__)
    loop.advance_to(1)
    loop.run_until_idle()
    assert stack_of(task) == []


programs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=12)


def trace(program: list[tuple[int, int, int]]) -> list[Any]:
    """Run tasks that sleep, wait for each other in sets, cancel and time out; what happened, in order."""
    events: list[Any] = []

    async def step(number: int, kind: int, delay: int) -> int:
        loop = asyncio.get_running_loop()
        try:
            if kind == 0:
                await asyncio.sleep(delay)
            elif kind == 1:
                async with asyncio.timeout(delay / 2):
                    await asyncio.sleep(1)
            elif kind == 2:
                for one in asyncio.as_completed([step(100 + number, 0, delay), step(200 + number, 0, 1)]):
                    events.append(await one)
            else:
                first: asyncio.Future[Any] = asyncio.gather(step(300 + number, 0, delay))
                second: asyncio.Future[Any] = asyncio.gather(step(400 + number, 0, 1))
                done, pending = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
                events.extend([[one is first for one in done], [one is first for one in pending]])
                for one in pending:
                    one.cancel()
                await asyncio.gather(*done, *pending, return_exceptions=True)
        except BaseException as error:
            events.append((number, type(error).__name__))
            raise
        finally:
            task = asyncio.current_task()
            assert isinstance(task, Task)
            events.append((number, task.path, loop.time()))
        return number

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # who is cancelled leaves errors to nobody
        tasks = {asyncio.create_task(step(number, kind, delay)) for number, (start, kind, delay) in enumerate(program)}
        done, pending = await asyncio.wait(tasks, timeout=3)
        for task in (*done, *pending):
            task.cancel()
            events.append(task.get_name())
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main())
    return events


@given(programs)
def test_the_same_program_runs_the_same_each_time(program: list[tuple[int, int, int]]) -> None:
    """Two runs of one program agree in every step, although sets, cancellation and timeouts are involved."""
    ballast = [object() for _ in range(1000)]  # so that addresses differ
    first = trace(program)
    del ballast[::2]
    assert trace(program) == first


@pytest.fixture(autouse=True)
def nothing_stays_running() -> Iterator[None]:
    yield
    assert asyncio._get_running_loop() is None
