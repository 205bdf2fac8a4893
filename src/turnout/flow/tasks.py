"""Tasks and futures as asyncio has them, but for their hash: a set of them has the same order in each replay."""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context
from typing import Any, NamedTuple

from turnout.flow.ordered import Ordered
from turnout.flow.scopes import Scope


class Task(asyncio.Task[Any]):
    """A task that knows where it stands in the tree of tasks."""

    __slots__ = ("context", "scope", "serial")

    _log_destroy_pending: bool
    _source_traceback: list[Any] | None
    scope: Scope
    context: Context | None
    serial: int
    """Which task of its loop it is, in the order of their creation, from 1."""

    def __init__(
        self,
        coro: Any,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> None:
        # A loop of ours comes by here only when somebody calls the class, as task factories do.
        loop = loop or asyncio.get_event_loop()
        if not isinstance(loop, Ordered):
            raise TypeError(f"a task of turnout.flow needs a loop of turnout.flow, got {loop!r}")
        self.context = context = copy_context() if context is None else context
        loop.name_task(self)
        super().__init__(
            coro, loop=loop, name=f"Task-{self.serial}" if name is None else name, context=context, **options
        )
        self.forget_maker()
        loop.hold(self)

    def __hash__(self) -> int:
        return self.scope.family

    def forget_maker(self) -> None:
        """Let debug mode's traceback end where the task was asked for, not in here."""
        if self._source_traceback:
            del self._source_traceback[-1]

    @property
    def path(self) -> str:
        """``0`` for the main task, ``0.2`` for its third child."""
        return self.scope.path


class Future(asyncio.Future[Any]):
    """A future whose hash is its number: futures are numbered as they are first put into a set or a dict."""

    __slots__ = ("_serial",)

    _serial: int

    def __hash__(self) -> int:
        try:
            return self._serial
        except AttributeError:
            loop = self.get_loop()
            self._serial = serial = loop.next_serial() if isinstance(loop, Ordered) else id(self)
            return serial


class CodeLine(NamedTuple):
    """A line at which a task waits."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}"


def stack_of(task: asyncio.Task[Any]) -> list[CodeLine]:
    """The lines at which a suspended task waits, from its own coroutine down to what it awaits in the end.

    Empty when the task has ended. A task that has not begun waits at the first line of its function.
    """
    lines = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = _first(awaited, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            break
        lines.append(CodeLine(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        awaited = _first(awaited, "cr_await", "gi_yieldfrom", "ag_await")
    return lines


def _first(thing: object, *names: str) -> Any:
    return next((value for name in names if (value := getattr(thing, name, None)) is not None), None)
