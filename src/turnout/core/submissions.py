"""What a submit makes of a job that nobody has begun: a part of `decide()`, and as pure."""

from __future__ import annotations

from typing import assert_never

import attrs

from turnout.core.effects import Effect, Publish, Save, Schedule
from turnout.core.events import Debounced, Resubmitted, Submitted
from turnout.core.evolve import evolve
from turnout.core.record import JobRecord, JobState, Token

Effects = tuple[Effect, ...]


def by_submitter(record: JobRecord | None, event: Submitted | Debounced) -> Effects:
    """What follows from the submit of a job whose record is `record` (None: it has none)."""
    match event:
        case Submitted():
            return _submitted(record, event)
        case Debounced():
            return _debounced(record, event)
        case _:
            assert_never(event)


def _submitted(record: JobRecord | None, event: Submitted) -> Effects:
    spec = event.spec
    if event.at is not None:
        drafted = draft(event)
        if record is not None and record.token != drafted.token:
            return ()
        # The record comes first, so that a second submit of the id and a cancel both find it (P11). When it is there
        # already it is this very submit's, stored by a write whose answer was lost.
        before = () if record is not None else (Save(drafted),)
        return (*before, Schedule(spec, event.at, event.nonce, event.chosen))
    if record is not None:
        return ()  # a worker was quicker than the record of a queued job (P12), or it is there by our own lost answer
    publish = Publish(spec, event.nonce, event.chosen)
    return (publish, Save(draft(event))) if spec.options.has_deadline else (publish,)


def _debounced(record: JobRecord | None, event: Debounced) -> Effects:
    """As long as the job waits for its time it takes the newest payload, and waits on; its timer stays as it is.

    What comes too early is given back by what the record says, whoever brings it (P11). What a node must have,
    and the priority, stay as the first one said: the message goes by them.
    """
    if record is None:
        return (Save(draft(event)), Schedule(event.spec, event.at, event.nonce))
    if record.state is not JobState.scheduled:
        return ()
    before = record.spec
    kept = before.options
    options = attrs.evolve(event.spec.options, requires=kept.requires, priority=kept.priority)
    spec = evolve(
        event.spec,
        options=options,
        submitted_at=before.submitted_at,
        generation=before.generation,
        after=before.after,
    )
    return (Save(evolve(record, spec=spec, due_at=max(event.at, record.due_at or 0.0))),)


def draft(event: Submitted | Resubmitted | Debounced) -> JobRecord:
    """The record of a job that has just been submitted."""
    token = Token("", event.spec.generation, 0, event.nonce)
    state = JobState.queued if event.at is None else JobState.scheduled
    return JobRecord(event.spec, state, token=token, due_at=event.at)
