"""The lifecycle of a job: one pure function decides what follows from an event.

`decide(record, event)` is the specification. Whoever has something to say of a job (a client that submits, cancels or
retries, a worker that received or ended it, the supervisor that found its node dead) sends an event through here and
has the effects performed in order. Whoever loses the compare-and-set of a `Save` reads the record again and asks again:
the answer to a stale question is found by the same rules (P1).

The rules P1 to P12 are told in docs/lifecycle.md; they are named here where they are kept.
"""

from __future__ import annotations

from typing import assert_never

import attrs

from turnout.core.effects import (
    Abandon,
    Ack,
    Ask,
    Drop,
    Effect,
    Letter,
    Nak,
    Notify,
    Publish,
    Remove,
    Replace,
    Save,
    Schedule,
    Unschedule,
)
from turnout.core.events import (
    Aborted,
    Cancelled,
    CancelRequested,
    Completed,
    Event,
    Expired,
    Failed,
    Leftover,
    Lost,
    Received,
    Reported,
    RetryRequested,
    Stuck,
    Submitted,
    Verdict,
)
from turnout.core.evolve import evolve
from turnout.core.values import (
    ATTEMPTS_KEPT,
    Attempt,
    Body,
    Delivery,
    ErrorInfo,
    JobRecord,
    JobState,
    MessageRef,
    Outcome,
    Token,
)

Effects = tuple[Effect, ...]

DUE_SLACK_S = 0.01
"""A delivery this much before its due time counts as due: a server's timer and ours differ by that much."""


def decide(record: JobRecord | None, event: Event) -> Effects:
    """What `event` makes of the job whose record is `record` (None: it has none yet)."""
    match event:
        case Submitted():
            return _submitted(record, event)
        case Received():
            return _received(record, event)
        case Reported():
            return _reported(record, event)
        case Completed() | Failed() | Cancelled() | Aborted():
            return _ended(record, event)
        case Lost():
            return _lost(record, event)
        case CancelRequested():
            return _cancel_requested(record, event)
        case RetryRequested():
            return _retry_requested(record, event)
        case Expired():
            return _expired(record, event)
        case Stuck():
            return _stuck(record, event)
        case Leftover():
            return _leftover(record, event)
        case _:
            assert_never(event)


def newer(found: Delivery | None, record: JobRecord | None) -> bool:
    """Whether the message begins a life that the record does not know of yet: a retry or a replay (P2)."""
    return found is not None and (record is None or found.generation > record.generation)


def record_of(delivery: Delivery, before: JobRecord | None = None) -> JobRecord:
    """The record of a queued job as its message tells it.

    `before` is the record of an earlier generation: attempt numbers go on, the attempts and the checkpoint are kept,
    the budgets are fresh.
    """
    fresh = JobRecord(
        id=delivery.id,
        activity=delivery.activity,
        state=JobState.queued,
        generation=delivery.generation,
        submitted_at=delivery.message.time,
        payload=delivery.payload,
        headers=delivery.headers,
        options=delivery.options,
        message=delivery.message,
        trace_id=delivery.trace_id,
    )
    if before is None:
        return fresh
    return evolve(
        fresh,
        submitted_at=before.submitted_at,
        attempt=before.attempt,
        attempts=before.attempts,
        checkpoint=before.checkpoint,
        progress=before.progress,
        trace_id=before.trace_id or delivery.trace_id,
        rules=before.rules,
    )


# --- submitting ------------------------------------------------------------------------------------------------------


def _submitted(record: JobRecord | None, event: Submitted) -> Effects:
    draft = event.draft
    if event.at is not None:
        if record is not None and record.token != draft.token:
            return ()
        # The record comes first, so that a second submit of the id and a cancel both find it (P11). When it is there
        # already it is this very submit's, stored by a write whose answer was lost.
        scheduled = evolve(draft, state=JobState.scheduled, due_at=event.at)
        before = () if record is not None else (Save(scheduled),)
        return (*before, Schedule(scheduled, event.at))
    if record is not None:
        return ()  # a worker was quicker than the record of a queued job (P12), or it is there by our own lost answer
    if draft.options.expires_in is not None:
        return (Publish(draft), Save(draft))
    return (Publish(draft),)


# --- a worker receives the message -----------------------------------------------------------------------------------


def _received(record: JobRecord | None, event: Received) -> Effects:
    delivery = event.delivery
    if record is None or newer(delivery, record):
        return _start(record_of(delivery, record), event)
    if delivery.generation < record.generation:
        return (Ack(delivery.message),)
    match record.state:
        case JobState.completed | JobState.faulted | JobState.cancelled:
            return _already_final(record, Ack(delivery.message))
        case JobState.scheduled:
            # What neither the timer nor the sweep put there was submitted beside the schedule: a duplicate (P11).
            genuine = delivery.scheduled or delivery.replaced > 0
            return _start_when_due(record, event) if genuine else (Ack(delivery.message),)
        case JobState.queued:
            return _start(record, event)
        case JobState.retrying:
            return _start_when_due(record, event)
        case JobState.running:
            return _running_already(record, event)
        case _:
            assert_never(record.state)


