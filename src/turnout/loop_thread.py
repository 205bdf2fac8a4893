"""A thread with an event loop of its own, for what must go on while user code blocks the program's loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any


class LoopThread:
    """Runs `main` on a loop of its own, in a daemon thread, until it ends or `stop` cancels it.

        thread = LoopThread("turnout-leases", keep)
        thread.start()
        await thread.wait_ready()     # keep() has called thread.ready(), or has failed
        ...
        await thread.stop()

    Start and stop it on the loop of the program.
    """

    def __init__(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._main = main
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starter: asyncio.AbstractEventLoop
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._ready: asyncio.Future[None]
        self.ended: asyncio.Future[BaseException | None]
        """Done when the thread has ended, with what ended it if that was an error. There is none before the start."""

    # --- for the program's loop ---------------------------------------------------------------------------------------

    def start(self) -> None:
        self._starter = asyncio.get_running_loop()
        self._ready = self._starter.create_future()
        self.ended = self._starter.create_future()
        self._thread.start()

    async def wait_ready(self) -> None:
        """Returns when `main` has said that it is ready. Raises what ended it before that."""
        first: list[asyncio.Future[Any]] = [self._ready, self.ended]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            raise self.ended.result() or RuntimeError(f"thread {self._thread.name} ended before it was ready")

    async def stop(self, patience_s: float = 10.0) -> None:
        """Cancel `main`, and wait so long for it to clean up. Stopping twice, or before the start, does nothing."""
        self._stopping.set()
        if self._thread.ident is None:
            return
        self.call(self._cancel)
        await asyncio.wait({self.ended}, timeout=patience_s)

    # --- for any thread -----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def dead(self) -> bool:
        """It has ended, though nobody had stopped it."""
        return self._thread.ident is not None and not self.alive and not self._stopping.is_set()

    def call(self, callback: Callable[..., object], *args: object) -> None:
        """Call it on the thread's loop, soon; never if that has ended."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(callback, *args)

    def call_back(self, callback: Callable[..., object], *args: object) -> None:
        """Call it on the program's loop, soon; never if that has ended."""
        with contextlib.suppress(RuntimeError):
            self._starter.call_soon_threadsafe(callback, *args)

    def ready(self) -> None:
        """For `main` to say that it is ready."""
        self.call_back(_resolve, self._ready, None)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._whole())
        except asyncio.CancelledError:
            pass
        except BaseException as caught:  # whatever ends the thread is for its owner to hear of, who may have to stop
            error = caught
        self.call_back(_resolve, self.ended, error)

    async def _whole(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if not self._stopping.is_set():
            await self._main()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _resolve(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)
