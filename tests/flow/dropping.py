"""Drops loops in the middle of all kinds of code, under whatever interpreter runs this file. It must not say a word.

Each scene is a coroutine that waits for something at the end of one run. Whatever it does after that is written into
`effects` through the loop, and must not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from turnout.flow import Loop

effects: list[str] = []
Scene = Callable[[], Coroutine[Any, Any, object]]
SCENES: list[Scene] = []


class Whole:
    """Something that must be freed with the frame that holds it."""


alive: weakref.WeakSet[Whole] = weakref.WeakSet()


def whole() -> Whole:
    one = Whole()
    alive.add(one)
    return one


def scene(function: Scene) -> Scene:
    SCENES.append(function)
    return function


def effect(what: str) -> None:
    """What code that is alive does: it is carried out by the loop."""
    asyncio.get_running_loop().call_soon(effects.append, what)


async def for_ever() -> None:
    one = whole()
    await asyncio.get_running_loop().create_future()
    del one


@scene
async def in_finally() -> None:
    held = whole()
    try:
        await for_ever()
    finally:
        effect("finally")
        await asyncio.sleep(1)
        effect("after a sleep")
        await asyncio.gather(for_ever(), asyncio.shield(for_ever()), asyncio.wait_for(for_ever(), 5))
        effect(f"after a gather {held}")


@scene
async def in_tasks_of_a_group() -> None:
    async with asyncio.TaskGroup() as group, asyncio.timeout(60):
        group.create_task(for_ever())
        group.create_task(in_finally())
        await asyncio.sleep(1000)


@scene
async def in_locks_and_queues() -> None:
    lock, queue = asyncio.Lock(), asyncio.Queue[int]()
    condition = asyncio.Condition()
    async with lock, condition:
        waiting = asyncio.create_task(lock.acquire())
        try:
            await asyncio.gather(condition.wait(), queue.get(), waiting, asyncio.Semaphore(0).acquire())
        finally:
            queue.put_nowait(1)
            effect("put")


async def numbers() -> AsyncIterator[int]:
    held = whole()
    try:
        for number in range(10):
            yield number
    finally:
        effect(f"generator {held}")
        await asyncio.sleep(1)


@scene
async def in_a_generator() -> None:
    async for _ in numbers():
        await for_ever()


@scene
async def in_one_that_a_cycle_holds() -> None:
    generator = numbers()
    cycle: list[Any] = [generator, whole()]
    cycle.append(cycle)
    await anext(generator)
    await for_ever()


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Whole]:
    try:
        yield whole()
    finally:
        effect("closing")
        await asyncio.sleep(0)
        effect("closed")


@scene
async def in_a_context() -> None:
    async with opened() as held, contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(opened())
        stack.push_async_callback(for_ever)
        await for_ever()
        del held


@scene
async def catching_all_that_is_raised() -> None:
    held = whole()
    while True:
        try:
            await for_ever()
        except BaseException:
            effect(f"caught {held}")


@scene
async def with_errors_that_nobody_has_seen() -> None:
    async def broken() -> None:
        raise ValueError("nobody has seen this")

    held = [asyncio.create_task(broken()), asyncio.gather(broken(), return_exceptions=False)]
    future = asyncio.get_running_loop().create_future()
    future.set_exception(ValueError("nor this"))
    await asyncio.sleep(1000)
    del held


@scene
async def waiting_for_each_other() -> None:
    tasks: list[Any] = []

    async def one(other: int) -> None:
        await asyncio.sleep(0)
        await asyncio.shield(tasks[other])

    tasks += [asyncio.create_task(one(1)), asyncio.create_task(for_ever())]
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait(tasks)


@scene
async def raising_while_cleaning_up() -> None:
    try:
        await for_ever()
    finally:
        raise ValueError("while cleaning up")


class Waits:
    """Something to await that is no coroutine: some Pythons make a task of it that runs a generator."""

    def __await__(self) -> Generator[Any, None, None]:
        held = whole()
        try:
            yield from for_ever().__await__()
        finally:
            effect(f"awaited {held}")


@scene
async def waiting_for_what_is_no_coroutine() -> None:
    begun = asyncio.ensure_future(Waits())
    await asyncio.sleep(0)
    await asyncio.gather(begun, Waits())


@scene
async def with_a_task_that_has_not_begun_of_what_is_no_coroutine() -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.stop)
    loop.call_soon(lambda: asyncio.ensure_future(Waits()))
    await for_ever()


def play(function: Scene, *, begun: bool) -> None:
    """Play one scene to where it waits, or not at all, and drop it."""
    loop = Loop()
    task = loop.create_root(function(), "0")
    unseen = weakref.ref(task)
    if begun:
        loop.run_until_idle()
        assert not task.done(), task
    else:
        loop.call_later(5, effects.append, "timer")
    held = weakref.ref(loop)
    effects.clear()
    stubborn = loop.drop()
    assert stubborn == (begun and function is catching_all_that_is_raised), (function, stubborn)
    loop.run_until_idle()
    loop.advance_to(10_000)
    loop.run_until_idle()
    assert not effects, (function, effects)
    assert asyncio._get_running_loop() is None
    del loop, task
    gc.collect()
    assert held() is None, function
    assert unseen() is None, function
    assert not alive, (function, list(alive))


def main() -> None:
    logging.basicConfig()
    for function in SCENES:
        play(function, begun=True)
        play(function, begun=False)
    print(len(SCENES))


if __name__ == "__main__":
    main()
