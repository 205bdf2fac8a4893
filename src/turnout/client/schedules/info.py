"""What users see of a schedule, made from its record."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import attrs

from turnout.client.parsed import parsed_payload
from turnout.core.plain import Plain, utc
from turnout.core.schedule import Run, Schedule, ScheduleRecord
from turnout.core.spec import DEFAULT_PRIORITY
from turnout.store.scheduled_runs import Standing

NEXT = 5
SKIPPED = "skipped"
GONE = "gone"


@attrs.frozen(kw_only=True)
class ScheduleRun(Plain):
    """What became of one tick. `state`: that of its job or workflow, "skipped" when there is none, or "gone" when the
    run's record is not kept any more. `reason`: why it was skipped, or in a few words why it has failed, or ended."""

    due_at: dt.datetime
    id: str
    state: str
    reason: str | None = None


@attrs.frozen(kw_only=True)
class ScheduleInfo(Plain):
    """A schedule at one moment. `activity`: the name of what it runs; `kind` says whether that is an "activity" or a
    "workflow". `next`: its next five ticks, fewer near its end. `recent`: its last ten runs, the newest last.
    `requires` and `priority`: what its jobs were given when it was added.
    """

    name: str
    schedule: Schedule
    activity: str
    payload: Any
    paused: bool
    note: str
    next: list[dt.datetime]
    recent: list[ScheduleRun]
    kind: str = "activity"
    requires: dict[str, str] = attrs.field(factory=dict)
    priority: int = DEFAULT_PRIORITY


def schedule_info(record: ScheduleRecord, now: float, standing: Mapping[str, Standing | None]) -> ScheduleInfo:
    """The record as users see it, with how its runs stand by their ids."""
    return ScheduleInfo(
        name=record.name,
        schedule=record.schedule,
        activity=record.job.name,
        payload=parsed_payload(record.job.payload),
        paused=record.paused,
        note=record.note,
        next=[utc(tick) for tick in islice(_coming(record, now), NEXT)],
        recent=[_run(run, standing.get(run.id)) for run in record.recent],
        kind=record.job.kind,
        requires=dict(record.job.options.requires),
        priority=record.job.options.priority or DEFAULT_PRIORITY,
    )


def _run(run: Run, standing: Standing | None) -> ScheduleRun:
    due_at = utc(run.due_at)
    if run.skipped:
        return ScheduleRun(due_at=due_at, id=run.id, state=SKIPPED, reason=run.skipped)
    if standing is None:
        return ScheduleRun(due_at=due_at, id=run.id, state=GONE)
    return ScheduleRun(due_at=due_at, id=run.id, state=str(standing.state), reason=standing.reason)


def _coming(record: ScheduleRecord, now: float) -> Iterator[float]:
    return record.schedule.ticks(record.created_at, max(now, record.cursor), float("inf"))
