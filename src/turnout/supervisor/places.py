"""The places of limits that nobody else frees or hands on: their holder's node died, or who handed them on did (P13).

Every look reads who holds places, and the records of their jobs: what is over by its record's word is free. Then it
sees to the lines: whoever died between any two steps has left a job in one, or a place that nobody has given to it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set

import attrs

from turnout import wire
from turnout.bounded import each
from turnout.core.catalog import NodeInfo
from turnout.core.limits import Holder, LimitKey, Places, is_abandoned, is_over
from turnout.core.record import JobState
from turnout.crashpoints import reach
from turnout.errors import TurnoutError, UnreadableRecord
from turnout.nats.boottime import boottime
from turnout.nats.pages import newest_of
from turnout.nats.stream import kv_stream
from turnout.store.lines import Line
from turnout.store.perform import Store
from turnout.supervisor.apply import AT_ONCE
from turnout.telemetry import metrics

logger = logging.getLogger("turnout.supervisor")

_GRANTED_S = 2.0
"""After so long a job that was given a place should have its message back."""

_UNSERVED_S = 5.0
"""For so long no node must have worked on an activity: while one takes over from another there may be none."""

_SHARE = 20.0
"""A look that took long, and found something, is followed by a pause of so many times its length."""


class LimitUses:
    """Who used the limits when they were last looked after, for any thread to look at: what the metrics tell."""

    def __init__(self) -> None:
        self._uses: dict[str, metrics.LimitUse] = {}

    def count(self, held: Iterable[Places], lines: Mapping[LimitKey, Line]) -> None:
        """These hold places, and so many wait."""
        holding, waiting = Counter[str](), Counter[str]()
        for places in held:
            holding[places.name] += len(places.holders)
        for key, line in lines.items():
            waiting[key.name] += line.waiting
        names = self._uses.keys() | holding.keys() | waiting.keys()
        self._uses = {name: metrics.LimitUse(holding[name], waiting[name]) for name in names}

    def look(self) -> Mapping[str, metrics.LimitUse]:
        return self._uses

    def forget(self) -> None:
        """Somebody else tells it from now on."""
        self._uses = {}


@attrs.frozen
class _Seen:
    """What a look has seen beside places and lines, and when: the nodes that live, and the activities of which jobs
    wait that nobody can start now, since they are paused or no node works on them."""

    now: float
    living: Sequence[NodeInfo]
    idle: Set[str]

    def lives(self, node: str) -> bool:
        return any(each.id == node for each in self.living)

    def in_vain(self, activity: str, requires: Mapping[str, str]) -> bool:
        """Whether nobody can begin such a job now."""
        fit = not requires or any(node.takes(activity, requires) for node in self.living)
        return activity in self.idle or not fit


class PlaceSweep:
    """Looks after the places of all limits."""

    def __init__(self, store: Store, uses: LimitUses) -> None:
        self._store = store
        self._uses = uses
        self._unserved: dict[str, float] = {}
        """Activities of whose jobs some wait, and since when no node works on them."""
        self._not_before = 0.0

    async def look(self) -> bool:
        """Free what is over, hand on what is free; whether nobody holds a place, or waits for one. Errors are those of
        the connection."""
        if boottime() < self._not_before:
            return False
        begun = boottime()
        if not await self._store.places.ever_used():
            return True
        held = {LimitKey(places.key, places.name): places for places in await self._store.places.all()}
        lines = await self._store.places.lines.all(held)
        self._uses.count(held.values(), lines)
        seen = await self._see(lines, [holder for places in held.values() for holder in places.holders])
        noted = {key: set(places.idle) for key, places in held.items() if places.idle or places.lanes}
        for key in noted:
            lines.setdefault(key, Line())
        calm = not lines and not any(places.holders for places in held.values())

        async def hand_on(key: LimitKey) -> None:
            line, before = lines[key], noted.get(key, set())
            wanted = line.activities & seen.idle
            await self._hand_on(key, line, wanted - before, before - wanted)

        await each(hand_on, lines, AT_ONCE)
        await self._free(list(held.values()), seen)
        if not calm:  # else it looks once more when it listens, and then not for long
            self._not_before = boottime() + _SHARE * (boottime() - begun)
        reach("supervisor.places")
        return calm

    async def _see(self, lines: Mapping[LimitKey, Line], holders: Sequence[Holder]) -> _Seen:
        """Who lives, and whose jobs that wait, or have been given a place, nobody can start."""
        waiting = {activity for line in lines.values() for activity in line.activities}
        waiting.update(holder.activity for holder in holders if not holder.node)
        nodes = await self._store.nodes.living() if waiting or holders else []
        served = {activity for node in nodes if not node.draining for activity in node.activities}
        if any(not node.version for node in nodes):
            served = waiting  # of a node of a later version nobody here knows what it works on
        now, before = boottime(), self._unserved
        self._unserved = {activity: before.get(activity, now) for activity in waiting - served}
        idle = {activity for activity, since in self._unserved.items() if now - since > _UNSERVED_S}
        if waiting:
            idle.update(waiting.intersection(await self._store.pauses.held()))
        return _Seen(self._store.connection.now(), nodes, idle)

    async def _free(self, held: list[Places], seen: _Seen) -> None:
        """Free the places of attempts that are over, or that nobody will begin."""
        store = self._store
        holders = [(places, holder) for places in held for holder in places.holders]
        if not holders:
            return
        names = {store.names.record(holder.activity, holder.id) for _, holder in holders}
        records = await newest_of(store.connection, kv_stream(store.names.jobs_bucket), names)

        async def one(item: tuple[Places, Holder]) -> None:
            places, holder = item
            raw = records.get(store.names.record(holder.activity, holder.id).encode())
            try:
                brief = wire.load_brief(raw.data) if raw is not None and raw.data else None
                if _is_free(holder, brief, seen) and await self._is_still(holder):
                    await store.places.leave(LimitKey(places.key, places.name), holder)
                elif brief is not None and brief.waits_for == places.key and seen.now - holder.at > _GRANTED_S:
                    await self._put_back(holder)
            except UnreadableRecord:
                return  # newer nodes are at work, and will know
            except TurnoutError as error:
                logger.info("the place of job %s can't be looked after now: %s", holder.id, error)
            except Exception:  # whatever this one does to its reader, there are others
                logger.exception("the supervisor has stumbled over the place of job %s, it goes on", holder.id)

        await each(one, holders, AT_ONCE)

    async def _is_still(self, holder: Holder) -> bool:
        """Whether the leader says no other than the replica that was read: that the attempt does not run."""
        record = (await self._store.registry.load(holder.activity, holder.id)).record
        return (
            record is None
            or is_over(holder, record.state, record.generation, record.begun)
            or record.state is not JobState.running
        )

    async def _put_back(self, holder: Holder) -> None:
        """Who gave it the place died before its message was there again."""
        record = (await self._store.registry.load(holder.activity, holder.id)).record
        if record is not None and record.waits_for is not None and not holder.node:
            await self._store.places.put_back(record)

    async def _hand_on(self, key: LimitKey, line: Line, idle: Set[str], busy: Set[str]) -> None:
        try:
            await self._store.places.hand_on(key, line.lanes, idle, busy)
        except TurnoutError as error:
            logger.info("the line of limit %s can't be looked after now: %s", key.key, error)
        except Exception:  # as above
            logger.exception("the supervisor has stumbled over the line of limit %s, it goes on", key.key)


def _is_free(holder: Holder, brief: wire.Brief | None, seen: _Seen) -> bool:
    if brief is not None and is_over(holder, brief.state, brief.generation, brief.begun):
        return True
    if brief is not None and brief.state is JobState.running and brief.generation == holder.generation:
        return False
    if not holder.node and seen.in_vain(holder.activity, {} if brief is None else brief.requires):
        return True
    return is_abandoned(holder, seen.now, lives=seen.lives(holder.node))
