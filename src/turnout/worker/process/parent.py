"""The worker's side of `run_in="process"`: a sync activity in a child process that can really be stopped.

Every attempt gets a fresh interpreter (no fork of a process with threads and event loops), which imports the activity's
module by its name. guard.py says why nothing outlives the attempt or the worker, child.py what happens there.
Needs a POSIX system.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import attrs

from turnout.core.failure import ErrorInfo, Failure, FaultReason
from turnout.core.loglines import Line, marker
from turnout.core.record import Progress
from turnout.definition.activity import Activity
from turnout.errors import DefinitionError, TurnoutError
from turnout.telemetry import children
from turnout.worker.context import Host, JobFacts
from turnout.worker.failure import describe
from turnout.worker.process.child import load
from turnout.worker.process.frames import pack, unpack

logger = logging.getLogger("turnout.worker")

KILL_GRACE_S = 3.0
"""How long a child may clean up after it was asked to stop; less than an attempt's own patience."""
EXIT_S = 2.0
"""How long a child that has answered may take to end (its threads, its atexit handlers)."""


class ChildDied(TurnoutError):
    """The child process ended without an answer: it exited by itself, crashed, or was killed."""


@attrs.frozen(kw_only=True)
class ChildCall:
    """What a child is to run."""

    activity: Activity[..., Any]
    payload: str
    facts: JobFacts


@attrs.frozen(kw_only=True)
class ChildResult:
    """How the call ended: the result's JSON text, or the failure."""

    text: str | None = None
    failure: Failure | None = None


def locate(activity: Activity[..., Any]) -> tuple[str, str]:
    """The module and qualified name by which a child finds the activity; DefinitionError when it could not.

    Ask when a worker is built, so that the mistake shows before a job runs into it.
    """
    module, qualname = activity.fn.__module__, activity.fn.__qualname__
    advice = f'activity {activity.name}: run_in="process" needs a function that a new process can import'
    if module == "__main__":
        raise DefinitionError(f"{advice}; move {qualname} from the script that is run into a module of its own")
    if "<" in qualname:
        raise DefinitionError(f"{advice}; {module}.{qualname} is not at the top of its module")
    try:
        found = load(module, qualname, activity.name)
    except (ImportError, AttributeError, TurnoutError) as error:
        raise DefinitionError(f"{advice}; {module}.{qualname} is not there: {error}") from error
    if found.fn is not activity.fn:
        raise DefinitionError(f"{advice}; {module}.{qualname} is something else there (another decorator over it?)")
    return module, qualname


async def run_in_child(
    call: ChildCall,
    host: Host,
    *,
    reason: Callable[[], str | None] = lambda: None,
    kill_grace_s: float = KILL_GRACE_S,
) -> ChildResult:
    """Run a sync activity in a process of its own; `host` carries out what the code reports.

    Cancelling this asks the code to stop, with what `reason()` says then. An answer within `kill_grace_s` seconds is
    returned, since a result counts even after a cancel; else the process and all it started are killed, and
    CancelledError is raised. When this returns or raises, the processes are gone.
    """
    child = await _Child.start(call)
    talk = asyncio.create_task(child.converse(host))
    try:
        try:
            return await asyncio.shield(talk)
        except asyncio.CancelledError:
            child.send(pack("cancel", reason=reason() or "cancelled"))
            await asyncio.wait({talk}, timeout=kill_grace_s)
            if not talk.done():
                raise
            return talk.result()
    finally:
        answered = talk.done()
        talk.cancel()
        await _uninterrupted(child.end(EXIT_S if answered else 0.0))


async def _uninterrupted(ending: Any) -> None:
    """Finish the clean-up whatever happens meanwhile; a cancellation is raised after it."""
    task = asyncio.ensure_future(ending)
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
    task.result()


_CREDENTIALS = frozenset(
    ["NATS_CONTEXT", "NATS_USER", "NATS_PASSWORD", "NATS_TOKEN", "NATS_CREDS", "NATS_NKEY", "NATS_CERT", "NATS_KEY"]
)