def _start(queued: JobRecord, event: Received) -> Effects:
    """The next attempt, unless the job must not start any more."""
    delivery, message = event.delivery, event.delivery.message
    if delivery.problem is not None:
        known = evolve(queued, message=message, rules=event.rules)
        return _fault_unstarted(known, event.now, "invalid", delivery.problem, Ack(message))
    if (expires_at := queued.expires_at) is not None and event.now >= expires_at:
        known = evolve(queued, message=message, rules=event.rules)
        return _fault_unstarted(known, event.now, "expired", _expiry(known), Ack(message))
    number = queued.attempt + 1
    token = Token(event.node, queued.generation, number, event.nonce)
    attempt = Attempt(
        number, queued.generation, event.node, event.now, span_id=event.span_id, due_at=_due_at(queued, message)
    )
    running = evolve(
        queued,
        state=JobState.running,
        message=message,
        rules=event.rules,
        token=token,
        attempt=number,
        attempts=(*_briefly(queued), attempt)[-ATTEMPTS_KEPT:],
        started_at=queued.started_at or event.now,
        finished_at=None,
        due_at=None,
    )
    return (Save(running),)


def _due_at(queued: JobRecord, message: MessageRef) -> float | None:
    """From when on the attempt that begins now might have begun, if the attempts before do not tell."""
    if queued.due_at is None and queued.attempts and queued.attempts[-1].generation < queued.generation:
        return message.time  # retried by somebody, just then
    return queued.due_at


def _start_when_due(record: JobRecord, event: Received) -> Effects:
    """The next attempt, or the delivery back: a server forgets delays, and a timer's copy may be an old one."""
    wait = (record.due_at or 0.0) - event.now
    return _start(record, event) if wait <= DUE_SLACK_S else _give_back(record, event.delivery, wait)


def _running_already(record: JobRecord, event: Received) -> Effects:
    delivery = event.delivery
    if record.token is not None and record.token.nonce == event.nonce:
        return ()  # our own start, stored by a write whose answer was lost
    if record.token is None or event.verdict is None or event.asked != record.token:
        return (Ask(record.token),) if record.token is not None else _start(record, event)
    match event.verdict:
        case Verdict.alive:
            return (Drop(),)
        case Verdict.silent:
            return _give_back(record, delivery, event.wait_s)
        case Verdict.gone:
            after = _after_loss(record, event.now)
            if after.state is JobState.queued:
                return _start(after, event)
            return (Save(after, expires=True), *_letter(after), Ack(delivery.message))
        case _:
            assert_never(event.verdict)


def _already_final(record: JobRecord, settle: Effect) -> Effects:
    """The job has ended, its message is still there: the letter first, if it is owed (P4), then the message goes."""
    return (*_letter(record), settle)


def _give_back(record: JobRecord, delivery: Delivery, delay_s: float) -> Effects:
    """NAK, or put in anew what NAK can't revive (P7): an exhausted message."""
    if not delivery.exhausted:
        return (Nak(delivery.message, max(delay_s, 0.0)),)
    return _put_anew(record, delivery.message, delivery.replaced)


def _put_anew(record: JobRecord, message: MessageRef | None, replaced: int = 0) -> Effects:
    if message is None:
        return (Replace(record, 0, replaced),)
    if message.bare:
        # Never replace on the subject that all bare jobs share: it would wipe them (P8).
        return (Replace(record, 0, replaced), Remove(message))
    return (Replace(record, message.seq, replaced),)


# --- the owner of a running attempt ----------------------------------------------------------------------------------


def _reported(record: JobRecord | None, event: Reported) -> Effects:
    if record is None or not record.owned_by(event.token):
        return (Abandon(),)
    changed = evolve(
        record, progress=event.progress or record.progress, checkpoint=event.checkpoint or record.checkpoint
    )
    return (Save(changed),) if changed != record else ()


def _ended(record: JobRecord | None, event: Completed | Failed | Cancelled | Aborted) -> Effects:
    if record is None:
        return (Abandon(),)
    if record.owned_by(event.token):
        progress = event.progress
        reported = record if progress is None or progress == record.progress else evolve(record, progress=progress)
        after = _after_end(reported, event)
        return (Save(after, expires=after.state.final), *_settle(after, event))
    ours = record.token == event.token and bool(record.attempts)
    return _settle(record, event) if ours and record.attempts[-1].outcome is not Outcome.lost else (Abandon(),)


