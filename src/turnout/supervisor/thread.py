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
        self._supervisor: Supervisor | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="turnout-supervisor", daemon=True)
        self._starter: asyncio.AbstractEventLoop | None = None
        self.failed: asyncio.Future[BaseException | None] | None = None
        """Done when the thread has ended though nobody had stopped it, with what ended it. None before the start."""

    def start(self) -> None:
        self._starter = asyncio.get_running_loop()
        self.failed = self._starter.create_future()
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def dead(self) -> bool:
        """It has ended, and nobody had stopped it."""
        return self.failed is not None and not self.alive and not self._ended.is_set()

    @property
    def acting(self) -> bool:
        """Whether it is the one that acts now."""
        return self.alive and self._supervisor is not None and self._supervisor.acting

    async def stop(self) -> None:
        """Hand over to another supervisor at once."""
        self._ended.set()
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 5.0)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            pass
        except BaseException as caught:  # whatever ends this thread is told to the worker, who stops
            error = caught
        if not self._ended.is_set() and self._starter is not None:
            with contextlib.suppress(RuntimeError):
                self._starter.call_soon_threadsafe(self._tell, error)

    def _tell(self, error: BaseException | None) -> None:
        if self.failed is not None and not self.failed.done():
            self.failed.set_result(error)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        while not self._ended.is_set():
            self._supervisor = self._make()
            try:
                await self._supervisor.run()
            except TurnoutError as error:
                logger.warning("the supervisor could not begin, it tries again: %s", error)
                await asyncio.sleep(_AGAIN_S)
