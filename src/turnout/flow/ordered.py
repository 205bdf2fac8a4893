"""The few places where asyncio's own order depends on addresses in memory."""

from __future__ import annotations

import asyncio
import builtins
import functools
import sys
import weakref
from collections.abc import Iterable
from typing import Any

_NOTHING: tuple[Any, ...] = ()
replaced: dict[Any, Any] = {}
"""The functions of asyncio that were replaced, with those that were put in their places."""
_installed = False


class Ordered:
    """The loops that keep order."""

    def next_serial(self) -> int:
        """A number for what has no hash that is the same in each replay."""
        raise NotImplementedError

    def name_task(self, task: Any) -> None:
        """Give a task of ours its scope and its number."""
        raise NotImplementedError

    def hold(self, task: Any) -> None:
        """Keep a task until it has ended."""
        raise NotImplementedError


def install() -> None:
    """See to it, once, that asyncio keeps the given order on loops of ours. Other loops see no difference."""
    global _installed  # noqa: PLW0603
    if _installed:
        return
    _installed = True
    tasks: Any = asyncio.tasks
    # `wait` and `as_completed` call set() on what they are given, and `as_completed` makes tasks in that order.
    # A function of that name in their module reaches also whoever imported them by name long before.
    tasks.set = _first_seen
    tasks._GatheringFuture.__hash__ = _hash_of_gathering
    _replace("all_tasks", _in_order_of_birth(tasks.all_tasks))
    known = tasks._all_tasks if sys.version_info < (3, 12) else tasks._scheduled_tasks
    known.add = functools.partial(_add, known)
    if sys.version_info < (3, 12):
        _replace("wait_for", _in_the_same_task(tasks.wait_for))


def _replace(name: str, replacement: Any) -> None:
    original = getattr(asyncio, name)
    replaced[original] = functools.wraps(original)(replacement)
    for module in (asyncio, asyncio.tasks):
        setattr(module, name, replacement)


def _first_seen(items: Iterable[Any] = _NOTHING) -> Any:
    """A set; of awaitables on a loop of ours, one that has them in the given order."""
    if items is not _NOTHING and isinstance(asyncio._get_running_loop(), Ordered):
        return dict.fromkeys(items)
    return builtins.set(items)


def _hash_of_gathering(gathering: Any) -> int:
    loop = gathering.get_loop()
    if not isinstance(loop, Ordered):
        return object.__hash__(gathering)
    number = gathering.__dict__.get("_turnout_serial")
    if number is None:
        number = gathering._turnout_serial = loop.next_serial()
    return int(number)


class _Reference(weakref.ref[Any]):
    """A weak reference that is like no other. A plain one has the hash of what it refers to."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__


def _add(known: Any, task: Any) -> None:
    """Take a task into asyncio's set of the tasks of all loops: `WeakSet.add`, as its C code calls it until 3.13.

    The main tasks of all loops of ours have the same hash, which is for the sets of one loop: among a thousand of them
    each would be compared with all the others.
    """
    plain = type(task) is asyncio.Task or not isinstance(task, asyncio.Task)
    reference = weakref.ref if plain or not isinstance(task.get_loop(), Ordered) else _Reference
    if known._pending_removals:
        known._commit_removals()
    known.data.add(reference(task, known._remove))


def _in_order_of_birth(all_tasks: Any) -> Any:
    def ordered_all_tasks(loop: asyncio.AbstractEventLoop | None = None) -> builtins.set[asyncio.Task[Any]]:
        found: builtins.set[asyncio.Task[Any]] = all_tasks(loop)
        if not isinstance(loop or asyncio._get_running_loop(), Ordered):
            return found
        in_order: builtins.set[asyncio.Task[Any]] = builtins.set()
        for task in sorted(found, key=lambda task: getattr(task, "serial", 0)):
            in_order.add(task)
        return in_order

    return ordered_all_tasks


def _in_the_same_task(wait_for: Any) -> Any:
    """Until 3.11 `wait_for` makes a task of its own: a coroutine in it would have other names than from 3.12 on."""

    async def wait_for_in_the_same_task(fut: Any, timeout: float | None) -> Any:
        if not isinstance(asyncio.get_running_loop(), Ordered) or (timeout is not None and timeout <= 0):
            return await wait_for(fut, timeout)
        async with asyncio.timeout(timeout):
            return await fut

    return wait_for_in_the_same_task
