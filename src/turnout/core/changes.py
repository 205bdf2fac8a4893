"""What a write of a job's record means: the one reading of it that hooks, metrics and spans share.

Since writes are compare-and-set, each change is found by the one write that made it, and by no other.
"""

from __future__ import annotations

import enum

from turnout.core.record import AttemptRecord, JobRecord, JobState
from turnout.core.struct import struct


class Change(enum.StrEnum):
    """Something that has happened to a job."""

    lost = "lost"
    """An attempt's node has vanished."""
    aborted = "aborted"
    """An attempt has ended because its node was stopped."""
    started = "started"
    """An attempt has begun."""
    failed = "failed"
    """An attempt has failed, whether or not there will be another."""
    retried = "retried"
    """An attempt has failed, and there will be another."""
    completed = "completed"
    """The job has ended with a result."""
    faulted = "faulted"
    """The job has ended by failure, for whatever reason."""
    cancelled = "cancelled"
    """The job has ended because somebody asked for that."""


_ENDS = {
    JobState.completed: Change.completed,
    JobState.faulted: Change.faulted,
    JobState.cancelled: Change.cancelled,
}


@struct
class Changes:
    """What one write means, each change at most once and in the order in which they came about.

    `ended` is the attempt that the write closed, if it closed one.
    """

    all: tuple[Change, ...] = ()
    ended: AttemptRecord | None = None


_NOTHING = Changes()
_STARTED = Changes((Change.started,))


def changes(before: JobRecord | None, after: JobRecord) -> Changes:
    """What a write of `after` over `before` means.

    >>> from turnout.core.spec import JobSpec
    >>> spec = JobSpec("a", "add")
    >>> changes(JobRecord(spec, JobState.queued), JobRecord(spec, JobState.cancelled)).all
    (<Change.cancelled: 'cancelled'>,)
    """
    end = _ENDS.get(after.state)
    if before is None:
        if end is None:
            return _STARTED if after.attempt > 0 else _NOTHING
        # One that is put back from its dead letter says nothing new: all of that has happened before.
        return _NOTHING if after.attempt > 0 else Changes((end,))
    then = before if before.spec.generation == after.spec.generation else None
    found: list[Change] = []
    if after.losses > (0 if then is None else then.losses):
        found.append(Change.lost)
    if after.aborts > (0 if then is None else then.aborts):
        found.append(Change.aborted)
    if after.attempt > before.attempt:
        found.append(Change.started)
    if after.failures > (0 if then is None else then.failures):
        found.append(Change.failed)
        if end is None:
            found.append(Change.retried)
    if end is not None and (then is None or then.state is not after.state):
        found.append(end)
    return Changes(tuple(found), _ended(before, after))


def _ended(before: JobRecord, after: JobRecord) -> AttemptRecord | None:
    if not before.attempts or before.attempts[-1].ended_at is not None:
        return None
    # A loss is counted by the write that starts the next attempt, too: the one that ended need not be the last.
    number = before.attempts[-1].number
    if not after.attempts or after.attempts[-1].number == number:
        return after.attempts[-1] if after.attempts and after.attempts[-1].ended_at is not None else None
    return next((each for each in reversed(after.attempts) if each.number == number and each.ended_at), None)
