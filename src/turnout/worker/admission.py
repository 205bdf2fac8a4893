"""What one delivery takes of the limits of its activity, and gives back (P13)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Protocol

from turnout.core.limits import Entry, Holder, LimitKey, is_over
from turnout.core.record import Delivery, JobRecord, JobState
from turnout.core.spec import Body, priority_of
from turnout.crashpoints import reach
from turnout.definition.activity import Activity
from turnout.store.payloads import ObjectGone
from turnout.store.perform import Store, retry_while_away
from turnout.store.places import Patience

YOUNG_S = 0.5
"""For so long a job waits in hand, before it is put into the line: that costs several writes, and most wait for less
where a limit lets many through."""


class Seat(Protocol):
    """The slot that was found for a delivery."""

    @property
    def closed(self) -> bool:
        """Whether nothing may begin now: what waits goes elsewhere."""
        ...

    def stand(self) -> bool:
        """Leave it to others, and wait without. False: that may not be now."""
        ...

    def sit(self) -> bool:
        """Have one again; after each `stand` that was true. False: there is none, and the job must not run."""
        ...


class Admission:
    """The places of the job that was delivered: all that its activity asks for, or none."""

    def __init__(self, store: Store, activity: Activity[..., Any], delivery: Delivery, node: str, seat: Seat) -> None:
        self._seat = seat
        self._stood = False
        self._young_until = asyncio.get_running_loop().time() + YOUNG_S
        self._store = store
        self._activity = activity
        self._delivery = delivery
        self._node = node
        self._keys = activity.fixed_limit_keys or ()
        self._keyed: Body | None = None
        self._taken: dict[tuple[int, int], tuple[Holder, dict[LimitKey, Entry]]] = {}
        """What was taken for which attempt, by its generation and turn."""

    async def take(self, generation: int, turn: int, payload: Body) -> LimitKey | None:
        """Take a place of each limit for this attempt, which runs with this payload. None, or one that is full: then it
        has none of the others.

        Errors are those of the connection; what was taken before is still taken, and taking it again changes nothing.
        """
        if self._activity.fixed_limit_keys is None and payload != self._keyed:
            self._keys, self._keyed = await self._find_keys(payload), payload
        delivery, now = self._delivery, self._store.connection.now()
        holder = Holder(delivery.activity, delivery.id, generation, turn, now, self._node)
        _, taken = self._taken.setdefault((generation, turn), (holder, {}))
        rank = priority_of(delivery.message.priority)
        for key in self._keys:  # in one order everywhere: no two jobs wait for each other
            if taken.get(key) is Entry.passed:
                continue
            entry = await self._store.places.take(key, holder, rank, self._patience(taken))
            if entry is not Entry.refused:
                taken[key] = entry
            if not self._sits() or entry is Entry.refused:
                await self._give_back(holder, taken, key)
                return key
            reach("execute.admitted")
        return None

    def _patience(self, taken: dict[LimitKey, Entry]) -> Patience | None:
        """How the job may wait in hand: while it is young and holds nothing of another limit. Not for a place of its
        payload's own: those behind it in the queue may want others."""
        if taken or self._delivery.replaced or self._activity.fixed_limit_keys is None:
            return None
        return Patience(self._young_until, self._may_wait)

    def _may_wait(self) -> bool:
        self._stood = self._stood or self._seat.stand()
        return self._stood and not self._seat.closed

    def _sits(self) -> bool:
        """Whether the job has a slot, if it has left its own."""
        stood, self._stood = self._stood, False
        return not stood or self._seat.sit()

    async def _give_back(self, holder: Holder, taken: dict[LimitKey, Entry], full: LimitKey) -> None:
        """Free what was taken for nothing, and what was kept for the job if it comes from the line of another limit."""
        others = [key for key in self._keys if key not in taken and key != full]
        for key in others if self._delivery.replaced else ():
            await self._store.places.leave(key, holder)
        for key, entry in list(taken.items()):
            if entry is Entry.passed:
                del taken[key]  # before: a token that is given back twice would be one too many
            await self._store.places.leave(key, holder, unused=True)
            taken.pop(key, None)

    def leave(self, finishing: set[asyncio.Future[Any]]) -> None:
        """Free all that was taken: the attempt has ended here. What is under way then is in `finishing` meanwhile."""
        for key, holder in self._held():
            finishing.add(freed := self._store.places.leave(key, holder))
            freed.add_done_callback(partial(self._freed, finishing, key, holder))

    def _freed(
        self, finishing: set[asyncio.Future[Any]], key: LimitKey, holder: Holder, freed: asyncio.Future[Entry]
    ) -> None:
        finishing.discard(freed)
        if not freed.cancelled() and freed.exception() is not None:
            leaving = retry_while_away(partial(self._store.places.leave, key, holder))
            finishing.add(task := asyncio.get_running_loop().create_task(leaving))
            task.add_done_callback(finishing.discard)

    async def leave_over(self, record: JobRecord) -> None:
        """Free what was taken for nothing: the record tells what is over; other attempts may be at work elsewhere."""
        for key, holder in self._held():
            if is_over(holder, record.state, record.generation, record.begun):
                await retry_while_away(partial(self._store.places.leave, key, holder))
        if self._delivery.replaced and record.state is JobState.queued and record.waits_for is None:
            await retry_while_away(partial(self._leave_in_vain, record))

    async def _leave_in_vain(self, record: JobRecord) -> None:
        """Free the place that a job was given in its line and that no node uses, since none has what it requires.

        A node that has it may be the next that is handed the job: for that one it is kept.
        """
        requires, now = record.spec.options.requires, self._store.connection.now()
        if not requires or any(node.takes(record.activity, requires) for node in await self._store.nodes.living()):
            return
        holder = Holder(record.activity, record.id, record.generation, record.begun + 1, now)
        for key in await self._find_keys(record.spec.payload):
            await self._store.places.leave(key, holder)

    def _held(self) -> list[tuple[LimitKey, Holder]]:
        """The places that were taken."""
        taken = self._taken.values()
        return [(key, holder) for holder, keys in taken for key, entry in keys.items() if entry is Entry.held]

    async def _find_keys(self, payload: Body) -> tuple[LimitKey, ...]:
        if (fixed := self._activity.fixed_limit_keys) is not None:
            return fixed
        try:
            return self._activity.limit_keys(await self._store.payloads.get(payload))
        except ObjectGone:
            return ()  # the attempt will say so