def _settle(record: JobRecord, event: Completed | Failed | Cancelled | Aborted) -> Effects:
    """What becomes of the message, once the record says how the attempt ended."""
    if record.message is None:
        return ()
    if record.state.final:
        return (*_letter(record), Ack(record.message))
    if event.exhausted:
        return _put_anew(record, record.message)
    return (Nak(record.message, max((record.due_at or 0.0) - event.now, 0.0)),)


def _after_end(record: JobRecord, event: Completed | Failed | Cancelled | Aborted) -> JobRecord:
    """The record after its running attempt ended in this way. A result counts even when a cancel was asked for."""
    match event:
        case Completed():
            return _complete(record, event.now, event.result)
        case Cancelled():
            return _cancel(record, event.now, Outcome.cancelled)
        case Aborted():
            if record.cancel_request is not None:
                return _cancel(record, event.now, Outcome.aborted)
            aborted = evolve(record, aborts=record.aborts + 1, state=JobState.queued)
            return _close_attempt(aborted, event.now, Outcome.aborted)
        case Failed():
            return _after_failure(record, event)
        case _:
            assert_never(event)


def _after_failure(record: JobRecord, event: Failed) -> JobRecord:
    """Retry or give up: decided here and nowhere else."""
    outcome = Outcome.timed_out if event.timed_out else Outcome.faulted
    failed = evolve(record, failures=record.failures + 1, error=event.error)
    if record.cancel_request is not None:
        return _cancel(failed, event.now, outcome, event.error)
    if record.expires_at is not None and event.now >= record.expires_at:
        return _fault(failed, event.now, "expired", event.error, outcome)
    if event.fatal is not None:
        return _fault(failed, event.now, event.fatal, event.error, outcome)
    policy = record.options.retry or record.rules.retry
    delay = policy.next_delay(failures=failed.failures, error_mro=event.error_mro, u=event.u)
    if event.retry_after is not None and failed.failures < policy.max_attempts:
        delay = event.retry_after
    if delay is None:
        reason = "timed_out" if event.timed_out else "failed"
        return _fault(failed, event.now, reason, event.error, outcome)
    due = event.now + delay
    if record.expires_at is not None and due >= record.expires_at:
        return _fault(failed, event.now, "expired", event.error, outcome)
    waiting = evolve(failed, state=JobState.retrying, due_at=due)
    return _close_attempt(waiting, event.now, outcome, event.error)


# --- the node is dead ------------------------------------------------------------------------------------------------


def _lost(record: JobRecord | None, event: Lost) -> Effects:
    if record is None or not record.owned_by(event.token):
        return ()
    after = _after_loss(record, event.now)
    if after.state.final:
        return _end_by_another(after, None)
    return (Save(after), Nak(after.message)) if after.message is not None else (Save(after),)


def _after_loss(record: JobRecord, now: float) -> JobRecord:
    """Another loss: forgiven, or one too many. A cancel that was asked of the dead owner is fulfilled."""
    lost = evolve(record, losses=record.losses + 1)
    node = record.token.node if record.token is not None else "?"
    error = ErrorInfo("NodeLost", f"node {node} vanished while it ran attempt {record.attempt}")
    if record.cancel_request is not None:
        return _cancel(lost, now, Outcome.lost, error)
    if record.expires_at is not None and now >= record.expires_at:
        return _fault(lost, now, "expired", error, Outcome.lost)
    if lost.losses > record.rules.max_lost:
        count = f"that was loss {lost.losses}, and {record.rules.max_lost} are forgiven"
        detail = ErrorInfo("NodeLost", f"{error.message}; {count}")
        return _fault(lost, now, "lost", detail, Outcome.lost)
    return _close_attempt(evolve(lost, state=JobState.queued), now, Outcome.lost, error)


# --- cancel, retry, expire -------------------------------------------------------------------------------------------


def _cancel_requested(record: JobRecord | None, event: CancelRequested) -> Effects:
    current = _current(record, event.found)
    if current is None or current.state.final:
        return ()
    if current.state is JobState.running and current.token is not None:
        notify = Notify(current.token, current.cancel_request or event.reason)
        if current.cancel_request is not None:
            return (notify,)
        return (Save(evolve(current, cancel_request=event.reason)), notify)
    asked = evolve(current, cancel_request=event.reason)
    return _end_by_another(_cancel(asked, event.now, None), event.found)


def _retry_requested(record: JobRecord | None, event: RetryRequested) -> Effects:
    if record is None and event.found is None and event.letter is not None:
        # The letter outlived the record, which is put back first: attempts, checkpoint and trace go on from there.
        return (Save(event.letter, expires=True), *_retry_requested(event.letter, event))
    if record is None or newer(event.found, record) or record.state not in (JobState.faulted, JobState.cancelled):
        return ()
    # No record is saved: a message newer than it reads as queued, and one atomic publish can't be half done (P2).
    options = attrs.evolve(record.options, expires_in=None)
    again = evolve(record, generation=record.generation + 1, options=options)
    expected = event.found.message.seq if event.found is not None and not event.found.message.bare else 0
    return (*_letter(record), Replace(again, expected))


