"""Ends of jobs that ran on this node, given to their workflows on this node in memory, not through the inbox (W4).

Whoever has run the job keeps its message until the record that has its end is stored, and the effects of that; else it
tells the inbox, as everybody does. So a message, of the job or of the inbox, brings back whatever a dead node leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from turnout.core.record import JobRecord
from turnout.core.spec import Asker
from turnout.core.workflows.jobs import ending_of_job
from turnout.core.workflows.values import Input, InputKind, Record
from turnout.errors import TurnoutError
from turnout.store.inbox import Lying, Wakeup

WITHIN_S = 1.0
"""For how long a record may be waited for until the inbox is told after all: longer while a task runs here."""

Reading = asyncio.Task[list[Lying]]
"""The inbox of a workflow, as it is read."""

_Key = tuple[str, str, int, str]


class WantsInput(TurnoutError):
    """The code asks for a local activity, and no input of the inbox is in hand that could be kept for it (W15)."""


class Handover:
    """Gives ends to workflows of this node. `has`: whether one is in memory, `at_work`: whether a task of it runs.

    `read` reads the inbox of a workflow (name, id), None where the task is to do that.
    """

    def __init__(self, now: Callable[[], float], read: Callable[[str, str], Reading | None]) -> None:
        self._now = now
        self._read = read
        self._waiting: dict[_Key, asyncio.Future[bool]] = {}
        self._timers: dict[_Key, asyncio.TimerHandle] = {}
        self._not_for: set[str] = set()
        self._closed = False
        self.has: Callable[[str], bool] = lambda _: False
        self.at_work: Callable[[str], bool] = lambda _: False
        self.give: Callable[[Wakeup], None] = lambda _: None

    def expect(self, parent: Asker) -> Reading | None:
        """The code of a job of this workflow has ended: the inbox is read while the end is written."""
        if self._closed or parent.name in self._not_for or self.at_work(parent.id):
            return None
        return self._read(parent.name, parent.id)

    def offer(self, record: JobRecord, ahead: Reading | None = None) -> asyncio.Future[bool] | None:
        """Give the end of this job to its workflow: whether a record has it will be told. None: tell the inbox.

        `ahead` came of `expect`.
        """
        parent = record.spec.options.parent
        if self._closed or parent is None or parent.name in self._not_for:
            return None
        if not (self.at_work(parent.id) or self.has(parent.id)):
            return None
        ending = ending_of_job(record)
        key = (parent.id, parent.life, parent.run, parent.command)
        if key in self._waiting or (ending.result is not None and ending.result.ref is not None):
            return None  # what is large becomes an object of the workflow's when the inbox is told
        now = self._now()
        given = Input(InputKind.done, now, what=parent.command, life=parent.life, run=parent.run, ending=ending)
        loop = asyncio.get_running_loop()
        taken = self._waiting[key] = loop.create_future()
        self._timers[key] = loop.call_later(WITHIN_S, self._late, key)
        at_ns = int(now * 1e9)
        self.give(Wakeup(parent.name, parent.id, 0, at_ns, 1, "", given, handed_over=True, ahead=ahead))
        return taken

    def _late(self, key: _Key) -> None:
        """A task that runs here takes the end or leaves it: told as well, a node that is late had twice the work."""
        if self.at_work(key[0]):
            self._timers[key] = asyncio.get_running_loop().call_later(WITHIN_S, self._late, key)
        else:
            self._tell(key, False)

    def taken(self, record: Record) -> None:
        """The record is stored, and so are its effects."""
        for given in record.inputs if self._waiting else ():
            if given.kind is InputKind.done:
                self._tell((record.id, given.life, given.run, given.what), True)

    def left(self, wakeups: Iterable[Wakeup]) -> None:
        """No record has taken these, and nobody here goes on with them."""
        for wakeup in wakeups:
            if wakeup.handed_over and wakeup.given is not None:
                given = wakeup.given
                self._tell((wakeup.id, given.life, given.run, given.what), False)

    def not_for(self, name: str) -> None:
        """Give nothing more to workflows of this name: their code wants inputs of the inbox."""
        self._not_for.add(name)

    def close(self) -> None:
        """Give nothing more; the inbox is told of what no record has."""
        self._closed = True
        for key in list(self._waiting):
            self._tell(key, False)

    def drain(self) -> None:
        """Give nothing more; what was given is taken."""
        self._closed = True

    def _tell(self, key: _Key, taken: bool) -> None:
        waiting = self._waiting.pop(key, None)
        if waiting is None:
            return
        self._timers.pop(key).cancel()
        if not waiting.done():
            waiting.set_result(taken)
