"""One start in twenty is that of the job that has waited longest, so that no priority starves another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from turnout.core.spec import ONE_IN
from turnout.errors import TurnoutError
from turnout.nats.boottime import boottime

logger = logging.getLogger("turnout.worker")

L = TypeVar("L")

_FRESH_S = 0.1
"""After so long it is asked again who has waited longest: where jobs are that short, twenty of them take a millisecond.
"""

_BELIEVED_S = 0.5
"""For so long it is believed meanwhile: a server that is busy needs its time for the answer, and slots would wait."""


class Elders(Generic[L]):
    """Counts the starts that go by priority, and says which lane the next one is owed to.

    `oldest` finds the lane whose first job has waited longest. `found` is called when that is known.
    """

    def __init__(self, oldest: Callable[[Sequence[L]], Awaitable[L | None]], found: Callable[[], None]) -> None:
        self._oldest = oldest
        self._found = found
        self._passed = 0
        self._elder: L | None = None
        self._known_at = 0.0
        self._served: L | None = None
        self._looking: asyncio.Task[None] | None = None

    def owed(self, lanes: Sequence[L], free: int) -> tuple[L | None, int, int]:
        """Of so many slots that are free for these lanes: whom some are owed to, how many, and how many go by priority.

        Those that are left wait until it is known whom they are owed to.
        """
        owed, passed = divmod(self._passed + free, ONE_IN)
        if 2 * (self._passed + free) >= ONE_IN and not self._knows(lanes, _FRESH_S) and self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look(lanes))
        if not owed:
            self._passed = passed
            return None, 0, free
        if not self._knows(lanes, _BELIEVED_S):
            by_priority = min(free, ONE_IN - 1 - self._passed)
            self._passed += by_priority
            return None, 0, by_priority
        self._passed, self._served = passed, self._elder
        return self._elder, owed, free - owed

    def unused(self, lane: L, count: int) -> None:
        """So many slots of this lane were for nothing: others had been quicker."""
        owed = lane is self._served
        self._passed = ONE_IN - 1 if owed else max(0, self._passed - count)
        if owed:
            self._elder = self._served = None

    def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()

    def _knows(self, lanes: Sequence[L], most_s: float) -> bool:
        """Whether that is known, and has been for so long at most."""
        return self._elder in lanes and boottime() - self._known_at <= most_s

    async def _look(self, lanes: Sequence[L]) -> None:
        elder = lanes[-1]  # the last of them by priority, should nobody know
        try:
            elder = await self._oldest(lanes) or elder
        except TurnoutError as error:
            logger.info("which job has waited longest is not known now: %s", error)
        self._elder, self._known_at, self._looking = elder, boottime(), None
        self._found()
