"""The user's code at the start and the end of a worker: pools and clients that its activities share.

It runs in one task of its own from start to end, because context managers (cancel scopes among them) want to be left in
the task that entered them, while a worker may be started and stopped by different ones.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from turnout.core.struct import struct
from turnout.errors import DefinitionError

logger = logging.getLogger("turnout.worker")

END_S = 30.0
"""How long the code at the end may take before it is cancelled."""


@struct(kw_only=True)
class LifespanCode:
    """What the user gives. Each is called with the worker if it has a parameter for it, else with nothing."""

    on_startup: Callable[..., Any] | None = None
    on_shutdown: Callable[..., Any] | None = None
    lifespan: Callable[..., AbstractAsyncContextManager[Any]] | None = None


class Lifespan:
    """Runs this code around the life of `worker`. DefinitionError for what can't be called so."""

    def __init__(self, code: LifespanCode, worker: object) -> None:
        for name in ("on_startup", "on_shutdown", "lifespan"):
            _check(name, getattr(code, name))
        self._code = code
        self._worker = worker
        self._task: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()
        self._over = asyncio.Event()

    async def begin(self) -> None:
        """Returns when the code at the start has run; raises what it raises."""
        if self._code == LifespanCode():
            return
        self._task = asyncio.create_task(self._live(), name="turnout-lifespan")
        begun = asyncio.create_task(self._begun.wait())
        try:
            await asyncio.wait({begun, self._task}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._task.cancel()
            await asyncio.wait({self._task})
            raise
        finally:
            begun.cancel()
        if self._task.done():
            task, self._task = self._task, None
            task.result()

    async def end(self) -> None:
        """Run the code at the end, for `END_S` at most. What it raises is logged: the worker stops all the same."""
        task, self._task = self._task, None
        if task is None:
            return
        self._over.set()
        _, late = await asyncio.wait({task}, timeout=END_S)
        if late:
            logger.warning("the code at the end of the worker takes longer than %g s and is cancelled", END_S)
            task.cancel()
            await asyncio.wait({task}, timeout=END_S)
        elif not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the code at the end of the worker has failed", exc_info=error)

    async def _live(self) -> None:
        code = self._code
        async with AsyncExitStack() as stack:
            if code.lifespan is not None:
                entered = self._call(code.lifespan)
                if not hasattr(entered, "__aenter__"):
                    raise DefinitionError(f"lifespan {_NO_MANAGER}, not {entered!r}")
                await stack.enter_async_context(entered)
            if code.on_startup is not None:
                await _awaited(self._call(code.on_startup))
            if code.on_shutdown is not None:
                stack.push_async_callback(self._shut_down, code.on_shutdown)
            self._begun.set()
            await self._over.wait()

    async def _shut_down(self, on_shutdown: Callable[..., Any]) -> None:
        await _awaited(self._call(on_shutdown))

    def _call(self, function: Callable[..., Any]) -> Any:
        return function(self._worker) if _parameters(function) else function()


_NO_MANAGER = "must give an async context manager (decorate an async generator with contextlib.asynccontextmanager)"


def _check(name: str, function: Callable[..., Any] | None) -> None:
    given: object = function
    if given is None:
        return
    if not callable(given):
        raise DefinitionError(f"{name} must be a function, not {given!r}")
    if inspect.isasyncgenfunction(given) or inspect.isgeneratorfunction(given):
        raise DefinitionError(f"{name} {_NO_MANAGER if name == 'lifespan' else 'must not be a generator'}: {given!r}")
    if name == "lifespan" and inspect.iscoroutinefunction(given):
        raise DefinitionError(f"{name} {_NO_MANAGER}: {given!r}")
    if _parameters(given) > 1:
        raise DefinitionError(f"{name} must take nothing, or the worker: {given!r}")


def _parameters(function: Callable[..., Any]) -> int:
    """How many arguments it must be given by position."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # something built in, of which Python doesn't know
        return 0
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional and each.default is each.empty for each in parameters)


async def _awaited(value: Any) -> None:
    if inspect.isawaitable(value):
        await value
