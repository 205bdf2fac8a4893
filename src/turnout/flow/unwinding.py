"""Ending the suspended coroutines of a loop that is dropped: their frames are freed, and nothing that they do counts.

A suspended frame can be freed only by raising in it, so ``finally`` blocks run. The loop is inert by then: what they
await does not come, and is answered by raising once more, until the coroutine has ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from contextvars import copy_context
from inspect import CORO_CREATED, GEN_CREATED, getcoroutinestate, getgeneratorstate
from types import CoroutineType, GeneratorType
from typing import Any

from turnout.flow.errors import Dropped, Overrun
from turnout.flow.tasks import Task

RAISED_MAX = 100


class _Stubborn(str):
    """The name of a coroutine that catches all that is raised in it. Python complains when it frees such a one."""

    __slots__ = ()


def unwind(loop: asyncio.AbstractEventLoop, tasks: Iterable[asyncio.Task[Any]]) -> int:
    """End the coroutines of `tasks`; how many could not be ended."""
    return sum(not _ended(loop, task) for task in tasks if not task.done())


def never_begin(task: Task) -> None:
    """Let a task that was just created be one that is pending for ever, without a word of its coroutine."""
    _silence(task)
    coro: Any = task.get_coro()
    if coro is not None:
        coro.close()


def _ended(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> bool:
    _silence(task)
    coro: Any = task.get_coro()
    if _unbegun(coro):
        coro.close()
        return True
    context = getattr(task, "context", None)
    if context is None:
        context = copy_context()
    asyncio.tasks._enter_task(loop, task)
    try:
        for _ in range(RAISED_MAX):
            context.run(coro.throw, Dropped())
    except Overrun:
        raise
    except BaseException:  # StopIteration, Dropped or what its clean-up raised: it has ended
        return True
    finally:
        asyncio.tasks._leave_task(loop, task)
    _let_die(coro)
    return False


def _unbegun(coro: object) -> bool:
    """Whether nothing of it has run yet. A task may be of a generator as well: `ensure_future` of an awaitable is."""
    if isinstance(coro, CoroutineType):
        return getcoroutinestate(coro) == CORO_CREATED
    return isinstance(coro, GeneratorType) and getgeneratorstate(coro) == GEN_CREATED


def _silence(task: Any) -> None:
    task._log_destroy_pending = False


def _let_die(coro: Any) -> None:
    """See to it that nothing is said when the coroutine is freed, although it goes on awaiting even then."""
    coro.__qualname__ = _Stubborn(coro.__qualname__)
    complain = sys.unraisablehook
    if getattr(complain, "lets_die", False):
        return

    def let_die(unraisable: Any) -> None:
        name = getattr(unraisable.object, "__qualname__", None)
        unnamed = unraisable.object is None and "ignored GeneratorExit" in str(unraisable.exc_value)
        if not (isinstance(name, _Stubborn) or unnamed):
            complain(unraisable)

    vars(let_die)["lets_die"] = True
    sys.unraisablehook = let_die
