"""What a write of a job's record counts as: for metrics, which add up what happened to jobs."""

from __future__ import annotations

import enum
from typing import NamedTuple

from turnout.core.values import Attempt, JobRecord, JobState


class Count(enum.StrEnum):
    """Something that is counted when it happens to a job."""

    started = "started"
    """An attempt has begun."""
    retried = "retried"
    """An attempt has failed, and there will be another."""
    lost = "lost"
    """An attempt's node has vanished."""
    aborted = "aborted"
    """An attempt has ended because its node was stopped."""
    completed = "completed"
    faulted = "faulted"
    cancelled = "cancelled"


REASONS = ("failed", "fatal", "timed_out", "lost", "expired", "invalid", "invalid_payload", "invalid_result")
"""Why a job is faulted: all that a record's `reason` says then."""

_ENDS = {
    JobState.completed: Count.completed,
    JobState.faulted: Count.faulted,
    JobState.cancelled: Count.cancelled,
}


class Tally(NamedTuple):
    """What one write counts as, each at most once; `ended` is the attempt that it closed, if it closed one."""

    counts: tuple[Count, ...] = ()
    ended: Attempt | None = None


_NOTHING = Tally()


def tally(before: JobRecord | None, after: JobRecord) -> Tally:
    """What a write of `after` over `before` counts as. Since writes are compare-and-set, nothing is counted twice.

    >>> queued = JobRecord("a", "add", JobState.queued)
    >>> tally(queued, JobRecord("a", "add", JobState.cancelled)).counts
    (<Count.cancelled: 'cancelled'>,)
    """
    end = _ENDS.get(after.state)
    if before is None and end is not None and after.attempt > 0:
        return _NOTHING  # a record that is put back from its dead letter: all of that was counted in its time
    same_life = before is not None and before.generation == after.generation
    then = before if same_life else None
    counts: list[Count] = []
    if after.losses > (then.losses if then is not None else 0):
        counts.append(Count.lost)
    if after.aborts > (then.aborts if then is not None else 0):
        counts.append(Count.aborted)
    if after.attempt > (before.attempt if before is not None else 0):
        counts.append(Count.started)
    if after.failures > (then.failures if then is not None else 0) and end is None:
        counts.append(Count.retried)
    if end is not None and (then is None or then.state is not after.state):
        counts.append(end)
    return Tally(tuple(counts), _ended(before, after))


def _ended(before: JobRecord | None, after: JobRecord) -> Attempt | None:
    if before is None or not before.attempts or before.attempts[-1].ended_at is not None:
        return None
    # A loss is counted by the write that starts the next attempt, too: the one that ended need not be the last.
    number = before.attempts[-1].number
    if not after.attempts or after.attempts[-1].number == number:
        return after.attempts[-1] if after.attempts and after.attempts[-1].ended_at is not None else None
    return next((each for each in reversed(after.attempts) if each.number == number and each.ended_at), None)
