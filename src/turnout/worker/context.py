"""What an activity sees of its own job: `current_job()`.

The context only passes on what the code says; a `Host` does something about it: the worker's attempt, a child process's
pipe to its parent, or the test environment.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import attrs

from turnout.core.loglines import Line, cut, fields, of_workflow, workflow_fields
from turnout.core.record import Progress, derived_span_id, progress_of
from turnout.core.retry import seconds as seconds_of
from turnout.core.struct import struct
from turnout.definition.ambient import ambient, code
from turnout.definition.codec import decode_as, encode_checkpoint
from turnout.definition.limits import checked_name
from turnout.definition.plain_json import PayloadProblem
from turnout.errors import NotInJob

if TYPE_CHECKING:  # the type alone: whoever puts the node together gives the client itself
    from turnout.client.client import Client

T = TypeVar("T")
D = TypeVar("D")

_REQUIRED = object()


class Host(Protocol):
    """Who carries out what the code reports. What is not async may be called from any thread and never blocks."""

    def report(self, progress: Progress) -> None: ...

    def beat(self) -> None: ...

    def log(self, line: Line) -> None: ...

    async def checkpoint(self, text: str) -> None: ...

    async def slow_down(self, limit: str, seconds: float) -> None: ...


class _Nobody:
    """The host of code that has ended, for the tasks and threads that it left behind."""

    def report(self, progress: Progress) -> None:
        pass

    def beat(self) -> None:
        pass

    def log(self, line: Line) -> None:
        pass

    async def checkpoint(self, text: str) -> None:
        raise asyncio.CancelledError

    async def slow_down(self, limit: str, seconds: float) -> None:
        raise asyncio.CancelledError


_NOBODY = _Nobody()


@struct(kw_only=True)
class JobFacts:
    """What is known of a job when its attempt starts; `restored` is the last checkpoint as JSON text.

    `submitted_at` is unix seconds. `workflow` is the id of the workflow whose activity it is, "" where it is none's.
    """

    id: str
    activity: str
    attempt: int
    node: str
    labels: dict[str, str] = attrs.field(factory=dict)
    submitted_at: float = 0.0
    restored: str | None = None
    trace_id: str = ""
    span_id: str = ""
    workflow: str = ""
    workflow_name: str = ""
    workflow_run: int = 0


class JobLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines carry the job: id, activity, attempt, node, trace id, span id; and whose workflow's it is.

    What it is told from INFO up is also kept with the job, whatever the program's handlers and levels make of it; DEBUG
    lines are where the logger is enabled for them.
    """

    def __init__(self, logger: logging.Logger, context: JobContext) -> None:
        super().__init__(logger, None)
        self._context = context

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**job_fields(self._context), **(kwargs.get("extra") or {})}
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        enabled = self.isEnabledFor(level)
        if enabled:
            # This frame is not the caller's: one level more to go up.
            message, given = self.process(msg, {**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})
            self.logger.log(level, message, *args, **given)
        if enabled or level >= logging.INFO:
            self._context.keep(logging.getLevelName(level), _text(msg, args, kwargs.get("exc_info")))


