"""A supervisor in a thread of its own: code that blocks the worker's loop does not keep it from its work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from turnout.errors import TurnoutError
from turnout.loop_thread import LoopThread
from turnout.nats.messages import level_of
from turnout.supervisor.supervisor import Supervisor

logger = logging.getLogger("turnout.supervisor")

_AGAIN_S = 2.0


class SupervisorThread:
    """Runs the supervisor that `make` makes on a loop of its own. Start it, and stop it in order."""

    def __init__(self, make: Callable[[], Supervisor]) -> None:
        self._make = make
        self._supervisor: Supervisor | None = None
        self._thread = LoopThread("turnout-supervisor", self._main)

    def start(self) -> None:
        self._thread.start()

    @property
    def failed(self) -> asyncio.Future[BaseException | None]:
        """Done when the thread has ended, with what ended it. There is none before the start."""
        return self._thread.ended

    @property
    def alive(self) -> bool:
        return self._thread.alive

    @property
    def dead(self) -> bool:
        """It has ended, and nobody had stopped it."""
        return self._thread.dead

    @property
    def acting(self) -> bool:
        """Whether it is the one that acts now."""
        return self.alive and self._supervisor is not None and self._supervisor.acting

    async def stop(self) -> None:
        """Hand over to another supervisor at once."""
        await self._thread.stop(5.0)

    async def _main(self) -> None:
        while True:
            self._supervisor = self._make()
            try:
                await self._supervisor.run()
            except TurnoutError as error:
                level = level_of(error, logging.WARNING)
                logger.log(level, "the supervisor could not begin, it tries again: %s", error)
                await asyncio.sleep(_AGAIN_S)
