"""The lifecycle of a job: one pure function decides what follows from an event.

`decide(record, event)` is the specification. Whoever has something to say of a job (a client that submits, cancels or
retries, a worker that received or ended it, the supervisor that found its node dead) sends an event through here and
has the effects performed in order. Whoever loses the compare-and-set of a `Save` reads the record again and asks again:
the answer to a stale question is found by the same rules (P1).

The rules P1 to P15 are told in docs/lifecycle.md; they are named here where they are kept.
"""

from __future__ import annotations

from typing import assert_never

import attrs

from turnout.core.effects import (
    Abandon,
    Ack,
    Admit,
    Ask,
    Drop,
    Effect,
    Isolate,
    Nak,
    Notify,
    Park,
    Publish,
    Remove,
    Replace,
    Save,
    Schedule,
    TellParent,
    WriteDeadLetter,
)
from turnout.core.ends import (
    AttemptEnd,
    after_answer,
    after_end,
    after_loss,
    after_silence,
    cancel,
    expiry,
    fault,
    outside_wait,
    overdue,
)
from turnout.core.events import (
    Aborted,
    Answered,
    Cancelled,
    CancelRequested,
    Completed,
    Debounced,
    Declined,
    Deferred,
    Event,
    Expired,
    Failed,
    KeptAlive,
    Leftover,
    Lost,
    PriorityRequested,
    Received,
    Reported,
    Resubmitted,
    RetryRequested,
    Snoozed,
    Stuck,
    Submitted,
    Verdict,
)
from turnout.core.evolve import evolve
from turnout.core.failure import ErrorInfo, FaultReason
from turnout.core.moving import prioritized, requeue
from turnout.core.parking import is_being_parked, park, send_on, taken_off, unparked, unscheduled
from turnout.core.record import (
    ATTEMPTS_KEPT,
    FINAL,
    RETRYABLE,
    AttemptRecord,
    Delivery,
    JobRecord,
    JobState,
    MessageRef,
    Outcome,
    Token,
)
from turnout.core.submissions import by_submitter, draft

Effects = tuple[Effect, ...]

DUE_SLACK_S = 0.01
"""A delivery this much before its due time counts as due: a server's timer and ours differ by that much."""


def decide(record: JobRecord | None, event: Event) -> Effects:
    """What `event` makes of the job whose record is `record` (None: it has none yet)."""
    match event:  # what each job meets comes first
        case Received():
            return _received(record, event)
        case Completed() | Failed() | Snoozed() | Deferred() | Cancelled() | Aborted():
            return _ended(record, event)
        case Submitted() | Resubmitted() | Debounced():
            return _submitted(record, event)
        case Declined():
            return _declined(record, event)
        case Reported():
            return _reported(record, event)
        case Answered():
            return _answered(record, event)
        case KeptAlive():
            return _kept_alive(record, event)
        case Lost():
            return _lost(record, event)
        case CancelRequested():
            return _cancel_requested(record, event)
        case RetryRequested():
            return _retry_requested(record, event)
        case PriorityRequested():
            return _priority_requested(record, event)
        case Expired():
            return _expired(record, event)
        case Stuck():
            return _stuck(record, event)
        case Leftover():
            return _leftover(record, event)
        case _:
            assert_never(event)


def newer(delivery: Delivery | None, record: JobRecord | None) -> bool:
    """Whether the message begins a life that the record does not know of yet: a retry or a replay (P2).

    Anybody can write a number into a header, so it has to know the life before as well.
    """
    if delivery is None or record is None:
        return delivery is not None
    return delivery.generation > record.generation and delivery.spec.after == record.life


