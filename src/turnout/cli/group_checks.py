"""What `turnout doctor` says of groups: which do not move on, though they could."""

from __future__ import annotations

from collections.abc import AsyncIterator

from turnout import wire
from turnout.cli import output
from turnout.cli.checks import Check
from turnout.core.plain import utc
from turnout.core.record import FINAL
from turnout.errors import TurnoutError, UnreadableRecord
from turnout.store.groups import KeptGroup
from turnout.store.members import Members
from turnout.store.perform import Performer, Store

LATE_S = 30.0
"""So long after it could have gone on a group is not just being gone on with."""

LOOKED_AT = 20
"""Of how many groups the members are looked at, the oldest first."""

_MEMBERS = 500
_REMEDY = "supervisors go on with groups, and every worker carries one: does one live, and what does it log?"


async def group_checks(store: Store) -> AsyncIterator[Check]:
    """Errors are those of the connection."""
    found_open: dict[str, KeptGroup] = {}
    async for _, kept in store.groups.written_since(0):
        if kept.record is not None and kept.record.finished_at is None:
            found_open[kept.record.id] = kept
        elif kept.record is not None:
            found_open.pop(kept.record.id, None)  # it has finished while this was read
    opened = sorted(found_open.values(), key=lambda each: each.written_at)
    fine = True
    for place, group in enumerate(opened):
        found = _halted(group, store.connection.now())
        if found is None and place < LOOKED_AT:
            found = await _unseen(store, group)
        if found is not None:
            fine = False
            yield Check("groups", "wrong", found, _REMEDY)
    if fine and opened:
        what = "1 group is" if len(opened) == 1 else f"{len(opened)} groups are"
        yield Check("groups", "ok", f"{what} open, none has come to a halt")


def _halted(group: KeptGroup, now: float) -> str | None:
    """What its record says that should have been gone on with; None for nothing."""
    record = group.record
    if record is None or now - group.written_at < LATE_S:
        return None
    since = f"and nobody has gone on with it since {output.ago(utc(group.written_at), now)}"
    if record.published < record.total:
        return f"{record.id}: {record.published} of {record.total} jobs are submitted, {since}"
    if record.cancel is not None and record.cancelled < record.total and record.seen.left:
        return f"{record.id} was cancelled, {record.cancelled} of {record.total} jobs are asked to end, {since}"
    if not record.seen.left:
        what = "what follows is not submitted" if record.follows else "it has not finished"
        return f"{record.id}: all jobs have ended, {what}, {since}"
    return None


async def _unseen(store: Store, group: KeptGroup) -> str | None:
    """Whether members have ended a while ago that its record does not know of."""
    record, members = group.record, Members(store, Performer(store))
    assert record is not None
    try:
        activity_of = await members.activities(record)
        found = await members.records(record.id, activity_of, record.seen.open(0, _MEMBERS))
    except TurnoutError as error:
        return f"{record.id} can't be looked at: {error}"
    late = store.connection.now() - LATE_S
    unseen = 0
    for raw in found.values():
        try:
            brief = wire.load_brief(raw.data)
        except UnreadableRecord:
            continue
        unseen += brief.state in FINAL and brief.finished_at < late
    return f"{record.id}: {unseen} of its jobs have ended, and nobody has seen it" if unseen else None
