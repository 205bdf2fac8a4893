"""Dropping a loop: no word, no effect, no leak. The scenes are in dropping.py, which other Pythons can run too."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.support.pythons import HERE
from turnout.flow import Loop, Overrun

PROGRAM = Path(__file__).with_name("dropping.py")


@pytest.mark.parametrize("version", HERE)
def test_a_dropped_loop_says_nothing_does_nothing_and_is_freed(version: str) -> None:
    """In all scenes, begun or not, clean-up code changes nothing, nothing is printed, and every object is collected."""
    command = [HERE[version], "-X", "dev", str(PROGRAM)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.stderr == ""
    assert done.returncode == 0
    assert int(done.stdout) >= 10, "every scene was played"


def test_a_dropped_loop_takes_nothing_more() -> None:
    """After a drop tasks do not begin, callbacks are not kept, timers never fire, and nobody gets an error for it."""
    loop = Loop()
    called: list[str] = []

    async def work() -> None:
        called.append("task")

    loop.drop()
    task = loop.create_task(work())
    root = loop.create_root(work(), "h1")
    loop.call_soon(called.append, "callback")
    loop.call_later(0, called.append, "timer")
    loop.advance_to(10)
    loop.run_until_idle()
    assert not task.done()
    assert not root.done()
    assert not called
    assert loop.dropped
    assert loop.next_due() is None


def test_no_step_is_taken_on_a_dropped_loop_not_even_an_eager_one() -> None:
    """Tasks that clean-up code creates do not begin, whatever factory of tasks the loop has."""
    begun: list[str] = []

    async def work() -> None:
        begun.append("work")

    async def main() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.create_task(work())

    for factory in (getattr(asyncio, "eager_task_factory", None), lambda loop, coro: asyncio.Task(coro, loop=loop)):
        loop = Loop()
        loop.set_task_factory(factory)
        loop.create_task(main())
        loop.run_until_idle()
        assert loop.drop() == 0
    assert begun == []


def test_a_running_loop_is_not_dropped() -> None:
    """A loop cannot be dropped from within; condemned from within, nothing that its code does afterwards counts."""
    loop = Loop()
    called: list[str] = []

    async def main() -> None:
        with pytest.raises(RuntimeError, match="while it runs"):
            loop.drop()
        loop.condemn()
        loop.call_soon(called.append, "callback")
        await asyncio.sleep(0)
        called.append("went on")

    loop.create_root(main(), "0")
    loop.run_until_idle()
    assert loop.drop() == 0
    assert called == []


def test_a_limit_on_the_thread_gets_through_a_drop() -> None:
    """What is raised because clean-up code holds the thread comes out of the drop, which can be done again."""
    loop = Loop()
    ended: list[str] = []

    async def greedy() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            raise Overrun

    async def other() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("other")

    loop.create_root(greedy(), "0")
    loop.create_root(other(), "h1")
    loop.run_until_idle()
    with pytest.raises(Overrun):
        loop.drop()
    assert loop.drop() == 0
    assert ended == ["other"]
