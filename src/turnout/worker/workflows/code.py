"""The thread of a process that runs all workflow code, and what becomes of code that does not let go of it (W7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from turnout.flow.thread import Held, Limits, WorkThread

logger = logging.getLogger("turnout.workflow")

T = TypeVar("T")

AT_HAND = 8
"""How many pieces of code the thread has at hand. With one it would wait for a turn of the loop behind each; many would
keep the interpreter from that loop for long."""


class CodeThread:
    """Runs one piece of workflow code at a time. Code that holds the thread is warned of, and ended.

    What cannot be ended, since it waits for something outside of Python, keeps the thread; all other code goes on with
    another one.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._room = asyncio.Semaphore(AT_HAND)
        self._lost: list[WorkThread] = []
        self._thread = self._begin()

    def _begin(self) -> WorkThread:
        return WorkThread(on_slow=_warn, on_stuck=self._give_up, limits=self._limits, name="turnout-workflows")

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises, on that thread; HeldTooLong when it was ended, or could not be."""
        async with self._room:
            return await self._thread.run(call)

    @property
    def trouble(self) -> str | None:
        """What is wrong with this process, if anything is."""
        lost = sum(thread.stuck for thread in self._lost)
        return f"workflow code holds {lost} threads and can't be ended: restart this worker" if lost else None

    async def close(self) -> None:
        """Let the thread end."""
        await self._thread.close()

    def _give_up(self, held: Held) -> None:
        logger.critical("workflow code holds its thread and can't be ended; others get a new one\n%s", held.stack)
        lost, self._thread = self._thread, self._begin()
        self._lost.append(lost)
        lost.hand_on(self._thread)


def _warn(held: Held) -> None:
    logger.warning("workflow code has not let go of its thread for %.1f s\n%s", held.seconds, held.stack)