def _expired(record: JobRecord | None, event: Expired) -> Effects:
    current = _current(record, event.found)
    if current is None or current.state.final or current.state is JobState.running:
        return ()
    if current.expires_at is None or event.now < current.expires_at:
        return ()
    return _end_by_another(_fault(current, event.now, "expired", _expiry(current), None), event.found)


# --- the sweep -------------------------------------------------------------------------------------------------------


def _stuck(record: JobRecord | None, event: Stuck) -> Effects:
    found = event.found
    current = _current(record, found)
    if current is None or current.state is JobState.running:
        return ()
    if current.state.final:
        # With its message gone, what is still owed is the letter, a timer's end and the beginning of its retention.
        owed = (*_letter(current), *_unscheduled(current), Save(current, expires=True))
        return _leftover(record, Leftover(found=found, now=event.now)) if found is not None else owed
    if found is None and current.state is JobState.scheduled and event.now < (current.due_at or 0.0):
        return ()
    unrecorded = record is None or newer(found, record)
    if unrecorded and found is not None and found.replaced >= event.max_lost:
        rounds = found.replaced + 1
        error = ErrorInfo("NeverStarted", f"its deliveries ran out {rounds} times and no attempt was ever recorded")
        return _end_by_another(_fault(current, event.now, "lost", error, None), found)
    if found is None:
        return _put_anew(current, None, 1)
    return _put_anew(current, found.message, found.replaced + 1)


def _leftover(record: JobRecord | None, event: Leftover) -> Effects:
    if record is None or newer(event.found, record):
        return ()
    if event.found.generation < record.generation:
        return (Remove(event.found.message),)
    if not record.state.final:
        return ()
    # Whoever ended it may have died before its retention began (P9).
    return (*_already_final(record, Remove(event.found.message)), Save(record, expires=True))


# --- one constructor per way of writing a record ---------------------------------------------------------------------


def _current(record: JobRecord | None, found: Delivery | None) -> JobRecord | None:
    """The job as it stands: its record, or its message when that is newer or all there is."""
    return record_of(found, record) if found is not None and newer(found, record) else record


def _briefly(record: JobRecord) -> tuple[Attempt, ...]:
    """The attempts so far; the error of the last one is cut short, as those before it were."""
    error = record.attempts[-1].error if record.attempts else None
    return record.attempts if error is None else record.with_attempt(error=error.brief)


def _close_attempt(record: JobRecord, now: float, outcome: Outcome | None, error: ErrorInfo | None = None) -> JobRecord:
    if outcome is None:
        return record
    return evolve(record, attempts=record.with_attempt(outcome=outcome, ended_at=now, error=error))


def _complete(record: JobRecord, now: float, result: Body) -> JobRecord:
    attempts = record.with_attempt(outcome=Outcome.completed, ended_at=now, error=None)
    return evolve(record, attempts=attempts, state=JobState.completed, finished_at=now, result=result, error=None)


def _fault(record: JobRecord, now: float, reason: str, error: ErrorInfo, outcome: Outcome | None) -> JobRecord:
    closed = _close_attempt(record, now, outcome, error)
    return evolve(closed, state=JobState.faulted, finished_at=now, due_at=None, error=error, reason=reason)


def _cancel(record: JobRecord, now: float, outcome: Outcome | None, error: ErrorInfo | None = None) -> JobRecord:
    reason = record.cancel_request or ""
    closed = _close_attempt(record, now, outcome, error)
    return evolve(closed, state=JobState.cancelled, finished_at=now, due_at=None, reason=reason)


def _fault_unstarted(record: JobRecord, now: float, reason: str, error: ErrorInfo, settle: Effect) -> Effects:
    after = _fault(record, now, reason, error, None)
    return (Save(after, expires=True), Letter(after), settle)


def _end_by_another(after: JobRecord, found: Delivery | None) -> Effects:
    """Somebody without the delivery ends the job: the record may only expire when the message is gone (P9)."""
    message = found.message if found is not None else after.message
    remove = (Remove(message),) if message is not None else ()
    return (Save(after), *_letter(after), *_unscheduled(after), *remove, Save(after, expires=True))


def _unscheduled(record: JobRecord) -> Effects:
    """The end of the timer of a job that never began: it would bring the job back when its record is gone (P11)."""
    return (Unschedule(record),) if record.attempt == 0 else ()


def _letter(record: JobRecord) -> Effects:
    return (Letter(record),) if record.state is JobState.faulted else ()


def _expiry(record: JobRecord) -> ErrorInfo:
    return ErrorInfo("Expired", f"not finished within {record.options.expires_in:g} s of its submission")
