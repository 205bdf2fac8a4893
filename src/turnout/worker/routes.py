"""The routes on which a node takes jobs: those that require no more than it has (P15).

A node looks which there are when it starts, when it is told that there may be a new one, and when its connection comes
back. One without properties has nothing to look for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from turnout.core.routing import Route, fits, spelled
from turnout.errors import TurnoutError
from turnout.nats.messages import level_of
from turnout.nats.pull import Puller
from turnout.once import log_rarely
from turnout.store.perform import Store

logger = logging.getLogger("turnout.worker")

_AGAIN_S = 1.0

Open = Callable[[Route], Awaitable[Puller]]
"""Has a route's jobs asked for from now on; returns who pulls it once it is started."""


class RouteFinder:
    """Finds the routes that a node of these activities and properties fits, and keeps them pulled."""

    def __init__(self, store: Store, activities: Collection[str], properties: Mapping[str, str], open_: Open) -> None:
        self._store = store
        self._activities = activities
        self._properties = properties
        self._open = open_
        self._wanted = asyncio.Event()
        self._pulling: dict[str, asyncio.Task[None]] = {}

    def look(self) -> None:
        """There may be a new one."""
        self._wanted.set()

    async def start(self) -> None:
        """Returns when all that are there now are pulled. Errors are those of the connection."""
        await self._look()

    async def run(self) -> None:
        """Look again whenever there is reason to. Ends when a loop that pulls has ended, with its error."""
        forget = self._store.connection.on_up(self.look)
        wanted = asyncio.ensure_future(self._wanted.wait())
        try:
            while True:
                await asyncio.wait({wanted, *self._pulling.values()}, return_when=asyncio.FIRST_COMPLETED)
                for ended in filter(asyncio.Task.done, self._pulling.values()):
                    ended.result()
                    return
                if not wanted.done():
                    continue
                self._wanted.clear()
                wanted = asyncio.ensure_future(self._wanted.wait())
                await self._look_in_time()
        finally:
            forget()
            wanted.cancel()
            for task in self._pulling.values():
                task.cancel()
            await asyncio.gather(*self._pulling.values(), return_exceptions=True)

    async def _look_in_time(self) -> None:
        try:
            await self._look()
        except TurnoutError as error:
            level = level_of(error, logging.WARNING)
            log_rarely(logger, level, "routes", "the routes that this node fits can't be looked for now: %s", error)
            asyncio.get_running_loop().call_later(_AGAIN_S, self.look)

    async def _look(self) -> None:
        for route in await self._store.routes.known():
            name = f"{route.activity} {route.token}"
            if name in self._pulling or route.activity not in self._activities:
                continue
            if fits(self._properties, route.requires):
                puller = await self._open(route)
                label = f"that pulls {route.activity} where {spelled(route.requires)}"
                self._pulling[name] = asyncio.create_task(puller.run(), name=label)
