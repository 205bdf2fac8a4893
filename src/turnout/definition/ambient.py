"""Whether the code that runs right now is a workflow's, and what it can ask for then.

Definitions are called everywhere: `charge(order)` runs the function in a test, and becomes a durable activity within a
workflow. Whoever runs a workflow's code enters its `Ambient` around each turn of its loop, on the thread that runs it.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, Protocol

from turnout.errors import NotDurable, NotInWorkflow


class Ambient(Protocol):
    """What a workflow's code can ask for by calling a definition."""

    def call_activity(self, ref: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        """Run an activity as a job, or as a local one."""
        ...

    def call_workflow(self, ref: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        """Run a workflow as a child."""
        ...

    @property
    def context(self) -> Any:
        """What `current_workflow()` returns."""
        ...


class _Entered(threading.local):
    ambient: Ambient | None = None


_entered = _Entered()


def ambient() -> Ambient | None:
    """The workflow whose code this thread runs right now, None when it runs none."""
    return _entered.ambient


def refuse_within(instead: str) -> None:
    """NotDurable when a workflow's code runs, which must not use a client; `instead` says what it does."""
    if _entered.ambient is not None:
        raise NotDurable(f"a client can't be used within a workflow: {instead}")


def needed(what: str) -> Ambient:
    """The workflow whose code runs; NotInWorkflow that names `what` when none does."""
    found = _entered.ambient
    if found is None:
        raise NotInWorkflow(f"{what} was called outside of a workflow")
    return found


class entered:  # noqa: N801
    """While a `with` block lasts the code that runs on this thread is the workflow's."""

    __slots__ = ("_before", "_workflow")

    def __init__(self, workflow: Ambient | None) -> None:
        self._workflow = workflow
        self._before: Ambient | None = None

    def __enter__(self) -> None:
        self._before, _entered.ambient = _entered.ambient, self._workflow

    def __exit__(self, *_: object) -> None:
        _entered.ambient = self._before


class Code(Protocol):
    """A job's code that runs."""

    def waits(self, change: int) -> None:
        """Called with 1 when it begins to wait for another job's end, and with -1 when that is over."""
        ...


code: contextvars.ContextVar[Any] = contextvars.ContextVar("turnout_job")
"""The `Code` that this is, where it is a job's: what `current_job()` returns."""


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Within this block the code waits for the end of a job. Its own job keeps its slot meanwhile."""
    job: Code | None = code.get(None)
    if job is None:
        yield
        return
    job.waits(1)
    try:
        yield
    finally:
        job.waits(-1)
