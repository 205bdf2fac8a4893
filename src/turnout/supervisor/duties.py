"""The duties of the acting supervisor: what it does again and again, each at its own pace.

Each runs in a task of its own: one that takes long, or has nothing but trouble, keeps no other waiting. They begin with
a term and end with it, wherever they are: whatever they do is safe to be cut short, as by a crash.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

import attrs

from turnout.errors import TurnoutError
from turnout.nats.messages import level_of
from turnout.once import log_rarely
from turnout.supervisor.bell import Bell

logger = logging.getLogger("turnout.supervisor")

_MOMENT = 5.0
"""Behind the ring of a bell comes the next look, after such a part of the time between two."""


def _nothing() -> None:
    pass


@attrs.frozen(kw_only=True)
class Duty:
    """`run` is called `after_s` seconds after the begin of a term, and then with `every_s` seconds between one run and
    the next, sooner when `hurry` is set. `begin` is called before: of an earlier term nothing counts any more.

    `run` returns True when there is nothing to do. After two such looks it rests for as long as `bell` allows, or until
    that rings, and goes on at its pace then.
    """

    name: str
    every_s: float
    after_s: float = 0.0
    run: Callable[[], Awaitable[object]]
    begin: Callable[[], None] = _nothing
    hurry: asyncio.Event = attrs.field(factory=asyncio.Event)
    bell: Bell | None = None


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
    calm = False
    try:
        while True:
            duty.hurry.clear()
            listens = calm
            calm = await _run(duty, listens=listens)
            woken = await _rest(duty, calm=calm and listens)
            calm = calm and not woken
    finally:
        if duty.bell is not None:
            duty.bell.close()


async def _run(duty: Duty, *, listens: bool) -> bool:
    """Whether there is nothing to do; with `listens` the bell rings for what comes from the begin of this look on."""

    def ring() -> None:
        # Whoever has heard it looks a moment later: then it is stored, and so is the rest of what came with it.
        asyncio.get_running_loop().call_later(duty.every_s / _MOMENT, duty.hurry.set)

    try:
        if listens and duty.bell is not None:
            await duty.bell.listen(ring)
        return await duty.run() is True
    except TurnoutError as error:
        level = level_of(error, logging.INFO)
        log_rarely(logger, level, duty.name, "the supervisor can't look after %s now: %s", duty.name, error)
    except Exception:  # nobody else does it: whatever one job does to it, it must be done again
        logger.exception("the supervisor has stumbled over %s, it goes on", duty.name)
    return False


async def _rest(duty: Duty, *, calm: bool) -> bool:
    """Whether it was cut short."""
    rest_s = max(duty.every_s, duty.bell.rest_s) if calm and duty.bell is not None else duty.every_s
    try:
        async with asyncio.timeout(rest_s):
            await duty.hurry.wait()
    except TimeoutError:
        return False
    return True
