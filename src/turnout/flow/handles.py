"""What waits in a loop: callbacks that are ready, and timers that know who set them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Protocol

from turnout.flow.scopes import Scope


class Handle(asyncio.Handle):
    """A callback that is ready to run. It is made a few hundred thousand times a second, so it is made by hand."""

    __slots__ = ()

    _args: Sequence[Any]
    _callback: Callable[..., object]
    _context: Context
    _loop: asyncio.AbstractEventLoop
    _repr: str | None
    _source_traceback: Any

    def __init__(
        self, callback: Callable[..., object], args: Sequence[Any], loop: asyncio.AbstractEventLoop, context: Context
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None

    def get_context(self) -> Context:
        """The context in which the callback runs."""
        return self._context


class Timer(asyncio.TimerHandle):
    """A callback for a time to come, with an identity: the scope of the task that set it and its ordinal there."""

    __slots__ = ("ordinal", "owned", "scope")

    _args: Sequence[Any]
    _callback: Callable[..., object]
    _context: Context
    _loop: asyncio.AbstractEventLoop
    _repr: str | None
    _scheduled: bool
    _source_traceback: Any
    _when: float

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        context: Context,
        scope: Scope,
    ) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._scheduled = True
        self.owned = False
        self.scope = scope
        self.ordinal = scope.next_ordinal()

    @property
    def waiting(self) -> bool:
        """Whether it is still to come: neither fired nor cancelled."""
        return self._scheduled

    def get_context(self) -> Context:
        """The context in which the callback runs."""
        return self._context


class TimerOwner(Protocol):
    """Whoever makes timers durable. A loop without one keeps its timers itself."""

    def timer_created(self, timer: Timer) -> bool:
        """A task has set a timer that is not due yet. True takes it: then only ``loop.fire(timer)`` fires it."""
        ...

    def timer_cancelled(self, timer: Timer) -> None:
        """A timer that was taken has been cancelled before it fired."""
        ...
