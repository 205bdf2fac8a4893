"""What users see of a group, made from its record and those of its members."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import attrs

from turnout.client.info import instant
from turnout.core.group import GroupRecord
from turnout.core.plain import Plain, utc
from turnout.core.record import JobState


@attrs.frozen(kw_only=True)
class GroupInfo(Plain):
    """A group at one moment. `counts`: how many of its jobs are in each state, which adds up to `total`.

    `finished_at`: when the last end was seen. `then`: the id of the job that follows, as soon as it was submitted.
    """

    id: str
    total: int
    counts: dict[JobState, int]
    finished_at: dt.datetime | None
    then: str | None
    submitted_at: dt.datetime


def group_info(record: GroupRecord, open_ones: Counter[JobState]) -> GroupInfo:
    """The record as users see it; `open_ones`: the states of the members that have not ended as far as it knows."""
    counts = record.seen.counts() + open_ones
    return GroupInfo(
        id=record.id,
        total=record.total,
        counts={state: counts[state] for state in JobState},
        finished_at=instant(record.finished_at),
        then=record.then_id or None,
        submitted_at=utc(record.created_at),
    )
