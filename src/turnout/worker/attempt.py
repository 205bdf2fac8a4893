"""One attempt: the user's code under its timeouts, its reports, and the cancellation that may reach it.

`Attempt.run()` never raises what the code raised: it returns the event that says how the attempt ended, or None when
the lease was lost and nobody wants to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import threading
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from turnout.core.events import Aborted, Cancelled, Completed, Failed, Reported
from turnout.core.loglines import Line
from turnout.core.retry import mro_names
from turnout.core.values import Body, ErrorInfo, JobRecord, Progress, Token
from turnout.definition.activity import Activity
from turnout.definition.codec import PayloadProblem
from turnout.errors import Fatal, InvalidValue, RetryLater, TurnoutError
from turnout.jetstream.payloads import inline
from turnout.jetstream.perform import Performer, Store, patiently
from turnout.jetstream.registry import Loaded
from turnout.telemetry import metrics, spans
from turnout.telemetry.attempts import AttemptSpan
from turnout.worker.context import JobContext, JobFacts, entered, job_fields
from turnout.worker.joblog import AttemptLog
from turnout.worker.lease import Lease
from turnout.worker.process import ChildFailure

logger = logging.getLogger("turnout.worker")

_HERE = Path(__file__).parent

REPORT_INTERVAL_S = 1.0
CLEANUP_S = 5.0
"""How long code may clean up after it was asked to stop; then the attempt ends without it."""

Outcome = Completed | Failed | Cancelled | Aborted
RunCode = Callable[["Attempt", str], Awaitable[str]]
"""Runs the activity on a payload's text and gives the result's text (worker/code.py)."""


def error_info(error: BaseException) -> ErrorInfo:
    """An exception as the record keeps it."""
    try:
        message = str(error)
    except Exception as broken:  # the exception is user code, and so is its text
        message = f"(its text can't be told: {type(broken).__qualname__})"
    lines = traceback.format_exception(type(error), error, _from_the_users_code(error.__traceback__))
    return ErrorInfo(type(error).__qualname__, message, "".join(lines))


def _from_the_users_code(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the worker's own frames, which are above the code that it called."""
    inner = trace
    while inner is not None and Path(inner.tb_frame.f_code.co_filename).parent == _HERE:
        inner = inner.tb_next
    return inner or trace


class ChildError(Exception):
    """The failure of a child process, raised on this side."""

    def __init__(self, failure: ChildFailure) -> None:
        super().__init__(failure.info.message)
        self.failure = failure