def record_of(delivery: Delivery, before: JobRecord | None = None) -> JobRecord:
    """The record of a queued job as its message tells it.

    `before` is the record of an earlier generation: attempt numbers go on, the attempts and the checkpoint are kept
    (unless the retry was asked for without it), the budgets are fresh.
    """
    if before is None:
        return JobRecord(delivery.spec, JobState.queued, message=delivery.message)
    trace_id = before.spec.trace_id or delivery.spec.trace_id
    from_scratch = delivery.spec.options.from_scratch
    return JobRecord(
        evolve(delivery.spec, submitted_at=before.spec.submitted_at, trace_id=trace_id),
        JobState.queued,
        message=delivery.message,
        attempt=before.attempt,
        attempts=before.attempts,
        checkpoint=None if from_scratch else before.checkpoint,
        progress=None if from_scratch else before.progress,
        rules=before.rules,
    )


def as_it_stands(record: JobRecord | None, delivery: Delivery | None) -> JobRecord | None:
    """The job as it stands: its record, or its message when that is newer or all there is."""
    return record_of(delivery, record) if delivery is not None and newer(delivery, record) else record


# --- submitting ------------------------------------------------------------------------------------------------------


def _submitted(record: JobRecord | None, event: Submitted | Resubmitted | Debounced) -> Effects:
    return _resubmitted(record, event) if isinstance(event, Resubmitted) else by_submitter(record, event)


def _resubmitted(record: JobRecord | None, event: Resubmitted) -> Effects:
    """Nothing of the life before goes on in this one; its record is written over, which one of several does (P2).

    The record comes first: the sweep puts back what it says, and a message of the life before is acknowledged.
    """
    spec, found = event.spec, event.delivery
    if record is None or newer(found, record) or not record.state.final or record.generation + 1 != spec.generation:
        return ()
    removed = (Remove(found.message),) if found is not None else ()
    stored = Publish(spec, event.nonce) if event.at is None else Schedule(spec, event.at, event.nonce)
    return (*_owed(record), Save(draft(event)), *unscheduled(record), *removed, stored)


# --- a worker receives the message -----------------------------------------------------------------------------------


