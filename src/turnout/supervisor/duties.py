"""The duties of the acting supervisor: what it does again and again, each at its own pace.

Each runs in a task of its own: one that takes long, or has nothing but trouble, keeps no other waiting. They begin with
a term and end with it, wherever they are: whatever they do is safe to be cut short, as by a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable

import attrs

from turnout.errors import TurnoutError
from turnout.nats.messages import level_of
from turnout.once import log_rarely

logger = logging.getLogger("turnout.supervisor")


def _nothing() -> None:
    pass


@attrs.frozen(kw_only=True)
class Duty:
    """`run` is called `after_s` seconds after the begin of a term, and then with `every_s` seconds between one run and
    the next, sooner when `hurry` is set. `begin` is called before: of an earlier term nothing counts any more."""

    name: str
    every_s: float
    after_s: float = 0.0
    run: Callable[[], Awaitable[object]]
    begin: Callable[[], None] = _nothing
    hurry: asyncio.Event | None = None


class Duties:
    """Has the duties done between `start` and `stop`. What goes wrong with one is logged, and it runs again later."""

    def __init__(self, duties: Iterable[Duty]) -> None:
        self._duties = list(duties)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def started(self) -> bool:
        return bool(self._tasks)

    def start(self) -> None:
        """A term begins."""
        for duty in self._duties:
            duty.begin()
        self._tasks = [asyncio.create_task(_again_and_again(duty), name=duty.name) for duty in self._duties]

    async def stop(self) -> None:
        """The term has ended; returns when nothing of it goes on."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _again_and_again(duty: Duty) -> None:
    await asyncio.sleep(duty.after_s)
    while True:
        if duty.hurry is not None:
            duty.hurry.clear()
        try:
            await duty.run()
        except TurnoutError as error:
            level = level_of(error, logging.INFO)
            log_rarely(logger, level, duty.name, "the supervisor can't look after %s now: %s", duty.name, error)
        except Exception:  # nobody else does it: whatever one job does to it, it must be done again
            logger.exception("the supervisor has stumbled over %s, it goes on", duty.name)
        await _rest(duty)


async def _rest(duty: Duty) -> None:
    if duty.hurry is None:
        await asyncio.sleep(duty.every_s)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(duty.every_s):
            await duty.hurry.wait()