class Attempt:
    """Runs one attempt and is its one writer (P1): at most one write in flight, progress folded into the next."""

    def __init__(
        self,
        activity: Activity[..., Any],
        job: Loaded,
        store: Store,
        performer: Performer,
        lease: Lease,
        tracing: AttemptSpan,
    ) -> None:
        record = job.record
        assert record is not None and record.token is not None
        self.activity = activity
        self.record: JobRecord = record
        self.token: Token = record.token
        self.job = job
        self.lease = lease
        self._store = store
        self._performer = performer
        self.span = tracing.span
        self._tracing = tracing
        self._loop = asyncio.get_running_loop()
        self._progress: Progress | None = None
        self._waking = False
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._reporter: asyncio.Task[None] | None = None
        self._code: asyncio.Future[str] | None = None
        self._last_beat = self._loop.time()
        self._timeout_message = ""
        self._log: AttemptLog | None = None
        self.context: JobContext = JobContext(self._facts(), self, self._loop)

    @property
    def code(self) -> asyncio.Future[str] | None:
        """The code that runs, None before it has begun."""
        return self._code

    # --- the life of the attempt --------------------------------------------------------------------------------------

    async def run(self, run_code: RunCode) -> Outcome | None:
        """Run the code and say how it ended."""
        timers: list[asyncio.TimerHandle] = []
        try:
            payload = await self._prepare()
            timers = self._start_timers()
            return await self._outcome(run_code, payload)
        except TurnoutError as error:
            return self._failed(error_info(error), mro_names(error))  # what the job refers to can't be read
        finally:
            for timer in timers:
                timer.cancel()
            if self._reporter is not None:
                self._reporter.cancel()
            if self._code is None or self._code.done():
                self.context.end()
            if self._log is not None:
                self._log.end()

    async def _prepare(self) -> str:
        """Fetch what the record refers to; the payload's text."""
        checkpoint = self.record.checkpoint
        if checkpoint is not None:
            self.context.restore(await self._text(checkpoint))
        return await self._text(self.record.payload)

    async def _outcome(self, run_code: RunCode, payload: str) -> Outcome | None:
        with entered(self.context):  # which the task takes along
            self._code = self._loop.create_task(self._contained(run_code, payload))
        self._code.add_done_callback(self._end_wait)  # which `_contained` has done already, if it ever began
        if self.context.cancel_reason is not None:  # asked while the payload was fetched
            self._cancel_code()
        self._look(self.record)
        await self._over
        reason = self.context.cancel_reason
        if not self._code.done():
            logger.warning(
                "job %s attempt %d did not stop within %g s of being asked to (%s); its code is left behind",
                *(self.record.id, self.record.attempt, CLEANUP_S, reason),
                extra=job_fields(self.context),
            )
            return self._stopped(reason)
        if self._code.cancelled():
            return self._stopped(reason)
        error = self._code.exception()
        if error is not None:
            return self._raised(error) if reason is None else self._stopped(reason, error)
        return await self._returned(self._code.result(), reason)

    async def _contained(self, run_code: RunCode, payload: str) -> str:
        """User code must not end the worker: `sys.exit()` in it is a failure like any other."""
        try:
            return await run_code(self, payload)
        except SystemExit as error:
            raise CodeExit(f"the code called sys.exit({error.code!r})") from error
        finally:
            self._end_wait()  # the wait goes on in the next turn of the loop, when this task is done

    async def _returned(self, text: str, reason: str | None) -> Outcome | None:
        """A result counts, even after a cancel request; after a timeout it came too late."""
        if reason in ("timed_out", "lease_lost"):
            return self._stopped(reason)
        try:
            body = await self._body(text, "result")
        except InvalidValue as error:
            return self._failed(error_info(error), mro_names(error), fatal="invalid_result")
        return Completed(token=self.token, now=self._now(), progress=self._progress, result=body,
                         exhausted=self.lease.exhausted)  # fmt: skip

    def _stopped(self, reason: str | None, error: BaseException | None = None) -> Outcome | None:
        """How a cancelled attempt ended. A cancellation that nobody asked for is a failure."""
        match reason:
            case "lease_lost":
                return None
            case "timed_out":
                message = self._timeout_message
                return self._failed(ErrorInfo("TimeoutError", message), _TIMEOUT_MRO, timed_out=True)
            case "node_stopping":
                return Aborted(token=self.token, now=self._now(), progress=self._progress,
                               exhausted=self.lease.exhausted)  # fmt: skip
            case None:
                unasked = ErrorInfo("CancelledError", "the code was cancelled, and nobody had asked for it")
                return self._failed(unasked, _CANCELLED_MRO)
            case _:
                return Cancelled(token=self.token, now=self._now(), progress=self._progress,
                                 exhausted=self.lease.exhausted)  # fmt: skip

    def _raised(self, error: BaseException) -> Outcome:
        match error:
            case ChildError(failure=failure):
                final = failure.kind in ("fatal", "invalid_payload", "invalid_result")
                fatal = failure.kind if final else None
                return self._failed(failure.info, failure.mro, fatal=fatal, retry_after=failure.retry_after)
            case Fatal():
                return self._failed(error_info(error), mro_names(error), fatal="fatal")
            case PayloadProblem():
                return self._failed(error_info(error), mro_names(error), fatal="invalid_payload")
            case RetryLater():
                return self._failed(error_info(error), mro_names(error), retry_after=error.delay_s)
            case InvalidResult():
                return self._failed(error_info(error), mro_names(error), fatal="invalid_result")
            case _:
                return self._failed(error_info(error), mro_names(error))

    def _failed(
        self,
        error: ErrorInfo,
        mro: tuple[str, ...],
        *,
        fatal: str | None = None,
        retry_after: float | None = None,
        timed_out: bool = False,
    ) -> Failed:
        return Failed(
            token=self.token,
            now=self._now(),
            progress=self._progress,
            exhausted=self.lease.exhausted,
            error=error,
            error_mro=mro,
            u=random.random(),
            retry_after=retry_after,
            fatal=fatal,
            timed_out=timed_out,
        )

    # --- stopping -----------------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Ask the code to stop; it may clean up for `CLEANUP_S`. The first reason counts; a lost lease beats it."""
        if self.context.cancel_reason is not None and reason != "lease_lost":
            return
        if reason == "lease_lost" and self.context.cancel_reason != reason:
            metrics.LEASE_FAILURES.add(("lost",))
        self.context.ask_to_stop(reason)
        self._tracing.asked_to_stop(reason)
        self._cancel_code()

    def _cancel_code(self) -> None:
        if self._code is not None and not self._code.done():
            self._code.cancel()
            self._loop.call_later(CLEANUP_S, self._end_wait)

    def _end_wait(self, _: object = None) -> None:
        """The code has ended, or is left behind."""
        if not self._over.done():
            self._over.set_result(None)

    def _start_timers(self) -> list[asyncio.TimerHandle]:
        timeout = self.record.options.timeout or self.activity.settings.timeout
        timers = []
        if timeout is not None:
            timers.append(self._loop.call_later(timeout, self._time_out, f"the attempt took longer than {timeout:g} s"))
        if self.record.expires_at is not None:
            rest = max(self.record.expires_at - self._now(), 0.0)
            message = f"the job was not finished {self.record.options.expires_in:g} s after its submission"
            # A little late rather than early: the decision asks whether the deadline has passed.
            timers.append(self._loop.call_later(rest + 0.01, self._time_out, message))
        self._last_beat = self._loop.time()
        if self.activity.settings.heartbeat_timeout is not None:
            self._watch_heart(self.activity.settings.heartbeat_timeout)
        return timers

    def _watch_heart(self, limit_s: float) -> None:
        silent_s = self._loop.time() - self._last_beat
        if silent_s >= limit_s:
            self._time_out(f"no heartbeat or progress for {limit_s:g} s")
        elif self._code is None or not self._code.done():
            self._loop.call_later(limit_s - silent_s, self._watch_heart, limit_s)

    def _time_out(self, message: str) -> None:
        self._timeout_message = message
        self.stop("timed_out")

    # --- made when they are needed, which in most jobs is never -------------------------------------------------------

    @functools.cached_property
    def _writing(self) -> asyncio.Lock:
        return asyncio.Lock()

    @functools.cached_property
    def _dirty(self) -> asyncio.Event:
        return asyncio.Event()

    @functools.cached_property
    def _notices(self) -> set[asyncio.Task[None]]:
        return set()

    # --- what the code reports (the context's host) -------------------------------------------------------------------

    def report(self, progress: Progress) -> None:
        """Any thread; the newest report is written when the last one's second is over."""
        self._progress = progress
        self._tracing.progress(progress)
        self.beat()
        if not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: a thread that was left behind reports
                self._loop.call_soon_threadsafe(self._wake_reporter)

    def beat(self) -> None:
        self._last_beat = self._loop.time()

    def log(self, line: Line) -> None:
        """Any thread; most jobs never log, and make nothing for it."""
        if self._log is None:
            with _first_line:
                if self._log is None:
                    self._log = AttemptLog(self._store, self.record, self.span, self._loop)
        self._log.add(line)

    async def checkpoint(self, text: str) -> None:
        """Durable when it returns; cancelled when the lease turns out to be lost."""
        self.beat()
        before = self.record.checkpoint
        body = await self._body(text, "checkpoint")
        if not await self._write(Reported(token=self.token, progress=self._progress, checkpoint=body)):
            raise asyncio.CancelledError
        self._tracing.checkpoint(body.size)
        if before is not None and before.ref is not None:
            with contextlib.suppress(TurnoutError):  # it is stored: what can't be cleared up is not the code's concern
                await self._store.payloads.delete(before)

    async def _text(self, body: Body) -> str:
        if body.ref is None:
            return body.text or ""
        return await patiently(lambda: self._store.payloads.get(body))

    async def _body(self, text: str, what: str) -> Body:
        small = inline(text)
        if small is not None:
            return small
        return await patiently(lambda: self._store.payloads.put(text, what, self.record.id))

    def _wake_reporter(self) -> None:
        if self._code is not None and not self._code.done():
            self._dirty.set()
            if self._reporter is None:
                self._reporter = self._loop.create_task(self._report_forever())

    async def _report_forever(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._waking = False
            await self._write(Reported(token=self.token, progress=self._progress))
            await asyncio.sleep(REPORT_INTERVAL_S)

    # --- notices of the lease thread ----------------------------------------------------------------------------------

    def changed(self) -> None:
        """Somebody else has written the record."""
        self._notices.add(task := self._loop.create_task(self.refresh()))
        task.add_done_callback(self._notices.discard)

    def lost(self) -> None:
        """Somebody else owns the job."""
        self.stop("lease_lost")

    # --- the record ---------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Read the record again: somebody asked for a cancel, or took the job away."""
        async with self._writing:
            with contextlib.suppress(TurnoutError):  # the next heartbeat looks again
                self._adopt(await self._store.registry.load(self.record.activity, self.record.id))

    async def _write(self, event: Reported) -> bool:
        """Apply the event; False when the attempt is not ours any more."""
        async with self._writing:
            applied = await self._performer.apply(self.record.activity, self.record.id, event, self.job)
            if applied.abandoned:
                self.stop("lease_lost")
                return False
            self._adopt(applied.job)
            return True

    def _adopt(self, job: Loaded) -> None:
        if job.record is None or not job.record.owned_by(self.token):
            self.stop("lease_lost")
            return
        self.job, self.record = job, job.record
        self.lease.revision = job.revision
        self._look(job.record)

    def _look(self, record: JobRecord) -> None:
        if record.cancel_request is not None:
            self.stop(f"cancelled: {record.cancel_request}" if record.cancel_request else "cancelled")

    def _facts(self) -> JobFacts:
        record = self.record
        return JobFacts(
            id=record.id,
            activity=record.activity,
            attempt=record.attempt,
            node=self.token.node,
            labels=dict(record.options.labels),
            submitted_at=record.submitted_at,
            trace_id=record.trace_id,
            span_id=spans.known_id(self.span),
        )

    def _now(self) -> float:
        return self._store.connection.now()


_first_line = threading.Lock()


class CodeExit(Exception):
    """The code tried to end the process."""


class InvalidResult(InvalidValue):
    """The code returned what JSON can't carry, or not what its annotation says."""


_TIMEOUT_MRO = mro_names(TimeoutError())
# A cancellation counts as an ordinary failure, though CancelledError is no Exception.
_CANCELLED_MRO = (*mro_names(asyncio.CancelledError()), "builtins.Exception")
