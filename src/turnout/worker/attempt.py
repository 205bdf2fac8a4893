"""One attempt: the user's code under its timeouts, and the cancellation that may reach it.

`Attempt.run()` never raises what the code raised: it returns the event that says how the attempt ended, or None when
the lease was lost and nobody wants to know.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from turnout.core.events import Aborted, Cancelled, Completed, Deferred, Failed, Snoozed
from turnout.core.failure import LEASE_LOST, TIMED_OUT, ErrorInfo, Failure, FaultReason, Stop, StopReason
from turnout.core.record import JobRecord
from turnout.core.retry import mro_names
from turnout.definition.activity import Activity
from turnout.errors import InvalidValue, PayloadTooLarge, TurnoutError
from turnout.nats.clock import Alarm
from turnout.store.perform import Performer, Store
from turnout.store.records import Versioned
from turnout.telemetry import metrics, spans
from turnout.telemetry.attempts import AttemptSpan
from turnout.worker.context import JobContext, JobFacts, enter, job_fields
from turnout.worker.failure import CodeFailed, describe
from turnout.worker.leases import Lease
from turnout.worker.reports import Reports

logger = logging.getLogger("turnout.worker")

CLEANUP_S = 5.0
"""How long code may clean up after it was asked to stop; then the attempt ends without it."""

Outcome = Completed | Failed | Snoozed | Deferred | Cancelled | Aborted
RunCode = Callable[[str], Awaitable[str]]
"""Runs the activity on a payload's text and gives the result's text (worker/code.py)."""


class Attempt:
    """Runs one attempt. The owner of its lease."""

    def __init__(
        self,
        activity: Activity[..., Any],
        job: Versioned,
        store: Store,
        performer: Performer,
        lease: Lease,
        tracing: AttemptSpan,
    ) -> None:
        self.activity = activity
        self.reports = Reports(job, store, performer, lease, tracing, self.stop)
        self._lease = lease
        self._tracing = tracing
        self._now = store.connection.now
        self._later = store.connection.later
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._code: asyncio.Future[str] | None = None
        self._timeout_message = ""
        self._reason: StopReason | None = None
        self._cut_off = False
        self.context: JobContext = JobContext(self._facts(), self.reports, self._loop)

    @property
    def record(self) -> JobRecord:
        """The job as it stands."""
        return self.reports.record

    @property
    def code(self) -> asyncio.Future[str] | None:
        """The code that runs, None before it has begun."""
        return self._code

    # --- the life of the attempt --------------------------------------------------------------------------------------

    async def run(self, run_code: RunCode) -> Outcome | None:
        """Run the code and say how it ended."""
        timers: list[Alarm] = []
        try:
            payload = await self._prepare()
            timers = self._start_timers()
            return await self._outcome(run_code, payload)
        except TurnoutError as error:
            return self._failed(describe(error))  # what the job refers to can't be read
        finally:
            for timer in timers:
                timer.cancel()
            if self._code is None or self._code.done():
                self.context.end()
                self._code = None  # what it has raised refers to this attempt
            self.reports.end()

    async def _prepare(self) -> str:
        """Fetch what the record refers to; the payload's text."""
        record = self.reports.record
        if record.checkpoint is not None:
            self.context.restore(await self.reports.text(record.checkpoint))
        return await self.reports.text(record.spec.payload)

    async def _outcome(self, run_code: RunCode, payload: str) -> Outcome | None:
        self._code = self._loop.create_task(self._contained(run_code, payload))
        if self._reason is not None:  # asked while the payload was fetched
            self._cancel_code()
        self.reports.heed_cancel()
        await self._over
        reason = self._reason
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
            return self._raised(error) if reason is None else self._stopped(reason)
        return await self._returned(self._code.result(), reason)

    async def _contained(self, run_code: RunCode, payload: str) -> str:
        enter(self.context)
        try:
            return await run_code(payload)
        finally:
            self._end_wait()  # the wait goes on in the next turn of the loop, when this task is done

    async def _returned(self, text: str, reason: StopReason | None) -> Outcome | None:
        """A result counts, even after a cancel request; after a timeout it came too late."""
        if reason is not None and reason in (TIMED_OUT, LEASE_LOST):
            return self._stopped(reason)
        try:
            body = await self.reports.body(text, "result")
        except InvalidValue as error:
            return self._failed(describe(error, FaultReason.invalid_result))
        return Completed(token=self.reports.token, now=self._now(), progress=self.reports.progress, result=body,
                         exhausted=self._lease.exhausted)  # fmt: skip

    def unstorable(self, error: PayloadTooLarge) -> Failed:
        """The end instead of one that the server won't store: it would be as little stored the next time."""
        self.reports.progress = None
        return self._failed(describe(error.with_traceback(None), FaultReason.invalid_result))

    def _stopped(self, reason: StopReason | None) -> Outcome | None:
        """How a cancelled attempt ended. A cancellation that nobody asked for is a failure."""
        token, progress, exhausted = self.reports.token, self.reports.progress, self._lease.exhausted
        match reason.stop if reason is not None else None:
            case Stop.lease_lost if not self._cut_off:
                return None
            case Stop.timed_out:
                error = ErrorInfo("TimeoutError", self._timeout_message)
                return self._failed(Failure(error, _TIMEOUT_MRO, timed_out=True))
            case Stop.node_stopping | Stop.lease_lost:
                return Aborted(token=token, now=self._now(), progress=progress, exhausted=exhausted)
            case None:
                return self._raised(asyncio.CancelledError())
            case Stop.cancelled:
                return Cancelled(token=token, now=self._now(), progress=progress, exhausted=exhausted)

    def _raised(self, error: BaseException) -> Outcome:
        failure = error.failure if isinstance(error, CodeFailed) else describe(error)
        token, progress, exhausted = self.reports.token, self.reports.progress, self._lease.exhausted
        if failure.deferred:
            return Deferred(token=token, now=self._now(), progress=progress, exhausted=exhausted,
                            timeout_s=failure.retry_after, u=random.random())  # fmt: skip
        if failure.snoozed and failure.retry_after is not None:
            return Snoozed(token=token, now=self._now(), progress=progress, exhausted=exhausted,
                           delay_s=failure.retry_after, message=failure.error.message)  # fmt: skip
        return self._failed(failure)

    def _failed(self, failure: Failure) -> Failed:
        return Failed(
            token=self.reports.token,
            now=self._now(),
            progress=self.reports.progress,
            exhausted=self._lease.exhausted,
            failure=failure,
            u=random.random(),
        )

    # --- stopping -----------------------------------------------------------------------------------------------------

    def stop(self, reason: StopReason) -> None:
        """Ask the code to stop; it may clean up for `CLEANUP_S`. The first reason counts; a lost lease beats it."""
        if self._reason is not None and reason != LEASE_LOST:
            return
        if reason == LEASE_LOST and self._reason != reason:
            metrics.LEASE_FAILURES.add(("lost",))
        self._reason = reason
        self.context.ask_to_stop(str(reason))
        self._tracing.asked_to_stop(reason)
        self._cancel_code()

    def _cancel_code(self) -> None:
        if self._code is not None and not self._code.done():
            self._code.cancel()
            self._code.add_done_callback(self._end_wait)  # which `_contained` has done already, if it ever began
            self._loop.call_later(CLEANUP_S, self._end_wait)

    def _end_wait(self, _: object = None) -> None:
        """The code has ended, or is left behind."""
        if not self._over.done():
            self._over.set_result(None)

    def _start_timers(self) -> list[Alarm]:
        spec = self.reports.record.spec
        timeout = spec.options.timeout or self.activity.settings.timeout
        timers: list[Alarm] = []
        if timeout is not None:
            timers.append(self._later(timeout, self._time_out, f"the attempt took longer than {timeout:g} s"))
        if spec.expires_at is not None:
            rest = max(spec.expires_at - self._now(), 0.0)
            message = f"the job was not finished {spec.options.expires_in:g} s after its submission"
            # A little late rather than early: the decision asks whether the deadline has passed.
            timers.append(self._later(rest + 0.01, self._time_out, message))
        if self.activity.settings.heartbeat_timeout is not None:
            self.reports.beat()
            self._watch_heart(self.activity.settings.heartbeat_timeout)
        return timers

    def _watch_heart(self, limit_s: float) -> None:
        silent_s = self.reports.silent_s
        if silent_s >= limit_s:
            self._time_out(f"no heartbeat or progress for {limit_s:g} s")
        elif self._code is None or not self._code.done():
            self._loop.call_later(limit_s - silent_s, self._watch_heart, limit_s)

    def _time_out(self, message: str) -> None:
        self._timeout_message = message
        self.stop(TIMED_OUT)

    # --- the owner of the lease ---------------------------------------------------------------------------------------

    def changed(self, job: Versioned) -> None:
        """Somebody else has written the record."""
        self.reports.adopt(job)

    def lost(self) -> None:
        """Somebody else owns the job."""
        self.stop(LEASE_LOST)

    def unconfirmed(self, silent_s: float) -> None:
        """Nobody has confirmed the lease for this long."""
        self._tracing.lease_unconfirmed(silent_s)

    def cut_off(self) -> None:
        """The node may be taken for dead: the code stops, and the job goes on wherever there is a place for it."""
        if self._reason is None:
            self._cut_off = True
            self.stop(LEASE_LOST)

    def _facts(self) -> JobFacts:
        record = self.reports.record
        spec, parent = record.spec, record.spec.options.parent
        return JobFacts(
            id=spec.id,
            activity=spec.activity,
            attempt=record.attempt,
            node=self.reports.token.node,
            labels=dict(spec.options.labels),
            submitted_at=spec.submitted_at,
            trace_id=spec.trace_id,
            span_id=spans.known_id(self._tracing.span),
            workflow="" if parent is None else parent.id,
            workflow_name="" if parent is None else parent.name,
            workflow_run=0 if parent is None else parent.run,
        )


_TIMEOUT_MRO = mro_names(TimeoutError())
