"""The moments of a job's life that somebody may want to hear of, found in what a write changes in its record."""

from __future__ import annotations

import enum

from turnout.core.values import JobRecord, JobState


class Moment(enum.StrEnum):
    """The value is the name of its hook."""

    lost = "on_lost"
    """An attempt's node has vanished."""
    start = "on_start"
    """An attempt begins."""
    failure = "on_failure"
    """An attempt has failed, whether or not there will be another."""
    success = "on_success"
    """The job has completed."""
    fault = "on_fault"
    """The job has ended by failure, for whatever reason."""


def moments(before: JobRecord | None, after: JobRecord) -> tuple[Moment, ...]:
    """What a write of `after` over `before` tells, in the order in which it came about."""
    same_life = before is not None and before.generation == after.generation
    failures, losses, state = (before.failures, before.losses, before.state) if before and same_life else (0, 0, None)
    found = []
    if after.losses > losses:
        found.append(Moment.lost)
    if after.attempt > (before.attempt if before is not None else 0):
        found.append(Moment.start)
    if after.failures > failures:
        found.append(Moment.failure)
    if state is not after.state:
        if after.state is JobState.completed:
            found.append(Moment.success)
        elif after.state is JobState.faulted:
            found.append(Moment.fault)
    return tuple(found)
