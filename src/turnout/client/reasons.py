"""Why jobs wait that might run now: their activity is paused, a limit is reached, nobody works on it, or
has what they require, all are busy.

What no record tells is told by what is known of the activity and its limits: a job waits in its node's hand for a while
before it is parked, and what lies behind it is not even asked for.
"""

from __future__ import annotations

import asyncio
import contextlib

from turnout.client.info import Waiting, instant
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.limits import LimitKey, Places, own_limit
from turnout.core.record import JobRecord, JobState
from turnout.core.routing import fits, spelled
from turnout.definition.templates import fields_of
from turnout.errors import UnreadableRecord
from turnout.store.pauses import Pause
from turnout.store.perform import Store


class Reasons:
    """Tells of each job what it waits for, as it was when the first of them was asked about."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pauses: dict[str, Pause] | None = None
        self._nodes: list[NodeInfo] | None = None
        self._contracts: dict[str, ActivityInfo] = {}
        self._full: dict[str, Places | None] = {}

    async def of(self, record: JobRecord) -> Waiting | None:
        """What the job waits for; None for one that runs, has ended, or waits for its time. Errors are those of the
        connection."""
        since = waits_since(record, self._store.connection.now())
        if since is None:
            return None
        pause = (await self._held()).get(record.activity)
        if pause is not None:
            return Waiting(kind="paused", name=record.activity, since=instant(max(since, pause.since)))
        limit = record.waits_for
        if limit is not None:
            return Waiting(kind="limit", name=limit.name, since=instant(limit.since))
        working = [n for n in await self._living() if record.activity in n.activities and not n.draining]
        contract = await self._contract(record.activity)
        requires = _required(contract) | record.spec.options.requires
        if working and not any(fits(node.properties, requires) for node in working):
            return Waiting(kind="node", name=spelled(requires), since=instant(since))
        if working and (full := await self._reached(record, contract)) is not None:
            return Waiting(kind="limit", name=full, since=instant(since))
        return Waiting(kind="slot" if working else "node", name=record.activity, since=instant(since))

    async def _reached(self, record: JobRecord, contract: ActivityInfo) -> str | None:
        """A limit of all jobs of the activity that lets none of them in now. One that the payload tells the key of has
        its jobs parked at once, and their records say so."""
        for name in _limits(contract):
            if name not in self._full:
                self._full[name] = await self._places_if_full(name)
            places = self._full[name]
            if places is not None and not any(
                (each.activity, each.id) == (record.activity, record.id) for each in places.holders
            ):
                return name  # one that has just been given a place is on its way to a node
        return None

    async def _places_if_full(self, name: str) -> Places | None:
        key = LimitKey(name, name)
        with contextlib.suppress(UnreadableRecord):  # of a later version, which knows
            (places, _), rule = await asyncio.gather(self._store.places.load(name), self._store.limits.rule(key))
            places = places or Places(name, name)
            return None if places.room(rule, self._store.connection.now()) else places
        return None

    async def _contract(self, activity: str) -> ActivityInfo:
        if activity not in self._contracts:
            self._contracts[activity] = await self._store.nodes.contract(activity) or ActivityInfo(name=activity)
        return self._contracts[activity]

    async def _held(self) -> dict[str, Pause]:
        if self._pauses is None:
            self._pauses = await self._store.pauses.held()
        return self._pauses

    async def _living(self) -> list[NodeInfo]:
        if self._nodes is None:
            self._nodes = await self._store.nodes.living()
        return self._nodes


def waits_since(record: JobRecord, now: float) -> float | None:
    """Since when nothing but others keeps the job from running; None if that is not so."""
    if record.state is JobState.queued:
        ended_at = record.attempts[-1].ended_at if record.attempts else None
        return max(record.spec.submitted_at, ended_at or 0.0, record.message.time if record.message else 0.0)
    due = record.state in (JobState.retrying, JobState.scheduled) and record.due_at is not None
    return record.due_at if due and record.due_at is not None and record.due_at <= now else None


def _limits(contract: ActivityInfo) -> list[str]:
    """The limits that apply to each job of the activity, whatever its payload."""
    limits = contract.options.get("limits")
    named = [str(limit.get("name")) for limit in limits if isinstance(limit, dict)] if isinstance(limits, list) else []
    own = [own_limit(contract.name)] if contract.options.get("global_concurrency") else []
    return [name for name in named if not fields_of(name)] + own


def _required(contract: ActivityInfo) -> dict[str, str]:
    requires = contract.options.get("requires")
    return requires if isinstance(requires, dict) else {}
