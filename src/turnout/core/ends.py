"""What an end makes of a job's record: of an attempt, by its code or by its node's death, and of the job itself.

Whether there is another attempt is decided here and nowhere else. Each way of writing an ended record has one function.
"""

from __future__ import annotations

from typing import assert_never

import attrs

from turnout.core.events import Aborted, Cancelled, Completed, Deferred, Failed, Snoozed
from turnout.core.evolve import evolve
from turnout.core.failure import ErrorInfo, Failure, FaultReason
from turnout.core.record import Answer, JobRecord, JobState, Outcome, Outside, Token
from turnout.core.retry import mro_names
from turnout.core.spec import Body, JobSpec

OUTSIDE_ERROR = "FailedOutside"
"""What the error of a job that somebody outside has let fail is called."""

OUTSIDE_LOOK_S = 3600.0
"""How often the message of a job that is completed from outside is handed to somebody, who gives it back (P14)."""

_OUTSIDE_MRO = (f"turnout.{OUTSIDE_ERROR}", "builtins.Exception")

AttemptEnd = Completed | Failed | Snoozed | Deferred | Cancelled | Aborted


def after_end(record: JobRecord, event: AttemptEnd) -> JobRecord:
    """The record after its running attempt ended in this way. A result counts even when a cancel was asked for."""
    if not isinstance(event, Deferred):
        record = _taken_back(record)
    match event:
        case Completed():
            return _complete(record, event.now, event.result)
        case Cancelled():
            return cancel(record, event.now, Outcome.cancelled)
        case Aborted():
            if record.cancel_request is not None:
                return cancel(record, event.now, Outcome.aborted)
            aborted = evolve(record, aborts=record.aborts + 1, state=JobState.queued)
            return _close_attempt(aborted, event.now, Outcome.aborted)
        case Failed():
            return _after_failure(record, event)
        case Snoozed():
            return _after_snooze(record, event)
        case Deferred():
            return _after_deferral(record, event)
        case _:
            assert_never(event)


def _after_failure(record: JobRecord, event: Failed) -> JobRecord:
    """Retry or give up: decided here and nowhere else."""
    failure, error = event.failure, event.failure.error
    outcome = Outcome.timed_out if failure.timed_out else Outcome.faulted
    failed = evolve(record, failures=record.failures + 1, error=error)
    if record.cancel_request is not None:
        return cancel(failed, event.now, outcome, error)
    expires_at = record.spec.expires_at
    if expires_at is not None and event.now >= expires_at:
        return fault(failed, event.now, FaultReason.expired, error, outcome)
    if failure.fault is not None:
        return fault(failed, event.now, failure.fault, error, outcome)
    policy = record.spec.options.retry or record.rules.retry
    delay = policy.next_delay(failures=failed.failures, error_mro=failure.mro, u=event.u)
    if failure.retry_after is not None and failed.failures < policy.max_attempts:
        delay = failure.retry_after
    if delay is None:
        reason = FaultReason.timed_out if failure.timed_out else FaultReason.failed
        return fault(failed, event.now, reason, error, outcome)
    due = event.now + delay
    if expires_at is not None and due >= expires_at:
        return fault(failed, event.now, FaultReason.expired, error, outcome)
    waiting = evolve(failed, state=JobState.retrying, due_at=due)
    return _close_attempt(waiting, event.now, outcome, error)


def _after_snooze(record: JobRecord, event: Snoozed) -> JobRecord:
    """The attempt does not count: the next one takes its number, and its place in the list."""
    if record.cancel_request is not None:
        return cancel(record, event.now, Outcome.snoozed)
    due, expires_at = event.now + event.delay_s, record.spec.expires_at
    if expires_at is not None and due >= expires_at:
        error = expiry(record, FaultReason.expired)
        return fault(record, event.now, FaultReason.expired, error, Outcome.snoozed)
    waiting = evolve(
        record,
        state=JobState.retrying,
        due_at=due,
        attempt=record.attempt - 1,
        snoozes=record.snoozes + 1,
        reason=event.message,
    )
    return _close_attempt(waiting, event.now, Outcome.snoozed)


def _after_deferral(record: JobRecord, event: Deferred) -> JobRecord:
    """It runs on without an owner; or it has ended, when whoever is outside was quicker than the code."""
    if record.cancel_request is not None:
        return cancel(_taken_back(record), event.now, Outcome.cancelled)
    if record.answer is not None and record.answer.attempt in (None, record.attempt):
        return after_answer(record, record.answer, event.now, event.u)
    token = attrs.evolve(event.token, node="")
    due_at = None if event.timeout_s is None else event.now + event.timeout_s
    return evolve(record, token=token, outside=Outside(event.timeout_s), due_at=due_at)


def after_answer(record: JobRecord, answer: Answer, now: float, u: float) -> JobRecord:
    """The record after somebody outside has said how the attempt ended. An answer that did not count stays in it."""
    record = evolve(record, answer=None)
    token = record.token or Token("", record.generation, record.attempt, "")
    if answer.result is not None:
        return after_end(record, Completed(token=token, now=now, result=answer.result))
    error = answer.error or ErrorInfo(OUTSIDE_ERROR, "it failed")
    failure = Failure(error, _OUTSIDE_MRO, FaultReason.fatal if answer.fatal else None)
    return after_end(record, Failed(token=token, now=now, failure=failure, u=u))


