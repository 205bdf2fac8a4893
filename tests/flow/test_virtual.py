"""Several loops on one time, generators that are left, and what the package may import."""

from __future__ import annotations

import ast
import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import turnout.flow
from turnout.flow import Deadlock, Loop, TimeLimitReached, Timeline, run_virtual


def test_loops_of_a_timeline_share_the_time() -> None:
    """Each loop sleeps by itself, and all see the same time, in the order in which they were added."""
    timeline = Timeline(start=100)
    seen: list[tuple[str, float]] = []

    async def beat(name: str, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            seen.append((name, asyncio.get_running_loop().time()))

    for name, every in (("a", 3), ("b", 2)):
        timeline.add_loop(name).create_root(beat(name, every), "0")
    timeline.run(until_time=106)
    assert seen == [("b", 102), ("a", 103), ("b", 104), ("a", 106), ("b", 106)]
    assert timeline.now == timeline.clock() == 106
    timeline.kill("a")
    timeline.kill("b")


def test_loops_of_a_timeline_talk_to_each_other() -> None:
    """What one loop schedules on another is run at the same moment, before the time goes on."""
    timeline = Timeline()
    server, client = timeline.add_loop("server"), timeline.add_loop("client")

    async def ask() -> str:
        answer: asyncio.Future[str] = client.create_future()
        server.call_later(1, lambda: client.call_soon(answer.set_result, f"at {server.time()}"))
        return await answer

    asked = client.create_root(ask(), "0")
    timeline.run(until=asked.done)
    assert asked.result() == "at 1.0"
    assert timeline.now == 1


def test_a_frozen_loop_stands_still_and_catches_up() -> None:
    """While a loop is frozen nothing of it runs; thawed, its timers that are due fire at once."""
    timeline = Timeline()
    seen: list[float] = []

    async def main() -> None:
        await asyncio.sleep(1)
        seen.append(timeline.now)
        await asyncio.sleep(1)
        seen.append(timeline.now)

    timeline.add_loop("a").create_root(main(), "0")
    timeline.add_loop("other").create_root(asyncio.sleep(10), "0")
    timeline.settle()
    timeline.freeze("a")
    timeline.run(until_time=5)
    assert seen == []
    timeline.thaw("a")
    timeline.run(until_time=20)
    assert seen == [5, 6]


def test_a_loop_may_be_killed_from_outside_and_from_within() -> None:
    """Nothing of a killed loop has an effect any more, also when its own code kills it in the middle of a step."""
    timeline = Timeline()
    seen: list[str] = []

    def send(what: str) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        if not loop.dropped:
            seen.append(what)

    async def suicide() -> None:
        try:
            await asyncio.sleep(1)
            send("before")
            timeline.kill("a")
            send("after")
        finally:
            send("cleaning up")

    async def victim() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            send("cleaning up")

    for name, main in (("a", suicide), ("b", victim), ("c", victim)):
        timeline.add_loop(name).create_root(main(), "0")
    timeline.run(until_time=2)
    timeline.kill("b")
    assert seen == ["before"]
    assert list(timeline.loops) == ["c"]
    timeline.kill("c")


def test_a_timeline_says_why_it_cannot_go_on() -> None:
    """A condition that never comes raises, at the limit or when nothing can happen, and tells where tasks wait."""
    timeline = Timeline()

    async def wait() -> None:
        await asyncio.Event().wait()

    timeline.add_loop("a").create_root(wait(), "0")
    with pytest.raises(Deadlock, match=r"\(0\) waits at .*locks.py"):
        timeline.run(until=lambda: False)
    timeline.loops["a"].call_later(50, print)
    with pytest.raises(TimeLimitReached, match="limit is 20"):
        timeline.run(until=lambda: False, until_time=20)
    timeline.kill("a")


async def numbers(closed: list[int], name: int) -> AsyncIterator[int]:
    try:
        for number in range(100):
            yield number
            await asyncio.sleep(1)
    finally:
        closed.append(name)
        await asyncio.sleep(0)


def test_a_generator_that_is_left_is_closed_at_once() -> None:
    """After `break` the clean-up code of a generator runs in the same breath, in a task whose path shifts no others."""
    closed: list[int] = []

    async def main() -> list[Any]:
        async for number in numbers(closed, 1):
            if number == 2:
                break
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [closed.copy(), asyncio.create_task(asyncio.sleep(0))]

    seen, task = run_virtual(main())
    assert seen == [1]
    assert task.path == "0.0"


@settings(max_examples=20)
@given(st.lists(st.booleans(), max_size=6))
def test_when_generators_are_closed_does_not_depend_on_the_collector(collections: list[bool]) -> None:
    """Those that were not left are closed with the loop, in the order of their beginning, whatever was collected."""
    closed: list[int] = []

    async def leave(name: int) -> None:
        cycle: list[Any] = [numbers(closed, name)]
        (cycle if name % 2 else held).append(cycle)
        await anext(cycle[0])

    async def main() -> None:
        for name, collect in enumerate(collections):
            await leave(name)
            if collect:
                gc.collect()
            await asyncio.sleep(1)
            assert closed == []

    held: list[Any] = []
    run_virtual(main())
    assert closed == [*range(len(collections))]


def test_generators_that_came_to_their_end_are_forgotten() -> None:
    """A loop that runs for long knows no more generators than are under way."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        for _ in range(200):
            assert [number async for number in numbers([], 0) if number > 97] == [98, 99]
        return len(loop._generators)

    assert run_virtual(main()) < 200


def test_the_package_imports_the_standard_library_alone() -> None:
    """No module of turnout.flow imports anything of turnout but itself, nor anything that is installed."""
    for path in Path(turnout.flow.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                ours = name == "turnout.flow" or name.startswith("turnout.flow.")
                assert ours or name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"
