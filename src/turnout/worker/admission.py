"""What one delivery takes of the limits of its activity, and gives back (P13)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Protocol, TypeAlias

from turnout.core.limits import Entry, Holder, LimitKey, is_over
from turnout.core.record import Delivery, JobRecord, JobState
from turnout.core.spec import Body, priority_of
from turnout.crashpoints import reach
from turnout.definition.activity import Activity
from turnout.store.payloads import ObjectGone
from turnout.store.perform import Store, retry_while_away

YOUNG_S = 0.5
"""For so long a job waits in hand, before it is put into the line: that costs several writes, and most wait for less
where a limit lets many through."""
BRISK_YOUNG_S = 2.0
"""For so long where all places of the limit change hands quickly: each job that waits in the line costs a limit that is
always reached several times what it would do meanwhile."""


_Taken: TypeAlias = dict[str, tuple[LimitKey, Entry]]
"""What was taken of each limit, by its key."""


class Seat(Protocol):
    """The slot that was found for a delivery."""

    @property
    def closed(self) -> bool:
        """Whether nothing may begin now: what waits goes elsewhere."""
        ...

    def stand(self) -> bool:
        """Leave it to others, and wait without. False: it is closed."""
        ...

    def sit(self) -> bool:
        """Have one again; after each `stand` that was true. False: there is none, and the job must not run."""
        ...


class Admission:
    """The places of the job that was delivered: all that its activity asks for, or none. The patience of the job."""

    def __init__(self, store: Store, activity: Activity[..., Any], delivery: Delivery, node: str, seat: Seat) -> None:
        self._seat = seat
        self._stood = False
        self._waits_since: float | None = None
        self._store = store
        self._activity = activity
        self._delivery = delivery
        self._node = node
        self._fixed = activity.fixed_limit_keys
        self._keys = self._fixed or ()
        self._keyed: Body | None = None
        self._taken: dict[tuple[int, int], tuple[Holder, _Taken]] = {}
        """What was taken for which attempt, by its generation and turn."""

    async def take(self, generation: int, turn: int, payload: Body) -> LimitKey | None:
        """Take a place of each limit for this attempt, which runs with this payload. None, or one that is full: then it
        has none of the others.

        Errors are those of the connection; what was taken before is still taken, and taking it again changes nothing.
        """
        if self._fixed is None and payload != self._keyed:
            self._keys, self._keyed = await self._find_keys(payload), payload
        delivery, places, attempt = self._delivery, self._store.places, (generation, turn)
        if attempt not in self._taken:
            spec, now = delivery.spec, self._store.connection.now()
            self._taken[attempt] = Holder(spec.activity, spec.id, generation, turn, now, self._node), {}
        holder, taken = self._taken[attempt]
        rank = priority_of(delivery.message.priority)
        # It may wait in hand while it holds nothing of another limit. Not for a place of its payload's own: those
        # behind it in the queue may want others.
        patient = not taken and not delivery.replaced and self._fixed is not None
        for key in self._keys:  # in one order everywhere: no two jobs wait for each other
            if key.key in taken and taken[key.key][1] is Entry.passed:
                continue
            entry = await places.take(key, holder, rank, self if patient else None)
            if entry is not Entry.refused:
                taken[key.key] = key, entry
                patient = False
            sits = not self._stood or self._sits()
            if not sits or entry is Entry.refused:
                await self._give_back(holder, taken, key)
                return key
            reach("execute.admitted")
        return None

    def lasts(self, *, brisk: bool) -> bool:
        """Whether the job may wait in hand for its place: while it is young, and by the leave of its seat."""
        now = asyncio.get_running_loop().time()
        if self._waits_since is None:
            self._waits_since = now
        if now - self._waits_since >= (BRISK_YOUNG_S if brisk else YOUNG_S):
            return False
        self._stood = self._stood or self._seat.stand()
        return self._stood and not self._seat.closed

    def _sits(self) -> bool:
        """Whether the job has a slot again, which has left its own."""
        self._stood = False
        return self._seat.sit()

    async def _give_back(self, holder: Holder, taken: _Taken, full: LimitKey) -> None:
        """Free what was taken for nothing, and what was kept for the job if it comes from the line of another limit."""
        others = [key for key in self._keys if key.key not in taken and key != full]
        for key in others if self._delivery.replaced else ():
            await self._store.places.leave(key, holder)
        for key, entry in list(taken.values()):
            if entry is Entry.passed:
                del taken[key.key]  # before: a token that is given back twice would be one too many
            await self._store.places.leave(key, holder, unused=True)
            taken.pop(key.key, None)

    def leave(self) -> None:
        """Free all that was taken: the attempt has ended here. Nobody has to wait for that."""
        for holder, taken in self._taken.values():
            for key, entry in taken.values():
                if entry is Entry.held:
                    self._store.places.let_go(key, holder)

    async def leave_over(self, record: JobRecord) -> None:
        """Free what was taken for nothing: the record tells what is over; other attempts may be at work elsewhere."""
        for holder, taken in self._taken.values():
            if is_over(holder, record.state, record.generation, record.begun):
                for key, entry in taken.values():
                    if entry is Entry.held:
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

    async def _find_keys(self, payload: Body) -> tuple[LimitKey, ...]:
        if self._fixed is not None:
            return self._fixed
        try:
            return self._activity.limit_keys(await self._store.payloads.get(payload))
        except ObjectGone:
            return ()  # the attempt will say so
