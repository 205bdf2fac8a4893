"""The second process of a child: the function of the user, and the conversation with the worker about it.

It runs the function in its main thread; a thread with an event loop keeps the conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import itertools
import logging
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from turnout import errors
from turnout.core.failure import Failure, FaultReason
from turnout.core.loglines import Line
from turnout.core.record import Progress
from turnout.definition.activity import Activity, activity
from turnout.definition.plain_json import PayloadProblem
from turnout.errors import InvalidArguments, InvalidValue
from turnout.telemetry.children import in_child
from turnout.worker.context import JobContext, JobContextFilter, JobFacts, entered
from turnout.worker.failure import InvalidResult, describe
from turnout.worker.process.frames import pack, unpack

FLUSH_S = 0.1
"""Progress, heartbeats and the lines to be kept are sent at most this often."""
LINES_MAX = 200
"""How many lines to be kept gather between two of these; the oldest go first."""
EXTRA_MAX = 32
"""How many fields of its own a log record may bring along."""
LOG_BUFFER_MAX = 8 * 1024 * 1024
"""Log lines are dropped while the worker has this many bytes still to read."""


class Conversation:
    """Runs one call and reports to the worker. The context's `Host`."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._loop = asyncio.new_event_loop()
        self._writer: asyncio.StreamWriter | None = None
        self._call: dict[str, Any] = {}
        self._ready = threading.Event()
        self._stored: dict[int, asyncio.Future[None]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._beaten = False
        self._lines: deque[Line] = deque()
        self._dropped = 0
        self._flushing = False
        self._context: Any = None
        self._cancel: str | None = None
        self._end_tracing: Callable[[], None] = lambda: None

    def run(self) -> None:
        """Take the call, run it, say how it ended, exit."""
        threading.Thread(target=self._loop.run_until_complete, args=(self._listen(),), daemon=True).start()
        self._ready.wait()
        frame = self._answer()
        asyncio.run_coroutine_threadsafe(self._finish(frame), self._loop).result()
        self._end_tracing()
        sys.exit(0)

    def _answer(self) -> bytes:
        """The last frame: the result, or the error. Here the user's code is called, so everything is caught."""
        try:
            self._restore_surroundings()
            called = load(self._call["module"], self._call["qualname"], self._call["facts"]["activity"])
            try:
                args, kwargs = called.codec.decode(self._call["payload"])
            except PayloadProblem as error:
                return _error(describe(error, FaultReason.invalid_payload))
            value = self._run_code(called, args, kwargs)
            try:
                return pack("result", text=called.codec.encode_result(value))
            except (InvalidValue, InvalidArguments) as error:
                problem = InvalidResult(f"the result of {called.name} can't be stored: {error}")
                return _error(describe(problem, FaultReason.invalid_result))
        except BaseException as error:  # the user's code; sys.exit() in it is a failure like others
            return _error(describe(error))

    def _run_code(self, called: Activity[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._end_tracing = in_child(self._call["tracing"])  # the module has been imported: its own tracing comes first
        context = JobContext(JobFacts(**self._call["facts"]), self, self._loop)
        with self._lock:
            self._context = context
            if self._cancel is not None:
                context.ask_to_stop(self._cancel)
        with entered(context):
            value = called.fn(*args, **kwargs)
            # A plain wrapper around async code gives a coroutine.
            return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value

    def _restore_surroundings(self) -> None:
        """What the worker has: its import path, its environment, its log level."""
        sys.path[:] = self._call["path"]
        if self._call["pythonpath"] is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = self._call["pythonpath"]
        forwarder = _Forwarder(self)
        forwarder.addFilter(JobContextFilter())
        logging.root.handlers[:] = [forwarder]
        logging.root.setLevel(self._call["log_level"])

    # -- what the code reports; any thread

    def report(self, progress: Progress) -> None:
        with self._lock:
            self._progress = progress
        self._flush_soon()

    def beat(self) -> None:
        self._beaten = True
        self._flush_soon()

    def log(self, line: Line) -> None:
        with self._lock:
            self._lines.append(line)
            if len(self._lines) > LINES_MAX:
                self._lines.popleft()
                self._dropped += 1
        self._flush_soon()

    async def checkpoint(self, text: str) -> None:
        """Returns when the worker has stored it; on the loop of this conversation."""
        self._flush()
        await self._have_stored("checkpoint", text=text)

    async def slow_down(self, limit: str, seconds: float) -> None:
        """Likewise."""
        await self._have_stored("slow_down", limit=limit, seconds=seconds)

    async def _have_stored(self, kind: str, **fields: Any) -> None:
        number = next(self._numbers)
        self._stored[number] = self._loop.create_future()
        self.send(pack(kind, number=number, **fields))
        try:
            await self._stored[number]
        finally:
            del self._stored[number]

    def forward(self, fields: dict[str, Any]) -> None:
        """A log record, for the worker's handlers."""
        with contextlib.suppress(RuntimeError):  # The loop is closed: the process is about to end.
            self._loop.call_soon_threadsafe(self._send_log, fields)

    # -- on the loop's thread

    async def _listen(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
        while (frame := await unpack(reader)) is not None:
            match frame["kind"]:
                case "call":
                    self._call = frame
                    self._ready.set()
                case "cancel":
                    self._ask_to_stop(frame["reason"])
                case "stored":
                    self._settle(frame["number"], frame["error"])
                case _:
                    raise AssertionError(frame["kind"])

    def _ask_to_stop(self, reason: str) -> None:
        with self._lock:
            self._cancel = reason
            if self._context is not None:
                self._context.ask_to_stop(reason)

    def _settle(self, number: int, error: list[str] | None) -> None:
        future = self._stored.get(number)
        if future is None or future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(_worker_error(*error))

    def send(self, frame: bytes) -> None:
        assert self._writer is not None
        self._writer.write(frame)

    def _send_log(self, fields: dict[str, Any]) -> None:
        assert self._writer is not None
        if self._writer.transport.get_write_buffer_size() < LOG_BUFFER_MAX:
            self.send(pack("log", **fields))

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            with contextlib.suppress(RuntimeError):  # As above.
                self._loop.call_soon_threadsafe(self._loop.call_later, FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        with self._lock:
            progress, self._progress, beaten, self._beaten = self._progress, None, self._beaten, False
            lines, dropped, self._dropped = list(self._lines), self._dropped, 0
            self._lines.clear()
        if lines:
            self.send(pack("lines", lines=[(line.at, line.level, line.message) for line in lines], dropped=dropped))
        if progress is not None:
            self.send(pack("progress", done=progress.done, total=progress.total, message=progress.message))
        elif beaten:
            self.send(pack("beat"))

    async def _finish(self, frame: bytes) -> None:
        self._flush()
        self.send(frame)
        assert self._writer is not None
        self._writer.write_eof()
        self._writer.transport.set_write_buffer_limits(0)
        await self._writer.drain()


class _Forwarder(logging.Handler):
    """Sends log records to the worker, whose own handlers write them."""

    def __init__(self, conversation: Conversation) -> None:
        super().__init__()
        self._conversation = conversation
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            trouble = self._formatter.formatException(record.exc_info) if record.exc_info else None
            extra = _extra(record)
        except Exception:  # a bad format string of the user's; this is how logging reports it
            self.handleError(record)
            return
        self._conversation.forward(
            {
                "name": record.name,
                "levelno": record.levelno,
                "levelname": record.levelname,
                "msg": message,
                "created": record.created,
                "pathname": record.pathname,
                "lineno": record.lineno,
                "funcName": record.funcName,
                "exc_text": trouble,
                "extra": extra,
            }
        )


_OWN = {*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName"}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller, or a filter, has added to the record; what JSON can't carry as its text."""
    added = list(itertools.islice(((k, v) for k, v in record.__dict__.items() if k not in _OWN), EXTRA_MAX))
    return {key: value if isinstance(value, str | int | float | None) else str(value)[:1000] for key, value in added}


def load(module: str, qualname: str, name: str) -> Activity[..., Any]:
    """The activity by the place of its function; the place may hold the function itself."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found if isinstance(found, Activity) else activity(name=name)(found)


def _error(failure: Failure) -> bytes:
    return pack(
        "error",
        fault=failure.fault,
        type=failure.error.type,
        mro=failure.mro,
        message=failure.error.message,
        traceback=failure.error.traceback,
        retry_after=failure.retry_after,
        snoozed=failure.snoozed,
        deferred=failure.deferred,
    )


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _worker_error(name: str, message: str) -> Exception:
    """An error of the worker's, as the class of turnout.errors that it was there, if it was one."""
    cls = getattr(errors, name, None)
    if (
        isinstance(cls, type)
        and issubclass(cls, errors.TurnoutError)
        and not issubclass(cls, errors.RetryLater | errors.Snooze)
    ):
        return cls(message)
    return errors.TurnoutError(f"{name}: {message}")
