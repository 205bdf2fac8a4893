"""The child's side of `run_in="process"`: `python -m turnout.worker.child FD`, started by worker/process.py alone.

Two processes. The first stays small, runs no code of the user, and guards the second: when the worker asks for it
(SIGTERM), when the worker is gone (its end of the socket closes, or the kernel says so), or when the second has ended
by itself, it kills what is left of the second's session, and ends exactly as the second ended. So code that holds the
interpreter lock for hours, and what it started (ffmpeg ...), can be stopped, and nothing outlives its worker but a
daemon that made a session of its own.

The second process is the leader of a session of its own. It runs the function in its main thread; a thread with an
event loop keeps the conversation with the worker: frames of JSON, each behind its length.

Nothing but the standard library is imported at the top: the guard needs no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import inspect
import itertools
import json
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # The guard would load all of pydantic for nothing.
    from turnout.core.failure import Failure
    from turnout.core.loglines import Line
    from turnout.core.record import Progress
    from turnout.definition.activity import Activity


HEADER = struct.Struct(">I")
FLUSH_S = 0.1
"""Progress, heartbeats and the lines to be kept are sent at most this often."""
LINES_MAX = 200
"""How many lines to be kept gather between two of these; the oldest go first."""
EXTRA_MAX = 32
"""How many fields of its own a log record may bring along."""
LOG_BUFFER_MAX = 8 * 1024 * 1024
"""Log lines are dropped while the worker has this many bytes still to read."""
REAP_S = 1.0
"""How long the guard waits for what it has killed to be gone."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def pack(kind: str, **fields: Any) -> bytes:
    """One frame of the conversation."""
    body = json.dumps({"kind": kind, **fields}, separators=(",", ":")).encode()
    return HEADER.pack(len(body)) + body


async def unpack(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next frame, or None when the other side is gone."""
    try:
        (length,) = HEADER.unpack(await reader.readexactly(HEADER.size))
        frame: dict[str, Any] = json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return frame


# -- the guard --------------------------------------------------------------------------------------------------------


def main(fd: int) -> None:
    """Become the guard and its ward; neither returns."""
    os.set_inheritable(fd, False)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # set_wakeup_fd tells; a handler must be there for that.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    ward = os.fork()
    if ward:
        _end_like(_guard(ward, fd, woken))
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.close(woken)
    os.close(wake)
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)
    _Conversation(fd).run()


def _guard(ward: int, fd: int, woken: int) -> int:
    """Wait for a reason to end, leave nothing of the ward's session behind, and tell the ward's wait status."""
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(fd, 0)  # Hangups only: what is said on the socket is for the ward.
    while not _ended(ward):
        events = dict(poll.poll())
        if fd in events or signal.SIGTERM in (os.read(woken, 64) if woken in events else b""):
            poll.unregister(fd)
            _kill_session(ward)
            break
    _kill_session(ward)
    _, status = os.waitpid(ward, 0)
    _reap()
    return status


def _ended(ward: int) -> bool:
    """Whether it has ended, without reaping it: until then its number cannot be given to anybody else."""
    return os.waitid(os.P_PID, ward, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_session(ward: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(ward, signal.SIGKILL)  # By number too: it may not have its session yet.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(ward, signal.SIGKILL)


def _reap() -> None:
    """Collect the ward's orphans, which are ours now, so that they are gone and not zombies of a container's init."""
    end = time.monotonic() + REAP_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.005)


def _end_like(status: int) -> None:
    """End as the ward did, so that the worker reads the ward's exit code or signal from the guard."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        _no_core_dump()
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def _no_core_dump() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the closed socket has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0)


# -- the ward ---------------------------------------------------------------------------------------------------------


class _Conversation:
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
        from turnout.core.failure import FaultReason
        from turnout.definition.plain_json import PayloadProblem
        from turnout.errors import InvalidArguments, InvalidValue
        from turnout.worker.failure import InvalidResult, describe

        try:
            self._restore_surroundings()
            activity = load(self._call["module"], self._call["qualname"], self._call["facts"]["activity"])
            try:
                args, kwargs = activity.codec.decode(self._call["payload"])
            except PayloadProblem as error:
                return _error(describe(error, FaultReason.invalid_payload))
            value = self._run_code(activity, args, kwargs)
            try:
                return pack("result", text=activity.codec.encode_result(value))
            except (InvalidValue, InvalidArguments) as error:
                problem = InvalidResult(f"the result of {activity.name} can't be stored: {error}")
                return _error(describe(problem, FaultReason.invalid_result))
        except BaseException as error:  # the user's code; sys.exit() in it is a failure like others
            return _error(describe(error))

    def _run_code(self, activity: Activity[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from turnout.telemetry.children import in_child
        from turnout.worker.context import JobContext, JobFacts, entered

        self._end_tracing = in_child(self._call["tracing"])  # the module has been imported: its own tracing comes first
        context = JobContext(JobFacts(**self._call["facts"]), self, self._loop)
        with self._lock:
            self._context = context
            if self._cancel is not None:
                context.ask_to_stop(self._cancel)
        with entered(context):
            value = activity.fn(*args, **kwargs)
            # A plain wrapper around async code gives a coroutine.
            return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value

    def _restore_surroundings(self) -> None:
        """What the worker has: its import path, its environment, its log level."""
        sys.path[:] = self._call["path"]
        if self._call["pythonpath"] is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = self._call["pythonpath"]
        from turnout.worker.context import JobContextFilter

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

    def __init__(self, conversation: _Conversation) -> None:
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
    from turnout.definition.activity import Activity, activity

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
    from turnout import errors

    cls = getattr(errors, name, None)
    if (
        isinstance(cls, type)
        and issubclass(cls, errors.TurnoutError)
        and not issubclass(cls, errors.RetryLater | errors.Snooze)
    ):
        return cls(message)
    return errors.TurnoutError(f"{name}: {message}")


if __name__ == "__main__":
    # By the module's real name: as __main__ its classes would exist twice.
    importlib.import_module("turnout.worker.child").main(int(sys.argv[1]))
