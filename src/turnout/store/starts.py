"""Starting a workflow: its wake-up first, then record 0, so that nothing that is started is ever without either (W5).

Clients start workflows here, and workers the children of theirs.
"""

from __future__ import annotations

import asyncio

import attrs

from turnout import crashpoints
from turnout.core.workflows.task import Starting, first_record
from turnout.core.workflows.values import InputKind, Record
from turnout.errors import TurnoutError
from turnout.store.histories import Histories, Overtaken, Stored, is_deleted
from turnout.store.inbox import Inbox
from turnout.wire import histories as wire

SLOW_S = 5.0
"""After how long the wake-up of a start may have been taken for one without a history: it is sent again (W3)."""

_TRIES = 3


class IdTaken(TurnoutError):
    """The id is another life's; `newest` is its newest record."""

    def __init__(self, newest: Stored) -> None:
        super().__init__(f"workflow {newest.record.id} exists already")
        self.newest = newest


class Starts:
    """Starts workflows. Errors are those of the connection, and `IdTaken`."""

    def __init__(self, inbox: Inbox, histories: Histories) -> None:
        self._inbox = inbox
        self._histories = histories

    async def start(self, starting: Starting) -> Stored:
        """Start it, or find that this very start has been stored before: its life tells."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        wake = await self.wake(starting)
        crashpoints.reach("start.woken")
        started = attrs.evolve(starting, start=attrs.evolve(starting.start, wake=wake))
        stored, again = await self._append(first_record(started))
        crashpoints.reach("start.recorded")
        if again or loop.time() - began > SLOW_S:
            await self.wake(starting)
        return stored

    async def wake(self, starting: Starting) -> int:
        """Put the wake-up of a first task into the inbox; where it lies."""
        headers = wire.input_headers(life=starting.life)
        return await self._inbox.append(starting.name, starting.id, InputKind.start, headers=headers)

    async def _append(self, record: Record) -> tuple[Stored, bool]:
        """Record 0, behind nothing or behind the mark of a deleted life; whether it had to be sent again."""
        expected, again = 0, False
        for _ in range(_TRIES):
            try:
                return Stored(record, await self._histories.append(record, expected)), again
            except Overtaken:
                newest = await self._histories.newest(record.id)
            if newest is None:
                expected, again = 0, True
            elif newest.record.life == record.life:
                return newest, again  # this start's own: somebody has done its first task already
            elif is_deleted(newest):
                # Until it was deleted, the wake-up of another life was void to it.
                expected, again = newest.seq, True
            else:
                raise IdTaken(newest)
        raise Overtaken(f"workflow {record.id} could not be started: its history changes all the time")
