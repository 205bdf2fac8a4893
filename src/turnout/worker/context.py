"""What an activity sees of its own job: `current_job()`.

The context only passes on what the code says; a `Host` does something about it: the worker's attempt, a child process's
pipe to its parent, or the test environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime as dt
import functools
import logging
import math
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Protocol, TypeVar, overload

import attrs

from turnout.core.values import Progress
from turnout.definition.codec import decode_as, encode_checkpoint
from turnout.errors import InvalidValue, NotInJob

T = TypeVar("T")


class Host(Protocol):
    """Who carries out what the code reports. `report` and `beat` may be called from any thread and never block."""

    def report(self, progress: Progress) -> None: ...

    def beat(self) -> None: ...

    async def checkpoint(self, text: str) -> None: ...


class _Nobody:
    """The host of code that has ended, for the tasks and threads that it left behind."""

    def report(self, progress: Progress) -> None:
        pass

    def beat(self) -> None:
        pass

    async def checkpoint(self, text: str) -> None:
        raise asyncio.CancelledError


_NOBODY = _Nobody()


@attrs.frozen(kw_only=True)
class JobFacts:
    """What is known of a job when its attempt starts; `restored` is the last checkpoint as JSON text."""

    id: str
    activity: str
    attempt: int
    node: str
    labels: dict[str, str] = attrs.field(factory=dict)
    submitted_at: dt.datetime = attrs.field(factory=lambda: dt.datetime.fromtimestamp(0, dt.UTC))
    restored: str | None = None
    trace_id: str = ""
    span_id: str = ""


class JobLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines carry the job: id, activity, attempt, node, trace id, span id."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class JobContext:
    """The running attempt, seen from inside. Get it with `current_job()`.

    job = current_job()
    start = job.restored(int) or 0
    for page in range(start, pages):
        ...
        job.progress(page + 1, pages)
        await job.checkpoint(page + 1)
    """

    def __init__(self, facts: JobFacts, host: Host, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._facts = facts
        self._host = host
        self._loop = loop
        self._asked_to_stop: threading.Event | None = None
        self._cancel_reason: str | None = None
        self._restored = facts.restored

    def __repr__(self) -> str:
        return f"<JobContext {self.activity} {self.id} attempt {self.attempt}>"

    @property
    def facts(self) -> JobFacts:
        """What was known when the attempt started, all of it."""
        return self._facts

    @property
    def id(self) -> str:
        return self._facts.id

    @property
    def activity(self) -> str:
        return self._facts.activity

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1, counted over all of the job's life."""
        return self._facts.attempt

    @property
    def node(self) -> str:
        return self._facts.node

    @property
    def labels(self) -> Mapping[str, str]:
        return self._facts.labels

    @property
    def submitted_at(self) -> dt.datetime:
        return self._facts.submitted_at

    @functools.cached_property
    def log(self) -> JobLog:
        """A logger whose lines carry the job."""
        extra = {
            "turnout_job": self.id,
            "turnout_activity": self.activity,
            "turnout_attempt": self.attempt,
            "turnout_node": self.node,
            "trace_id": self._facts.trace_id,
            "span_id": self._facts.span_id,
        }
        return JobLog(logging.getLogger(f"turnout.job.{self.activity}"), extra)

    @property
    def cancel_reason(self) -> str | None:
        """Why the code is asked to stop: None, "cancelled: ...", "node_stopping", "timed_out" or "lease_lost"."""
        return self._cancel_reason

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the work is. Never blocks; written at most once a second, the last one always. Any thread."""
        given: list[tuple[str, object]] = [("done", done), ("total", total)]
        for name, value in given:
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
                raise InvalidValue(f"progress {name} must be a finite number, not {value!r}")
        self._host.report(Progress(done, total, str(message)))

    def heartbeat(self) -> None:
        """Say that the code is alive, for `heartbeat_timeout`. Never blocks. Any thread."""
        self._host.beat()

    async def checkpoint(self, value: Any) -> None:
        """Store where to go on from; durable when this returns. The next attempt gets it from `restored()`."""
        text = encode_checkpoint(value)
        await self._host.checkpoint(text)
        self._restored = text

    def checkpoint_sync(self, value: Any) -> None:
        """`checkpoint` for sync code; blocks until it is durable. Not on the event loop's own thread."""
        text = encode_checkpoint(value)
        if self._loop is None:
            raise NotInJob("checkpoint_sync() needs an event loop to run on; in async code use `await checkpoint()`")
        with contextlib.suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                raise NotInJob("checkpoint_sync() would block the event loop: use `await job.checkpoint(...)` here")
        asyncio.run_coroutine_threadsafe(self._host.checkpoint(text), self._loop).result()
        self._restored = text

    @overload
    def restored(self) -> Any: ...
    @overload
    def restored(self, type: type[T]) -> T | None: ...
    def restored(self, type: type[T] | None = None) -> Any:
        """The last checkpoint of this or any earlier attempt, as `type` if one is given; None when there is none."""
        return None if self._restored is None else decode_as(self._restored, type, "checkpoint")

    def cancelled(self) -> bool:
        """Whether the code is asked to stop. For sync code, to look at now and then."""
        return self._cancel_reason is not None

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Block until the code is asked to stop, or for `timeout` seconds; whether it is. For sync code."""
        with _asking:
            if self._asked_to_stop is None:
                self._asked_to_stop = threading.Event()
            if self._cancel_reason is not None:
                self._asked_to_stop.set()
        return self._asked_to_stop.wait(timeout)

    def ask_to_stop(self, reason: str) -> None:
        """Called by the host; the first reason stays."""
        with _asking:
            if self._cancel_reason is None:
                self._cancel_reason = reason
            if self._asked_to_stop is not None:
                self._asked_to_stop.set()

    def restore(self, checkpoint: str) -> None:
        """Called by the host: what an earlier attempt left behind, as JSON text."""
        self._facts = attrs.evolve(self._facts, restored=checkpoint)
        self._restored = checkpoint

    def end(self) -> None:
        """Called by the host when the code has ended: nobody listens any more, and nothing keeps the host in memory."""
        self._host = _NOBODY


_asking = threading.Lock()
"""Guards the making of the event that `wait_cancelled` waits for: most jobs never need one, and it is costly."""

_current: contextvars.ContextVar[JobContext] = contextvars.ContextVar("turnout_job")


def current_job() -> JobContext:
    """The job that runs here, in async code and in threads alike. NotInJob outside of one.

    >>> current_job()
    Traceback (most recent call last):
    ...
    turnout.errors.NotInJob: current_job() is for code that runs as a job; test it with turnout.testing
    """
    try:
        return _current.get()
    except LookupError:
        message = "current_job() is for code that runs as a job; test it with turnout.testing"
        raise NotInJob(message) from None


@contextlib.contextmanager
def entered(context: JobContext) -> Iterator[JobContext]:
    """Make `context` the current job of what runs inside."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
