"""The groups that have not finished: what the ends of their members make of them, and what others have left undone.

A duty of the acting supervisor. Ends are looked for in the records of the members: of the first of those that are open,
since members end in about their order, and of a part of the rest, another one each time. They are written down up to a
thousand at a time. What it remembers of a group is no more than where to go on; all that counts is in its record.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import attrs

from turnout import wire
from turnout.core.evolve import evolve
from turnout.core.group import GroupRecord
from turnout.core.record import FINAL, JobState
from turnout.crashpoints import reach
from turnout.errors import TurnoutError
from turnout.nats.boottime import boottime
from turnout.nats.messages import level_of
from turnout.once import log_rarely
from turnout.store.groups import KeptGroup
from turnout.store.members import ActivityOf, Members
from turnout.store.perform import Performer, Store
from turnout.store.records import Conflict
from turnout.telemetry import group_metrics, metrics
from turnout.telemetry.group_metrics import GroupUse, OpenGroups

logger = logging.getLogger("turnout.supervisor")

LEFT_S = 5.0
"""Whoever submits a group, or cancels it, writes down how far that is; who has not for so long is taken for gone."""

_HALF = 500
"""How many of the first members are looked at in one go, and how many of the others."""

_ROUNDS = 20
"""How often one group is gone on with before the others have their turn."""

_PAUSE_S = (0.0, 2.0)
_GONE_S = (20.0, 600.0)
"""How often it is asked whether the members that are not heard of are there at all: rarely of a group that waits."""

_ALL_AGAIN_S = 600.0


@attrs.define
class _Open:
    """A group that has not finished. `cursor`: where the part of the rest begins that is looked at next."""

    kept: KeptGroup
    activity_of: ActivityOf | None = None
    cursor: int = 0
    pause_s: float = _PAUSE_S[0]
    look_at: float = 0.0
    gone_s: float = _GONE_S[0]
    gone_at: float = attrs.field(factory=lambda: boottime() + _GONE_S[0])
    counted: tuple[int, int] = (0, 0)

    @property
    def record(self) -> GroupRecord:
        assert self.kept.record is not None
        return self.kept.record

    @property
    def left(self) -> int:
        """How many members have not ended, as far as is seen; unpacked once for each revision."""
        if self.counted[0] != self.kept.revision:
            self.counted = self.kept.revision, self.record.seen.left
        return self.counted[1]


class GroupUses:
    """The open groups as they were last looked at, for any thread to look at: what the metrics tell."""

    def __init__(self) -> None:
        self._uses: dict[str, GroupUse] = {}

    def count(self, groups: Iterable[_Open]) -> None:
        """These have not finished. An activity that has no open group any more is told with zeros."""
        uses = dict.fromkeys(self._uses, GroupUse())
        for group in groups:
            activity, left, total = group.record.activity, group.left, group.record.total
            use = uses.get(activity, GroupUse())
            uses[activity] = GroupUse(use.groups + 1, use.open + left, use.ended + total - left)
        self._uses = uses

    def look(self) -> OpenGroups:
        """The open groups by activity."""
        return self._uses

    def forget(self) -> None:
        """Somebody else tells it from now on."""
        self._uses = {}


class GroupWatch:
    """Looks after the groups. `gone_after_s`: how soon a member is asked after that is not heard of."""

    def __init__(
        self,
        store: Store,
        performer: Performer,
        uses: GroupUses | None = None,
        *,
        gone_after_s: float = _GONE_S[0],
    ) -> None:
        self._store = store
        self._uses = uses or GroupUses()
        self._members = Members(store, performer)
        self._gone_after_s = gone_after_s
        self.begin()

    def begin(self) -> None:
        """Know nothing."""
        self._open: dict[str, _Open] = {}
        self._read_up_to = 0
        self._read_all_at = -_ALL_AGAIN_S
        self._epoch = -1

    async def look(self) -> bool:
        """Go on with each that is due; whether all have finished. Errors are those of the connection."""
        await self._read()
        for group in list(self._open.values()):
            if group.look_at > boottime():
                continue
            try:
                await self._advance(group)
            except Conflict:
                continue  # somebody else has written it: it is read again
            except TurnoutError as error:
                level = level_of(error, logging.WARNING)
                text = "group %s can't be looked after now: %s"
                log_rarely(logger, level, f"group {group.record.id}", text, group.record.id, error)
            except Exception:  # whatever this group does to its reader, there are others
                logger.exception("the supervisor has stumbled over group %s, it goes on", group.record.id)
        if metrics.look():
            self._uses.count(self._open.values())
        reach("supervisor.groups")
        return not self._open

    async def _read(self) -> None:
        """What was written since the last look. All is read again now and then: a server that has crashed may have put
        other writes where those lay that it has lost."""
        epoch = self._store.connection.epoch
        if epoch != self._epoch or boottime() - self._read_all_at > _ALL_AGAIN_S:
            self._epoch, self._read_all_at, self._read_up_to = epoch, boottime(), 0
        async for seq, kept in self._store.groups.written_since(self._read_up_to):
            self._read_up_to = seq
            self._note(kept)

    def _note(self, kept: KeptGroup) -> None:
        record = kept.record
        if record is None:
            return
        if record.finished_at is not None:
            self._open.pop(record.id, None)
        elif (known := self._open.get(record.id)) is None:
            self._open[record.id] = _Open(kept, gone_s=self._gone_after_s, gone_at=boottime() + self._gone_after_s)
        elif known.kept.revision < kept.revision:
            known.kept = kept

    async def _advance(self, group: _Open) -> None:
        """One group, as far as it comes now."""
        await self._go_on_for_others(group)
        if group.activity_of is None:
            group.activity_of = await self._members.activities(group.record)
        moved = False
        for _ in range(_ROUNDS):
            ends, looked = await self._ends(group, group.activity_of)
            if ends:
                await self._save(group, group.record.with_ends(ends))
                reach("group.folded")
            moved = moved or bool(ends)
            if len(ends) < looked / 2 or not looked:
                break
        if not moved and boottime() >= group.gone_at:
            await self._look_for_gone(group, group.activity_of)
        if not group.record.seen.left:
            await self._finish(group, group.activity_of)
        group.pause_s = 0.0 if moved else min(group.pause_s * 1.5 + 0.1, _PAUSE_S[1])
        group.look_at = boottime() + group.pause_s

    async def _go_on_for_others(self, group: _Open) -> None:
        """Submit, or cancel, what somebody has begun with and is not at any more."""
        record = group.record
        if self._store.connection.now() - group.kept.written_at < LEFT_S:
            return
        if record.published < record.total:
            logger.info("group %s was left half submitted, it is gone on with", record.id)
            kept = await self._members.publish(group.kept, await self._store.groups.roster(record))
        elif record.cancel is not None and record.cancelled < record.total:
            kept = await self._members.cancel(group.kept)
        else:
            return
        if kept.record is not None:
            group.kept = kept

    async def _ends(self, group: _Open, activity_of: ActivityOf) -> tuple[dict[int, JobState], int]:
        """The ends that were not seen, of those that are looked at now; and how many these were."""
        seen = group.record.seen
        first = seen.open(0, _HALF)
        behind = first[-1] + 1 if first else 0
        others = seen.open(max(group.cursor, behind), _HALF) if len(first) == _HALF else []
        group.cursor = others[-1] + 1 if len(others) == _HALF else 0
        numbers = first + others
        found = await self._members.records(group.record.id, activity_of, numbers) if numbers else {}
        states = {number: wire.state_of(raw.data) for number, raw in found.items()}
        return {number: state for number, state in states.items() if state in FINAL and state is not None}, len(numbers)

    async def _look_for_gone(self, group: _Open, activity_of: ActivityOf) -> None:
        """A member that somebody has removed will never end: it counts as cancelled."""
        record = group.record
        for first in range(0, record.published, 2 * _HALF):
            numbers = [n for n in record.seen.open(first, 2 * _HALF) if n < min(first + 2 * _HALF, record.published)]
            gone = await self._gone(record, activity_of, numbers) if numbers else []
            if gone:
                logger.warning("group %s: %d members are gone, they count as cancelled", record.id, len(gone))
                await self._save(group, group.record.with_ends(dict.fromkeys(gone, JobState.cancelled)))
        group.gone_s = min(group.gone_s * 1.5, _GONE_S[1])
        group.gone_at = boottime() + group.gone_s

    async def _gone(self, record: GroupRecord, activity_of: ActivityOf, numbers: Sequence[int]) -> list[int]:
        silent = await self._members.without_message(record.id, activity_of, numbers)
        known = await self._members.records(record.id, activity_of, silent) if silent else {}
        suspects = [number for number in silent if number not in known or not known[number].data]
        return [n for n in suspects if await self._members.is_gone(record.id, activity_of(n), n)]

    async def _finish(self, group: _Open, activity_of: ActivityOf) -> None:
        """All have ended: what is to follow is submitted, then the group has finished."""
        record = group.record
        follows = await self._members.follow(record, activity_of) if record.follows else ""
        reach("group.followed")
        kept = await self._store.settings.retention()
        keep_s = max(kept.completed, kept.faulted, kept.cancelled)
        finished = evolve(record, finished_at=self._store.connection.now(), then_id=follows)
        await self._store.groups.save(finished, group.kept.revision, keep_s=keep_s)
        self._open.pop(record.id, None)
        group_metrics.finished(record.activity, followed=bool(follows))
        reach("group.finished")

    async def _save(self, group: _Open, record: GroupRecord) -> None:
        group.kept = await self._store.groups.save(record, group.kept.revision)