def _text(msg: object, args: tuple[object, ...], exc_info: Any) -> str:
    """The message as logging makes it, with the exception below it."""
    try:
        text = str(msg)
        if args:
            by_name = len(args) == 1 and isinstance(args[0], Mapping) and args[0]
            text %= by_name or args
        if isinstance(exc_info, BaseException):
            exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
        elif exc_info and not isinstance(exc_info, tuple):
            exc_info = sys.exc_info()
        if exc_info and exc_info[0] is not None:
            text = f"{text}\n{logging.Formatter().formatException(exc_info)}"
    except Exception as problem:  # a bad format string, or an argument without a text: the user's, and no job's end
        text = f"(a line that can't be told: {type(problem).__name__})"
    return text


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
        self._client: Client | None = None
        self._on_wait: Callable[[], None] | None = None
        self.waiting = 0
        """For how many jobs the code waits right now."""

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
        return dt.datetime.fromtimestamp(self._facts.submitted_at, dt.UTC)

    @functools.cached_property
    def log(self) -> JobLog:
        """A logger whose lines carry the job, and are kept with it: `turnout job logs` shows the last of them."""
        return JobLog(logging.getLogger(f"turnout.job.{self.activity}"), self)

    @property
    def client(self) -> Client:
        """The worker's own client, to submit jobs and start workflows with: their traces hang on this attempt's.

            handle = await current_job().client.submit(make_thumbnail, path=path)

        It belongs to the worker's event loop: in a `def` use `job.run_sync(job.client.submit(...))`. NotInJob in a
        child process and in a test environment without a client. Waiting for the job's result keeps this job's slot:
        what waits for many jobs is better a workflow.
        """
        if self._client is None:
            raise NotInJob(
                "there is no client here: a worker has one for the jobs on its event loop and in its threads;"
                " in a child process connect with Client.connect(), in a test give ActivityEnvironment(client=...)"
            )
        return self._client

    def run_sync(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """For sync code: run a coroutine on the worker's event loop and block until it is done; its result.

        handle = job.run_sync(job.client.submit(make_thumbnail, path=path))
        """
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop_for_sync("run_sync", coroutine)).result()

    @property
    def cancel_reason(self) -> str | None:
        """Why the code is asked to stop: None, "cancelled: ...", "node_stopping", "timed_out" or "lease_lost"."""
        return self._cancel_reason

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the work is. Never blocks; written at most once a second, the last one always. Any thread."""
        self._host.report(progress_of(done, total, message))

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
        loop = self._loop_for_sync("checkpoint_sync")
        asyncio.run_coroutine_threadsafe(self._host.checkpoint(text), loop).result()
        self._restored = text

    async def slow_down(self, limit: str, seconds: float | dt.timedelta) -> None:
        """Let no attempt start that needs this limit, on any node, for so long; it is so when this returns.

        For what answers "not so fast": those who wait for the limit are spared the call. `limit`: as it was declared,
        or one key of it, such as "tenant:42". What runs goes on; whoever asks for longer has the last word, and
        `turnout limit clear` ends it. In a `def` use `job.run_sync(job.slow_down(...))`. InvalidValue.

            if response.status == 429:
                await job.slow_down("api", float(response.headers["Retry-After"]))
                raise RetryLater(1.0)
        """
        await self._host.slow_down(checked_name(limit), seconds_of(seconds, "seconds"))

    def _loop_for_sync(
        self, caller: str, coroutine: Coroutine[Any, Any, Any] | None = None
    ) -> asyncio.AbstractEventLoop:
        """The loop that a thread may wait for; a refused coroutine is closed, or it would complain of its own."""
        try:
            here: object = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if self._loop is not None and self._loop is not here:
            return self._loop
        if coroutine is not None:
            coroutine.close()
        if self._loop is None:
            raise NotInJob(f"{caller}() needs an event loop to run on; in async code use `await`")
        raise NotInJob(f"{caller}() would block the event loop: use `await` here")

    @overload
    def restored(self) -> Any: ...
    @overload
    def restored(self, type: type[T]) -> T | None: ...
    @overload
    def restored(self, type: type[T], *, default: D) -> T | D: ...
    def restored(self, type: Any = None, *, default: Any = _REQUIRED) -> Any:
        """The last checkpoint of this or any earlier attempt, as `type` if one is given; None when there is none.

        `default` is given instead when there is none, and when it does not fit `type`, as that of older code may not:
        without a default that is a PayloadProblem, a failure of this attempt like any other.

            state = job.restored(State, default=State())
        """
        if self._restored is None:
            return None if default is _REQUIRED else default
        try:
            return decode_as(self._restored, type, "checkpoint")
        except PayloadProblem as error:
            if default is not _REQUIRED:
                self.log.warning("the checkpoint is left out: %s", error)
                return default
            advice = "job.restored(..., default=...) goes on without it, and so does a retry without the checkpoint"
            raise PayloadProblem(f"{error}; {advice}") from None

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

    def provide(self, client: Any, on_wait: Callable[[], None] | None = None) -> None:
        """Called by the host: what `client` is, and what is called when the code begins to wait for another job."""
        self._client = client
        self._on_wait = on_wait

    def waits(self, change: int) -> None:
        """Called by whoever waits for a job's end within this one's code."""
        self.waiting += change
        if change > 0 and self._on_wait is not None:
            self._on_wait()

    def keep(self, level: str, message: str) -> None:
        """Called by `log`: keep this line with the job."""
        self._host.log(Line(time.time(), level, self.attempt, self.node, cut(message)))

    def end(self) -> None:
        """Called by the host when the code has ended: nobody listens any more, and nothing keeps the host in memory."""
        self._host = _NOBODY


_asking = threading.Lock()
"""Guards the making of the event that `wait_cancelled` waits for: most jobs never need one, and it is costly."""

_current: contextvars.ContextVar[JobContext] = code


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


def enter(context: JobContext) -> None:
    """Make `context` the current job of what runs from now on in this task."""
    _current.set(context)


def entered(context: JobContext) -> _Entered:
    """Make `context` the current job of what runs inside."""
    return _Entered(context)


class _Entered:
    __slots__ = ("_context", "_token")

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def __enter__(self) -> JobContext:
        self._token = _current.set(self._context)
        return self._context

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def job_fields(context: JobContext) -> dict[str, Any]:
    """What a log line carries of its job. The span is the one that is current, the attempt's own if there is none."""
    facts = context.facts
    # Whoever has a span has imported this; the others need not wait for it.
    api = sys.modules.get("opentelemetry.trace")
    span: Any = api.get_current_span().get_span_context() if api is not None else None
    if span is not None and span.is_valid:
        trace_id, span_id = f"{span.trace_id:032x}", f"{span.span_id:016x}"
    else:
        trace_id, span_id = facts.trace_id, facts.span_id
        if trace_id and not span_id:
            span_id = derived_span_id(trace_id)
    known = fields(facts.id, facts.activity, facts.attempt, facts.node, trace_id, span_id)
    return known | of_workflow(facts.workflow, facts.workflow_name, facts.workflow_run) if facts.workflow else known


