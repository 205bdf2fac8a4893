"""Ordinary asyncio programs in virtual time: a year of sleeping takes a second, and every run is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, TypeVar

from turnout.flow.clock import Clock
from turnout.flow.errors import Deadlock, Killed, TimeLimitReached
from turnout.flow.loop import Loop, describe

T = TypeVar("T")

CLEAN_UP_MAX_S = 3600.0


def run_virtual(
    main: Coroutine[Any, Any, T], *, start: float = 0.0, until: float = inf, clock: Clock | None = None
) -> T:
    """Run `main` as `asyncio.run` does, in virtual time that begins at `start` seconds; give what it returns.

    Raises `Deadlock` when nothing can happen any more, and `TimeLimitReached` when nothing would happen before `until`.

    Example:
        async def program() -> float:
            await asyncio.sleep(365 * 24 * 3600)
            return asyncio.get_running_loop().time()

        assert run_virtual(program()) == 365 * 24 * 3600
    """
    loop = Loop(clock=clock or Clock(start))
    loop.time_limit = until
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop()
        try:
            result: T = loop.run_until_complete(loop.create_root(main, "0"))
        finally:
            loop.time_limit = loop.time() + CLEAN_UP_MAX_S  # the tasks that are left are cancelled, and may tidy up
        return result


class Timeline:
    """Several loops that share one virtual time: the processes of a simulated system.

    A loop is a process: `frozen` ones do not run until they are thawed, and one that is killed is dropped.

    Example:
        timeline = Timeline()
        worker, client = timeline.add_loop("worker"), timeline.add_loop("client")
        worker.create_task(work())
        answer = client.create_task(ask())
        timeline.run(until=answer.done)
        timeline.kill(worker)
    """

    def __init__(self, start: float = 0.0) -> None:
        self.clock = Clock(start)
        self.loops: dict[str, Loop] = {}
        self.frozen: set[str] = set()

    @property
    def now(self) -> float:
        """The virtual time in seconds."""
        return self.clock.now

    def add_loop(self, name: str) -> Loop:
        """A new loop, run after those that were added before it."""
        if name in self.loops:
            raise ValueError(f"there is a loop called {name!r} already")
        self.loops[name] = loop = Loop(clock=self.clock)
        return loop

    def kill(self, name: str) -> None:
        """Drop a loop, as the end of a process would: nothing of it has an effect any more.

        Called by code of that very loop it raises `Killed`, which ends its run. Clean-up code of the frames between
        still runs: whatever they share with other loops should look at `loop.dropped`.
        """
        loop = self.loops.pop(name)
        self.frozen.discard(name)
        loop.condemn()
        if loop.is_running():
            raise Killed(f"{name} was killed")
        loop.drop()

    def freeze(self, name: str) -> None:
        """Let a loop stand still while the time goes on."""
        if name not in self.loops:
            raise ValueError(f"there is no loop called {name!r}")
        self.frozen.add(name)

    def thaw(self, name: str) -> None:
        """Let a frozen loop go on. Its timers that are due by now fire at once, as after a suspended process."""
        self.frozen.discard(name)

    def settle(self) -> None:
        """Run every loop that is not frozen until none has anything to do at this moment."""
        ran = True
        while ran:
            ran = False
            for name in list(self.loops):
                ran |= self._run(name)

    def next_due(self) -> float | None:
        """When the next timer of a loop that is not frozen is due, or None."""
        due = [
            due for name, loop in self.loops.items() if name not in self.frozen and (due := loop.next_due()) is not None
        ]
        return min(due, default=None)

    def run(self, *, until: Callable[[], bool] | None = None, until_time: float = inf) -> None:
        """Run all loops, from timer to timer, until a condition holds or the time has come.

        Raises `Deadlock` when nothing can happen any more, `TimeLimitReached` when the time comes before the condition.
        """
        while True:
            self.settle()
            if until is not None and until():
                return
            due = self.next_due()
            if due is not None and due <= until_time:
                self.clock.advance_to(due)
                continue
            waiting = "".join(describe(loop.tasks) for loop in self.loops.values())
            if until is None and until_time < inf:
                self.clock.advance_to(until_time)
                return
            if due is None:
                raise Deadlock(f"nothing can happen any more: nothing is ready, no timer is set.{waiting}")
            raise TimeLimitReached(f"nothing happens before {due}, but the limit is {until_time}.{waiting}")

    def _run(self, name: str) -> bool:
        loop = self.loops.get(name)
        if loop is None or name in self.frozen or loop.idle:
            return False
        try:
            loop.run_until_idle()
        except Killed:
            if not loop.dropped:
                raise
            loop.drop()
        return True
