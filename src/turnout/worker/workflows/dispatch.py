"""Wake-ups on their way to tasks: one task at a time for each workflow, and nothing waits longer than its ack wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import attrs

from turnout.errors import TurnoutError
from turnout.nats.pull import Puller
from turnout.store.inbox import Wakeup
from turnout.worker.workflows.settling import Settling

logger = logging.getLogger("turnout.workflow")

EXTEND_EVERY_S = 3.0
AT_HAND = 1_000
"""How many wake-ups a node has in its hand before it asks for no more."""

ASKED = 256
"""How many wake-ups of one workflow's name are asked for at once."""

TASKS = 128
"""How many tasks are under way at once: all but the code itself is waiting for the server."""

DoTask = Callable[[str, str, list[Wakeup]], Awaitable[list[Wakeup]]]
"""(name, id, wake-ups) -> the wake-ups that are left for the next task, which begins at once: there is a way on."""

StartBare = Callable[[Wakeup], Awaitable[None]]


@attrs.define
class _Line:
    """The wake-ups of one workflow that wait for the task that runs to end; `settled` is what that has settled."""

    waiting: list[Wakeup] = attrs.field(factory=list)
    working: list[Wakeup] = attrs.field(factory=list)
    settled: set[str] = attrs.field(factory=set)

    def take(self) -> None:
        """Take what waits into work, as far as it was sent under the name of the first: each name has its own inbox.

        An id that is used again may be that of a workflow of another name.
        """
        name = self.waiting[0].name
        self.working = [wakeup for wakeup in self.waiting if wakeup.name == name]
        self.waiting = [wakeup for wakeup in self.waiting if wakeup.name != name]


class Dispatcher:
    """Begins a task for what is handed over, unless one of that workflow runs; then it waits for the next one."""

    def __init__(
        self, do: DoTask, start_bare: StartBare, settling: Settling, renewed: Callable[[Wakeup], bool]
    ) -> None:
        self._do = do
        self._renewed = renewed
        self._start_bare = start_bare
        self._settling = settling
        self._lines: dict[str, _Line] = {}
        self._in_lines = 0
        """How many wake-ups all lines have, counted as they come and go: there may be a thousand lines."""
        self._bare: dict[str, Wakeup] = {}
        """Bare starts at hand, by the subjects that settle them."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(TASKS)
        self._draining = False
        settling.on_settled = self._settled
        self.on_room: Callable[[], None] = lambda: None
        """Called when there is room for more."""

    # --- what its pullers ask (turnout.nats.pull.Demand) --------------------------------------------------------------

    @property
    def at_hand(self) -> int:
        return self._in_lines + len(self._bare)

    def top_up(self, puller: Puller) -> None:
        puller.ask(min(ASKED, AT_HAND - self.at_hand) - puller.asked)

    def ended(self, puller: Puller, unused: int) -> None:
        self.top_up(puller)

    def available(self, puller: Puller) -> None:
        self.top_up(puller)

    def is_at_work(self, workflow_id: str) -> bool:
        """Whether a task of this workflow runs."""
        return workflow_id in self._lines

    # --- wake-ups -----------------------------------------------------------------------------------------------------

    def receive(self, wakeup: Wakeup) -> None:
        """A wake-up was handed over."""
        if self._renewed(wakeup):
            return
        if self._draining and wakeup.seq:
            self._settling.give_back(wakeup, 0)
        elif not wakeup.id:
            self._bare[wakeup.ack] = wakeup
            self._begin(self._bare_start(wakeup))
        elif (line := self._lines.get(wakeup.id)) is not None:
            line.waiting.append(wakeup)
            self._in_lines += 1
        else:
            self._in_lines += 1
            self._lines[wakeup.id] = line = _Line([wakeup])
            self._begin(self._work(wakeup.id, line))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, workflow_id: str, line: _Line) -> None:
        """Task after task until nothing waits any more."""
        try:
            while line.waiting:
                line.take()
                if self._draining and not self._ends_only(line):
                    continue
                async with self._gate:
                    left = await self._task(workflow_id, line)
                self._in_lines -= len(line.working) - len(left)
                line.working = []
                line.settled.clear()
                line.waiting = left + line.waiting
        finally:
            self._in_lines -= len(line.working) + len(line.waiting)
            self._give_back([*line.working, *line.waiting])
            del self._lines[workflow_id]
            self.on_room()

    def _ends_only(self, line: _Line) -> bool:
        """While this node leaves only ends of local activities, which nobody else has, are still taken."""
        others = [wakeup for wakeup in line.working if wakeup.seq]
        line.working = [wakeup for wakeup in line.working if not wakeup.seq]
        self._in_lines -= len(others)
        self._give_back(others)
        return bool(line.working)

    async def _task(self, workflow_id: str, line: _Line) -> list[Wakeup]:
        try:
            return await self._do(line.working[0].name, workflow_id, line.working)
        except TurnoutError as error:
            logger.warning("workflow %s: its task is put off: %s", workflow_id, error)
        except Exception:  # one workflow's trouble is nobody else's; whatever it is, the wake-ups come again
            logger.exception("workflow %s: its task has failed", workflow_id)
        return self._settling.put_off(line.working)

    async def _bare_start(self, wakeup: Wakeup) -> None:
        try:
            async with self._gate:
                await self._start_bare(wakeup)
        except TurnoutError as error:
            logger.warning("a bare start of workflow %s is put off: %s", wakeup.name, error)
            self._settling.put_off([wakeup])
        finally:
            self._bare.pop(wakeup.ack, None)
            self.on_room()

    def _give_back(self, wakeups: list[Wakeup]) -> None:
        for wakeup in wakeups:
            self._settling.give_back(wakeup, 0.0)

    # --- while tasks run ----------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Extend what is at hand, until cancelled."""
        while True:
            await asyncio.sleep(EXTEND_EVERY_S)
            for line in self._lines.values():
                for wakeup in (*line.working, *line.waiting):
                    if wakeup.ack not in line.settled:
                        self._settling.extend(wakeup)
            for wakeup in self._bare.values():
                self._settling.extend(wakeup)

    def _settled(self, wakeup: Wakeup) -> None:
        """Extended once more, what was given back would come only when that is over."""
        line = self._lines.get(wakeup.id)
        if line is not None:
            line.settled.add(wakeup.ack)

    def drain(self) -> None:
        """Take no more; tasks that run come to their end."""
        self._draining = True

    async def all_done(self) -> None:
        """Returns when no task runs any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)