_NOTHING = {**workflow_fields(), **fields()}


class JobContextFilter(logging.Filter):
    """For a handler: gives every record that is logged inside a job, by whatever logger, the job as attributes.

    These are `turnout_job`, `turnout_activity`, `turnout_attempt`, `turnout_node`, `trace_id` and `span_id`; outside of
    a job they are empty, so that a format may name them. In the code of a workflow there are `turnout_workflow`,
    `turnout_workflow_name`, `turnout_run`, `trace_id` and `span_id`, and what is logged while that code is only led
    again through its history is dropped; a job that a workflow has asked for has them all. `turnout worker` and
    `turnout dev` put one on the program's handlers. A program with its own logging does so itself:

    >>> import logging.config
    >>> logging.config.dictConfig({
    ...     "version": 1,
    ...     "filters": {"job": {"()": "turnout.JobContextFilter"}},
    ...     "formatters": {"line": {"format": "%(levelname)s %(message)s [%(turnout_job)s %(trace_id)s]"}},
    ...     "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["job"]}},
    ...     "root": {"handlers": ["out"], "level": "INFO"},
    ... })  # doctest: +SKIP

    A thread that your code has started by itself is not inside the job, unless it runs in a copy of the context
    (`asyncio.to_thread` makes one); `job.log` knows its job anywhere.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        given = record.__dict__
        workflow = ambient()
        if workflow is not None and workflow.context.replaying:
            return False
        if not given.get("turnout_job"):
            known = dict(_NOTHING)
            context = _current.get(None)
            if workflow is not None:
                known |= workflow.context.log_fields
            elif context is not None:
                known |= job_fields(context)
            for name, value in known.items():
                given[name] = given.get(name) or value  # a program's own trace id is its own
        return True
