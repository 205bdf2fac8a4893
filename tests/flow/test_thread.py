"""The thread that runs workflows for an asyncio program, and the watch for work that holds it, with short limits."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator

import pytest

from turnout.flow import Loop
from turnout.flow.thread import Held, HeldTooLong, LeftByExit, Limits, WorkThread

LIMITS = Limits(warn_after=0.05, fail_after=0.15, stuck_after=0.3)


class Seen:
    def __init__(self) -> None:
        self.slow: list[Held] = []
        self.stuck: list[Held] = []


@contextlib.asynccontextmanager
async def a_thread(seen: Seen, limits: Limits = LIMITS) -> AsyncIterator[WorkThread]:
    thread = WorkThread(on_slow=seen.slow.append, on_stuck=seen.stuck.append, limits=limits)
    try:
        yield thread
    finally:
        assert await thread.close(timeout=10)


def spin_for_ever() -> None:
    while True:
        pass


async def test_work_is_done_on_one_thread_in_order() -> None:
    """What is given is run on the one thread, in order, and results and errors come back to whoever gave it."""
    done: list[int] = []

    def work(number: int) -> int:
        done.append(number)
        if number % 10 == 7:
            raise ValueError(number)
        return threading.get_ident()

    async with a_thread(Seen(), Limits()) as thread:
        results = await asyncio.gather(
            *(thread.run(lambda number=number: work(number)) for number in range(200)),  # type: ignore[misc]
            return_exceptions=True,
        )
        assert done == list(range(200))
        assert [result.args for result in results if isinstance(result, ValueError)] == [
            (n,) for n in range(7, 200, 10)
        ]
        assert {result for result in results if isinstance(result, int)} == {thread.ident}
    assert thread.ident != threading.get_ident()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration()])
async def test_what_ends_loops_does_not_get_into_the_callers(error: BaseException) -> None:
    """An exit that the work raises reaches its caller as an ordinary error, and the thread goes on."""

    def work() -> None:
        raise error

    async with a_thread(Seen(), Limits()) as thread:
        with pytest.raises(LeftByExit) as caught:
            await thread.run(work)
        assert caught.value.__cause__ is error
        assert await thread.run(lambda: 5) == 5


async def test_work_that_holds_the_thread_is_warned_of_and_ended() -> None:
    """A loop without a pause is warned of with its stack, then ended; what comes next is untouched."""
    seen = Seen()
    async with a_thread(seen) as thread:
        held, after = await asyncio.gather(
            thread.run(spin_for_ever), thread.run(lambda: "after"), return_exceptions=True
        )
        assert isinstance(held, HeldTooLong)
        assert not held.stuck
        assert "spin_for_ever" in held.held.stack
        assert held.held.seconds >= LIMITS.fail_after
        assert after == "after"
        assert len(seen.slow) == 1
        assert "spin_for_ever" in seen.slow[0].stack
        assert seen.slow[0].work is spin_for_ever
        assert not seen.stuck


async def test_a_task_of_a_workflow_that_never_yields_ends_its_run_alone() -> None:
    """The run of the loop is left by the exception; that loop can be dropped, and others go on."""
    healthy, poisoned = Loop(), Loop()

    async def poison() -> None:
        with contextlib.suppress(Exception):
            spin_for_ever()

    async with a_thread(Seen()) as thread:
        task = poisoned.create_root(poison(), "0")
        other = poisoned.create_root(asyncio.sleep(0), "h1")
        with pytest.raises(HeldTooLong):
            await thread.run(poisoned.run_until_idle)
        assert task.done()
        assert not other.done(), "the loop did not go on"
        assert await thread.run(poisoned.drop) == 0
        healthy.create_root(asyncio.sleep(5), "0")
        await thread.run(healthy.run_until_idle)
        assert healthy.next_due() == 5


async def test_code_that_catches_everything_is_ended_in_the_end() -> None:
    """The exception is raised again, each second, until the work lets go."""
    caught: list[str] = []

    def stubborn() -> None:
        for _ in range(2):
            try:
                spin_for_ever()
            except BaseException as error:
                caught.append(type(error).__name__)

    seen = Seen()
    async with a_thread(seen, Limits(warn_after=0.05, fail_after=0.1, stuck_after=30)) as thread:
        with pytest.raises(HeldTooLong):
            await thread.run(stubborn)
        assert caught == ["Overrun", "Overrun"]
        assert await thread.run(lambda: 1) == 1
        assert not seen.stuck


async def test_a_lock_that_nobody_frees_is_told_to_the_owner() -> None:
    """Work that waits in C meets no exception: caller and owner are told, and the thread says that it is stuck."""
    lock = threading.Lock()
    lock.acquire()
    seen = Seen()
    async with a_thread(seen) as thread:
        with pytest.raises(HeldTooLong) as caught:
            await thread.run(lock.acquire)
        assert caught.value.stuck
        assert thread.stuck
        assert [held.work for held in seen.stuck] == [lock.acquire]
        waiting = asyncio.ensure_future(thread.run(lambda: "later"))
        lock.release()
        assert await waiting == "later"
        assert not thread.stuck


async def test_the_exception_never_meets_the_wrong_work() -> None:
    """Of many pieces of work that take about as long as the limit, only those that were too slow are ended."""
    limits = Limits(warn_after=0.02, fail_after=0.02, stuck_after=60)

    def work(number: int) -> int:
        until = time.perf_counter() + (0.03 if number % 2 else 0)
        while time.perf_counter() < until:
            pass
        return number

    async with a_thread(Seen(), limits) as thread:
        results = await asyncio.gather(
            *(thread.run(lambda number=number: work(number)) for number in range(100)),  # type: ignore[misc]
            return_exceptions=True,
        )
        for number, result in enumerate(results):
            assert result == number or (isinstance(result, HeldTooLong) and result.held.seconds >= limits.fail_after)
        assert any(isinstance(result, HeldTooLong) for result in results)
        assert any(result == number for number, result in enumerate(results))


async def test_a_caller_that_is_cancelled_leaves_the_work_alone() -> None:
    """Cancelling `run` gives the caller back at once; the work ends by itself, and the thread goes on."""
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()

    async with a_thread(Seen(), Limits()) as thread:
        task = asyncio.ensure_future(thread.run(work))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        assert await thread.run(lambda: 2) == 2


AFTER_STUCK = """
import asyncio, sys, threading
from turnout.flow.thread import HeldTooLong, Limits, WorkThread

async def main():
    lock = threading.Lock()
    lock.acquire()
    quick = Limits(warn_after=0.05, fail_after=0.05, stuck_after=0.05)
    thread = WorkThread(on_slow=lambda held: None, on_stuck=lambda held: None, limits=quick)
    try:
        await thread.run(lock.acquire)
    except HeldTooLong as error:
        assert error.stuck
    sys.setprofile(lambda *event: None)
    sum(number for number in range(10))
    sys.setprofile(None)
    print("went on")
    lock.release()

asyncio.run(main())
"""


def test_a_thread_that_is_profiled_goes_on_beside_a_stuck_one() -> None:
    """Code that never meets its interruption leaves no other thread waiting for it."""
    done = subprocess.run([sys.executable, "-c", AFTER_STUCK], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "went on\n"