def _without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment for a child, without what lets it be the worker: its code is a job's, and maybe more's.

    >>> _without_credentials({"NATS_URL": "nats://me:secret@here,nats://there:4222", "NATS_CREDS": "/me", "HOME": "/"})
    {'NATS_URL': 'nats://here,nats://there:4222', 'HOME': '/'}
    """
    kept = {name: value for name, value in environment.items() if name not in _CREDENTIALS}
    if "NATS_URL" in kept:
        kept["NATS_URL"] = re.sub(r"(?<![^/,])[^/@,]*@", "", kept["NATS_URL"])
    return kept


class _Spawned(Protocol):
    """The part of asyncio's Process that is used here."""

    @property
    def returncode(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    async def wait(self) -> int: ...


class _Child:
    """One running child: its guard process and the socket to its code."""

    def __init__(
        self, process: _Spawned, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, facts: JobFacts
    ) -> None:
        self._process = process
        self._facts = facts
        self._reader = reader
        self._writer = writer
        self._storing: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, call: ChildCall) -> _Child:
        module, qualname = locate(call.activity)
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "turnout.worker.process.guard", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                env={**_without_credentials(os.environ), "PYTHONPATH": os.pathsep.join(map(os.fspath, sys.path))},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # A Ctrl-C in the worker's terminal is the worker's to pass on.
            )
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()  # A guard that did start sees that, and ends.
            raise
        finally:
            theirs.close()
        child = cls(process, reader, writer, call.facts)
        child.send(
            pack(
                "call",
                module=module,
                qualname=qualname,
                payload=call.payload,
                facts=attrs.asdict(call.facts),
                tracing=children.for_child(),
                path=[os.fspath(entry) for entry in sys.path],
                pythonpath=os.environ.get("PYTHONPATH"),
                log_level=logging.getLogger().getEffectiveLevel(),
            )
        )
        return child

    def send(self, frame: bytes) -> None:
        self._writer.write(frame)

    async def converse(self, host: Host) -> ChildResult:
        """Carry out what the code reports until it answers, or is gone."""
        try:
            while (frame := await unpack(self._reader)) is not None:
                match frame["kind"]:
                    case "progress":
                        host.report(Progress(frame["done"], frame["total"], frame["message"]))
                    case "beat":
                        host.beat()
                    case "checkpoint":
                        self._store(host.checkpoint(frame["text"]), frame["number"])
                    case "slow_down":
                        self._store(host.slow_down(frame["limit"], frame["seconds"]), frame["number"])
                    case "log":
                        _log(frame)
                    case "lines":
                        self._keep(host, frame)
                    case "result":
                        return ChildResult(text=frame["text"])
                    case "error":
                        return ChildResult(failure=_failure(frame))
                    case _:
                        raise AssertionError(frame["kind"])
            return ChildResult(failure=_died(await self._process.wait()))
        finally:
            for task in self._storing:
                task.cancel()

    def _keep(self, host: Host, frame: dict[str, Any]) -> None:
        """The lines of `job.log`; what was dropped of them there is said here."""
        lines = [Line(at, level, self._facts.attempt, self._facts.node, text) for at, level, text in frame["lines"]]
        if frame["dropped"]:
            host.log(marker(frame["dropped"], lines[0]))
        for line in lines:
            host.log(line)

    def _store(self, storing: Coroutine[Any, Any, None], number: int) -> None:
        """In a task of its own, so that heartbeats are heard meanwhile."""
        task = asyncio.create_task(self._stored(storing, number))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

    async def _stored(self, storing: Coroutine[Any, Any, None], number: int) -> None:
        error: tuple[str, str] | None = None
        try:
            await storing
        except asyncio.CancelledError:
            error = ("TurnoutError", "nothing was stored: the attempt is being stopped")
        except Exception as problem:  # whatever storing raised is for the code that asked for it
            error = (type(problem).__name__, str(problem))
        self.send(pack("stored", number=number, error=error))

    async def end(self, patience_s: float) -> None:
        """Wait so long for the child to end by itself, then have it killed; returns when nothing is left of it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._process.wait()
        for stop in (self._process.terminate, self._process.kill):  # The guard kills the rest, and needs no second.
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, TimeoutError):
                    stop()
                    async with asyncio.timeout(5):
                        await self._process.wait()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _failure(frame: dict[str, Any]) -> Failure:
    error = ErrorInfo(frame["type"], frame["message"], frame["traceback"])
    fault = FaultReason(frame["fault"]) if frame["fault"] is not None else None
    marks = {name: bool(frame[name]) for name in ("snoozed", "deferred")}
    return Failure(error, tuple(frame["mro"]), fault, frame["retry_after"], **marks)


def _died(status: int) -> Failure:
    """What the exit status of a child says that gave no answer."""
    if status < 0:
        how = f"was killed by {_signal_name(-status)}"
    else:
        how = f"exited with code {status} before the activity returned"
    error = ChildDied(f"the child process {how}")
    return describe(error)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _log(frame: dict[str, Any]) -> None:
    """Write a log record of the child as one of ours, by the handlers and levels that are set here."""
    target = logging.getLogger(frame["name"])
    if target.isEnabledFor(frame["levelno"]):
        fields = {key: value for key, value in frame.items() if key not in ("kind", "extra")}
        target.handle(logging.makeLogRecord({**fields, **frame["extra"]}))