def _received(record: JobRecord | None, event: Received) -> Effects:
    delivery = event.delivery
    if record is None or newer(delivery, record):
        return _start(record_of(delivery, record), event)
    if delivery.generation != record.generation:
        return (Ack(delivery.message),)
    match record.state:
        case JobState.completed | JobState.faulted | JobState.cancelled:
            return _already_final(record, Ack(delivery.message))
        case JobState.scheduled:
            # What neither the timer nor the sweep put there was submitted beside the schedule: a duplicate (P11).
            genuine = delivery.scheduled or delivery.replaced > 0
            return _start_when_due(record, event) if genuine else (Ack(delivery.message),)
        case JobState.queued if is_being_parked(record, event):
            return (Park(record), Ack(delivery.message))
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
        return _fault_unstarted(known, event.now, FaultReason.invalid, delivery.problem, Ack(message))
    spec = queued.spec
    # Few jobs have one: those that have none are spared three calls each.
    if spec.options.has_deadline and (reason := overdue(queued, event.now)) is not None:
        known = evolve(queued, message=message, rules=event.rules)
        return _fault_unstarted(known, event.now, reason, expiry(known, reason), Ack(message))
    if event.requires is not None:
        return send_on(queued, event, event.requires)
    if 0 < event.rules.max_lost <= queued.losses and not event.alone:
        # Its next loss may be its last, and then there must be nobody else who might have killed the node (P6).
        return (Isolate(),)
    if event.limited and event.admitted != (turn := (spec.generation, queued.begun + 1)):
        return (Admit(*turn, spec.payload),) if event.full is None else park(queued, event, event.full)
    number = queued.attempt + 1
    token = Token(event.node, spec.generation, number, event.nonce)
    attempt = AttemptRecord(
        number,
        spec.generation,
        event.node,
        event.now,
        span_id=event.span_id,
        due_at=_due_at(queued, message),
        alone=event.alone,
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
        reason=None,
        waits_for=None,
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
    if record.is_of(event.nonce):
        return ()  # our own start, stored by a write whose answer was lost
    if record.outside is not None:
        return _outside_already(record, event)
    if record.token is None or event.verdict is None or event.asked != record.token:
        return (Ask(record.token),) if record.token is not None else _start(record, event)
    match event.verdict:
        case Verdict.alive:
            return (Drop(),)
        case Verdict.silent:
            return _give_back(record, delivery, event.wait_s)
        case Verdict.gone:
            after = after_loss(record, event.now)
            if after.state is JobState.queued:
                return _start(after, event)
            return (Save(after, expires=True), *_owed(after), Ack(delivery.message))
        case _:
            assert_never(event.verdict)


def _outside_already(record: JobRecord, event: Received) -> Effects:
    """Nobody has to run it: its message comes back now and then, so that it is not lost (P14)."""
    if event.now < record.answer_due:
        return _give_back(record, event.delivery, outside_wait(record, event.now))
    after = after_silence(record, event.now, 0.5)
    if after.state.final:
        return (Save(after, expires=True), *_owed(after), Ack(event.delivery.message))
    return (Save(after), *_give_back(after, event.delivery, (after.due_at or 0.0) - event.now))


def _already_final(record: JobRecord, settle: Effect) -> Effects:
    """The job has ended, its message is still there: what is owed first, then the message goes, and another one."""
    return (*_owed(record), *taken_off(record), settle)


def _declined(record: JobRecord | None, event: Declined) -> Effects:
    """Back to the server, and not a step nearer to being given up: nothing has been tried.

    What runs elsewhere is kept by its owner, whom the alarm tells that the deliveries have run out; what has ended
    comes back to somebody who has the time to clear up.
    """
    delivery = event.delivery
    current = as_it_stands(record, delivery)
    if current is None or current.generation != delivery.generation:
        return ()
    return () if current.state.final or current.state is JobState.running else _give_back(current, delivery, 0.0)


def _give_back(record: JobRecord, delivery: Delivery, delay_s: float) -> Effects:
    """NAK, or requeue what NAK can't revive (P7): an exhausted message."""
    if not delivery.exhausted:
        return (Nak(delivery.message, max(delay_s, 0.0)),)
    if delivery.problem is not None:
        return ()  # the message that takes its place would not say so: the sweep faults it, or goes by the record
    # Of a job that waits for its time, a message that nobody has put there on purpose would be a duplicate (P11).
    return requeue(record, delivery.message, delivery.replaced or int(record.state is JobState.scheduled))


# --- the owner of a running attempt ----------------------------------------------------------------------------------


def _reported(record: JobRecord | None, event: Reported) -> Effects:
    if record is None or not record.owned_by(event.token):
        return (Abandon(),)
    changed = evolve(
        record, progress=event.progress or record.progress, checkpoint=event.checkpoint or record.checkpoint
    )
    return (Save(changed),) if changed != record else ()


def _ended(record: JobRecord | None, event: AttemptEnd) -> Effects:
    if record is None:
        return (Abandon(),)
    if record.owned_by(event.token):
        progress = event.progress
        reported = record if progress is None or progress == record.progress else evolve(record, progress=progress)
        after = after_end(reported, event)
        return (Save(after, expires=after.state in FINAL), *_settle(after, event))
    if record.outside is not None and record.token == attrs.evolve(event.token, node=""):
        return _settle(record, event)  # left to others by this very attempt, in a write whose answer was lost
    ours = record.token == event.token and bool(record.attempts)
    return _settle(record, event) if ours and record.attempts[-1].outcome is not Outcome.lost else (Abandon(),)


def _settle(record: JobRecord, event: AttemptEnd) -> Effects:
    """What becomes of the message, once the record says how the attempt ended."""
    if record.message is None:
        return ()
    if record.state in FINAL:
        return (*_owed(record), Ack(record.message))
    if event.exhausted:
        return requeue(record, record.message)
    due_s = max((record.due_at or 0.0) - event.now, 0.0)
    return (Nak(record.message, due_s if record.outside is None else outside_wait(record, event.now)),)


# --- completed from outside ------------------------------------------------------------------------------------------


def _answered(record: JobRecord | None, event: Answered) -> Effects:
    """Of a job whose code is still at work the answer is kept until that leaves the rest to others (P14)."""
    current = as_it_stands(record, event.delivery)
    if current is None or current.state is not JobState.running or event.answer.attempt not in (None, current.attempt):
        return ()
    if current.outside is None:
        kept = current.answer  # one that was meant for an attempt that is over makes room
        known = kept is not None and kept.attempt in (None, current.attempt)
        return () if known else (Save(evolve(current, answer=event.answer)),)
    return _end_outside(after_answer(current, event.answer, event.now, event.u), event.delivery)


def _kept_alive(record: JobRecord | None, event: KeptAlive) -> Effects:
    if record is None or record.outside is None or event.attempt not in (None, record.attempt):
        return ()
    due_at = record.due_at if record.outside.timeout is None else event.now + record.outside.timeout
    changed = evolve(record, due_at=due_at, progress=event.progress or record.progress)
    return (Save(changed),) if changed != record else ()


def _end_outside(after: JobRecord, delivery: Delivery | None) -> Effects:
    """Whoever says that an attempt has ended outside has no delivery: what is tried again is requeued."""
    if after.state.final:
        return _end_by_another(after, delivery)
    return (Save(after), *requeue(after, delivery.message if delivery is not None else after.message))


# --- the node is dead ------------------------------------------------------------------------------------------------


def _lost(record: JobRecord | None, event: Lost) -> Effects:
    if record is None or not record.owned_by(event.token) or record.outside is not None:
        return ()
    after = after_loss(record, event.now)
    if after.state.final:
        return _end_by_another(after, None)
    return (Save(after), Nak(after.message)) if after.message is not None else (Save(after),)


# --- cancel, retry, expire -------------------------------------------------------------------------------------------


def _cancel_requested(record: JobRecord | None, event: CancelRequested) -> Effects:
    current = as_it_stands(record, event.delivery)
    if current is None and event.unsubmitted is not None:
        current = JobRecord(event.unsubmitted, JobState.queued)
    if current is None or current.state.final:
        return ()
    if current.state is JobState.running and current.outside is not None:
        asked = evolve(current, cancel_request=event.reason, outside=None)
        return _end_by_another(cancel(asked, event.now, Outcome.cancelled), event.delivery)
    if current.state is JobState.running and current.token is not None:
        notify = Notify(current.token, current.cancel_request or event.reason)
        if current.cancel_request is not None:
            return (notify,)
        return (Save(evolve(current, cancel_request=event.reason)), notify)
    asked = evolve(current, cancel_request=event.reason)
    return (*_end_by_another(cancel(asked, event.now, None), event.delivery), *unparked(current))


def _retry_requested(record: JobRecord | None, event: RetryRequested) -> Effects:
    if record is None and event.delivery is None and event.dead_letter is not None:
        # The dead letter outlived the record, which is put back first: attempts, checkpoint and trace go on from there.
        return (Save(event.dead_letter, expires=True), *_retry_requested(event.dead_letter, event))
    if record is None or newer(event.delivery, record) or record.state not in RETRYABLE:
        return ()
    # No record is saved: a message newer than it reads as queued, and one atomic publish can't be half done (P2).
    options = attrs.evolve(record.spec.options, expires_in=None, start_within=None, from_scratch=event.from_scratch)
    again = evolve(record.spec, generation=record.generation + 1, options=options, after=record.life)
    found = None if event.delivery is None else event.delivery.message
    expected = found.seq if found is not None and not found.bare and found.priority == again.lane else 0
    return (*_owed(record), Replace(again, expected))


def _priority_requested(record: JobRecord | None, event: PriorityRequested) -> Effects:
    current = as_it_stands(record, event.delivery)
    if current is None or current.state.final or current.state is JobState.running:
        return ()
    return prioritized(record, current, event)


def _expired(record: JobRecord | None, event: Expired) -> Effects:
    current = as_it_stands(record, event.delivery)
    if current is not None and current.outside is not None and event.now >= current.answer_due:
        return _end_outside(after_silence(current, event.now, event.u), event.delivery)
    if current is None or current.state.final or current.state is JobState.running:
        return ()
    reason = overdue(current, event.now)
    if reason is None:
        return ()
    after = fault(current, event.now, reason, expiry(current, reason), None)
    return (*_end_by_another(after, event.delivery), *unparked(current))


# --- the sweep -------------------------------------------------------------------------------------------------------


def _stuck(record: JobRecord | None, event: Stuck) -> Effects:
    delivery = event.delivery
    current = as_it_stands(record, delivery)
    if current is None or (current.state is JobState.running and current.outside is None):
        return ()
    if event.twin is not None:
        return (Remove(event.twin),)
    if current.outside is not None:
        return requeue(current, delivery.message if delivery is not None else None)
    if current.state.final:
        # With its message gone, the dead letter, a timer's end and the beginning of its retention are still owed.
        owed = (*_owed(current), *unscheduled(current), Save(current, expires=True))
        return _leftover(record, Leftover(delivery=delivery, now=event.now)) if delivery is not None else owed
    if delivery is None and current.waits_for is not None and not event.unparked:
        return ()  # it is parked (P13)
    if delivery is None and current.state is JobState.scheduled and event.now < (current.due_at or 0.0):
        return ()
    unrecorded = delivery if record is None or newer(delivery, record) else None
    if unrecorded is not None and unrecorded.problem is not None:
        after = fault(current, event.now, FaultReason.invalid, unrecorded.problem, None)
        return _end_by_another(after, unrecorded)
    if unrecorded is not None and unrecorded.replaced >= event.max_lost:
        rounds = unrecorded.replaced + 1
        error = ErrorInfo("NeverStarted", f"its deliveries ran out {rounds} times and no attempt was ever recorded")
        return _end_by_another(fault(current, event.now, FaultReason.lost, error, None), unrecorded)
    replaced = delivery.replaced + 1 if delivery is not None else 1
    return requeue(current, delivery.message if delivery is not None else None, replaced)


def _leftover(record: JobRecord | None, event: Leftover) -> Effects:
    if record is None or newer(event.delivery, record):
        return ()
    if event.delivery.generation != record.generation:
        return (Remove(event.delivery.message),)
    if not record.state.final:
        return ()
    # Whoever ended it may have died before its retention began (P9).
    return (*_already_final(record, Remove(event.delivery.message)), Save(record, expires=True))


# --- one constructor per way of writing a record ---------------------------------------------------------------------


def _briefly(record: JobRecord) -> tuple[AttemptRecord, ...]:
    """The attempts so far that count; the error of the last one is cut short, as those before it were."""
    if record.attempts and record.attempts[-1].outcome is Outcome.snoozed:
        return record.attempts[:-1]
    error = record.attempts[-1].error if record.attempts else None
    return record.attempts if error is None else record.with_attempt(error=error.brief)


def _fault_unstarted(record: JobRecord, now: float, reason: FaultReason, error: ErrorInfo, settle: Effect) -> Effects:
    after = fault(record, now, reason, error, None)
    return (Save(after, expires=True), *_owed(after), *taken_off(after), settle)


def _end_by_another(after: JobRecord, delivery: Delivery | None) -> Effects:
    """Somebody without the delivery ends the job: the record may only expire when the message is gone (P9)."""
    message = delivery.message if delivery is not None else after.message
    remove = (Remove(message),) if message is not None else ()
    undone = (*unscheduled(after), *taken_off(after))
    return (Save(after), *_owed(after), *undone, *remove, Save(after, expires=True))


def _owed(record: JobRecord) -> Effects:
    """What is owed once a job has ended, before its message goes: the dead letter (P4), the word to its parent (W4)."""
    dead_letter = (WriteDeadLetter(record),) if record.state is JobState.faulted else ()
    notified = (TellParent(record),) if record.spec.options.parent is not None and record.state.final else ()
    return (*dead_letter, *notified)
