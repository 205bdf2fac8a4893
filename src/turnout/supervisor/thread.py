"""A supervisor in a thread of its own: code that blocks the worker's loop does not keep it from its work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

from turnout.errors import TurnoutError
from turnout.supervisor.supervisor import Supervisor

logger = logging.getLogger("turnout.supervisor")

_AGAIN_S = 2.0


class SupervisorThread:
    """Runs the supervisor that `make` makes on a loop of its own. Start it, and stop it in order."""

    def __init__(self, make: Callable[[], Supervisor]) -> None:
        self._make = make
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="turnout-supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    async def stop(self) -> None:
        """Hand over to another supervisor at once."""
        self._ended.set()
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 5.0)

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        while not self._ended.is_set():
            try:
                await self._make().run()
            except TurnoutError as error:
                logger.warning("the supervisor could not begin, it tries again: %s", error)
                await asyncio.sleep(_AGAIN_S)