def after_silence(record: JobRecord, now: float, u: float) -> JobRecord:
    """The record after nobody outside was heard of in time."""
    token = record.token or Token("", record.generation, record.attempt, "")
    expired = record.spec.expires_at is not None and now >= record.spec.expires_at
    if record.outside is not None and record.outside.timeout is not None and not expired:
        what = f"nobody completed it, or was heard of, for {record.outside.timeout:g} s"
    else:
        what = "nobody completed it before the job expired"
    failure = Failure(ErrorInfo("TimeoutError", what), mro_names(TimeoutError()), timed_out=True)
    return after_end(record, Failed(token=token, now=now, failure=failure, u=u))


def outside_wait(record: JobRecord, now: float) -> float:
    """For how long the message of a job that is completed from outside is given back."""
    return min(max(record.answer_due - now, 0.0), OUTSIDE_LOOK_S)


def _taken_back(record: JobRecord) -> JobRecord:
    """The record when nobody outside has a say any more."""
    return record if record.outside is None else evolve(record, outside=None, due_at=None)


def after_loss(record: JobRecord, now: float) -> JobRecord:
    """Another loss: forgiven, or one too many. A cancel that was asked of the dead owner is fulfilled.

    Who was not alone may be innocent, and is given another try; but for those that may never be tried again.
    """
    record = _taken_back(record)
    lost = evolve(record, losses=record.losses + 1)
    node = record.token.node if record.token is not None else "?"
    error = ErrorInfo("NodeLost", f"node {node} vanished while it ran attempt {record.attempt}")
    if record.cancel_request is not None:
        return cancel(lost, now, Outcome.lost, error)
    if record.spec.expires_at is not None and now >= record.spec.expires_at:
        return fault(lost, now, FaultReason.expired, error, Outcome.lost)
    alone = bool(record.attempts) and record.attempts[-1].alone
    if lost.losses > record.rules.max_lost and (alone or record.rules.max_lost == 0):
        count = f"that was loss {lost.losses}, and {record.rules.max_lost} are forgiven"
        detail = ErrorInfo("NodeLost", f"{error.message}; {count}")
        return fault(lost, now, FaultReason.lost, detail, Outcome.lost)
    return _close_attempt(evolve(lost, state=JobState.queued), now, Outcome.lost, error)


def _close_attempt(record: JobRecord, now: float, outcome: Outcome | None, error: ErrorInfo | None = None) -> JobRecord:
    if outcome is None:
        return record
    return evolve(record, attempts=record.with_attempt(outcome=outcome, ended_at=now, error=error))


def _complete(record: JobRecord, now: float, result: Body) -> JobRecord:
    attempts = record.with_attempt(outcome=Outcome.completed, ended_at=now, error=None)
    return evolve(record, attempts=attempts, state=JobState.completed, finished_at=now, result=result, error=None)


def fault(record: JobRecord, now: float, reason: FaultReason, error: ErrorInfo, outcome: Outcome | None) -> JobRecord:
    closed = _close_attempt(record, now, outcome, error)
    return _given_up(evolve(closed, state=JobState.faulted, error=error, reason=reason), now)


def cancel(record: JobRecord, now: float, outcome: Outcome | None, error: ErrorInfo | None = None) -> JobRecord:
    reason = record.cancel_request or ""
    closed = _close_attempt(record, now, outcome, error)
    return _given_up(evolve(closed, state=JobState.cancelled, reason=reason), now)


def _given_up(record: JobRecord, now: float) -> JobRecord:
    """The record of a job that has ended without a result: it waits for nothing, and may be retried."""
    spec = _in_line(record.spec)
    return evolve(record, spec=spec, finished_at=now, due_at=None, waits_for=None)


def _in_line(spec: JobSpec) -> JobSpec:
    """What may be retried waits with all others of its priority then, though it was let past them in this life."""
    options = spec.options.prioritized(spec.priority)
    return spec if options is spec.options else evolve(spec, options=options)


def overdue(record: JobRecord, now: float) -> FaultReason | None:
    """Why the job must not begin any more at `now`; None when it may."""
    deadline = record.deadline
    return deadline[1] if deadline is not None and now >= deadline[0] else None


def expiry(record: JobRecord, reason: FaultReason) -> ErrorInfo:
    options = record.spec.options
    if reason is FaultReason.not_started:
        return ErrorInfo("NotStarted", f"no attempt had begun within {options.start_within:g} s of its submission")
    return ErrorInfo("Expired", f"not finished within {options.expires_in:g} s of its submission")


def seen_at(record: JobRecord, now: float) -> JobRecord:
    """The record as its reader sees it at `now`: one that is overdue has ended, though nobody has written so (P12)."""
    deadline = record.deadline
    if deadline is None or now < deadline[0] or record.state.final or record.state is JobState.running:
        return record
    at, reason = deadline
    return fault(record, at, reason, expiry(record, reason), None)
