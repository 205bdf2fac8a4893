"""Settling what was handed over: acknowledged is removed, so only what a record has, or what is surely void (W3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence

import attrs

from turnout.core.workflows.standing import Standing
from turnout.core.workflows.values import Command, Input, InputKind, Record, token_of
from turnout.errors import TurnoutError
from turnout.nats.stream import ACK, IN_PROGRESS, nak
from turnout.store.inbox import Wakeup
from turnout.store.perform import Store
from turnout.wire import histories as wire

logger = logging.getLogger("turnout.workflow")

VOID_AFTER_S = 10.0
"""A verdict that rests on a read counts, with more than one replica, only when the input is this old: a leader that was
cut off answers reads for seconds."""

NO_HISTORY_S = (0.01, 5.0)
NO_HISTORY_HANDED = 21
"""How often an input without a history is given back: about a minute of hand-overs, counted in these (W3)."""

TROUBLE_S = 5.0
"""How long what nobody can deal with here and now is given back for."""

STUCK_S = (1.0, 60.0)
STUCK_LATER_S = 600.0
"""How long the inputs of a stuck workflow that are not its first one are given back for, at most (W7)."""


def is_homeless(wakeup: Wakeup) -> bool:
    """Whether an input without a history was handed over so often that there will be none."""
    return wakeup.number > NO_HISTORY_HANDED


class Settling:
    """Says what becomes of wake-ups. Nothing is awaited: an acknowledgement that is lost is made again.

    `replicas`: how many servers keep the streams.
    """

    def __init__(self, store: Store, replicas: int) -> None:
        self._store = store
        self.replicas = replicas
        self.again: Callable[[Wakeup], None] = lambda _: None
        """Takes once more what never lay in the inbox, but came of a local activity (W15)."""
        self.on_left: Callable[[Wakeup], None] = lambda _wakeup: None
        """Told of the end of a job that was handed over and that this node does not go on with (W4)."""
        self._firing: set[asyncio.Task[None]] = set()
        self.on_settled: Callable[[Wakeup], None] = lambda _wakeup: None
        """Told of what is acknowledged or given back: nobody may extend it from then on."""

    def after(
        self,
        standing: Standing,
        void: Collection[int],
        wakeups: Iterable[Wakeup],
        taken: Collection[Input] = (),
    ) -> list[Wakeup]:
        """Settle what the newest record's `upto` covers, or what is void; what is left begins the next task.

        What is kept for a local activity is left too (W15), and so is the end of one that no record has.
        """
        left = []
        kept = {command.wake for command in standing.locals} if standing.pending else ()
        for wakeup in wakeups:
            given = wakeup.given
            kind = given.kind if given is not None else None
            begun = (standing.begun or standing.delayed) and not standing.ahead
            if wakeup.seq in kept:
                left.append(wakeup)
            elif given is not None and not wakeup.seq:
                if given.what in standing.pending and given not in taken:
                    left.append(wakeup)
            elif kind is InputKind.start and not (begun or standing.state.final):
                left.append(wakeup)  # it stays until `begin` of its run stands in a record, or what a fork brings along
            elif standing.state.final and given is not None and kind is InputKind.start and given.life == standing.life:
                self.remove(wakeup)  # what ended in its first task may have ended in front of it
            elif wakeup.seq <= standing.upto or wakeup.seq in void:
                self.remove(wakeup, void=wakeup.seq in void)
            else:
                left.append(wakeup)
        return left

    def without_history(self, wakeup: Wakeup) -> None:
        """A start may be on its way: give it back, and take it for void only after a minute of hand-overs."""
        if is_homeless(wakeup):
            self.remove(wakeup, void=True)
        else:
            self.give_back(wakeup, min(NO_HISTORY_S[0] * 2 ** (wakeup.number - 1), NO_HISTORY_S[1]))

    def put_off(self, wakeups: Iterable[Wakeup]) -> list[Wakeup]:
        """There is no way on from here: whoever is handed them next may know more. None of them is left."""
        for wakeup in wakeups:
            self.give_back(wakeup, TROUBLE_S)
        return []

    def stuck(self, standing: Standing, wakeups: Sequence[Wakeup]) -> list[Wakeup]:
        """Give back what the workflow can't take; the first input comes again sooner than those behind it."""
        first = True
        for wakeup in self.after(standing, (), wakeups):
            most = STUCK_S[1] if first else STUCK_LATER_S
            self.give_back(wakeup, min(STUCK_S[0] * 2 ** min(wakeup.number - 1, 20), most))
            first = False
        return []

    def remove(self, wakeup: Wakeup, *, void: bool = False) -> None:
        """Acknowledge: the input is gone then. What is void waits until nobody can have read the past."""
        if not wakeup.seq:
            return
        if void and self.replicas > 1:
            age = self._store.connection.now() - wakeup.time_ns / 1e9
            if age < VOID_AFTER_S:
                self.give_back(wakeup, VOID_AFTER_S - age)
                return
        self._settle(wakeup, ACK)
        self.on_settled(wakeup)

    def give_back(self, wakeup: Wakeup, delay_s: float) -> None:
        """Have it handed over again, to whomever, after `delay_s`."""
        if wakeup.seq:
            self._settle(wakeup, nak(delay_s))
            self.on_settled(wakeup)
        elif wakeup.handed_over:
            self.on_left(wakeup)
        else:
            again = attrs.evolve(wakeup, number=wakeup.number + 1)
            asyncio.get_running_loop().call_later(delay_s, self.again, again)

    def extend(self, wakeup: Wakeup) -> None:
        """Keep it: it is being worked on, or waits for its turn."""
        if wakeup.seq:
            self._settle(wakeup, IN_PROGRESS)

    def _settle(self, wakeup: Wakeup, data: bytes) -> None:
        with contextlib.suppress(TurnoutError):  # it comes again
            self._store.inbox.settle(wakeup, data)

    def fire(self, record: Record, command: Command) -> None:
        """A short timer is due: the owner says so itself; the server's own copy comes later and is void (W6)."""
        task = asyncio.get_running_loop().create_task(self._fire(record, command))
        self._firing.add(task)
        task.add_done_callback(self._firing.discard)

    async def _fire(self, record: Record, command: Command) -> None:
        own = record.asker(command.id)
        headers = wire.input_headers(life=own.life, run=own.run, command=own.command)
        with contextlib.suppress(TurnoutError):  # the server's timer stands behind it
            await self._store.inbox.append(
                own.name, own.id, InputKind.timer, what=token_of(command.id), headers=headers
            )
