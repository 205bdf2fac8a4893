"""The routes with jobs that nobody takes: whoever should have told the nodes that fit may have died before (P15).
And those that nobody uses any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from turnout.core.routing import Route
from turnout.nats.boottime import boottime
from turnout.store.consumers import Consumer
from turnout.store.perform import Store

_TELL_EVERY_S = 5.0
"""How often the nodes that fit are told of a route whose jobs wait: they may be busy, or there may be none."""

UNUSED_S = 3600.0
"""A route on which nothing has come, gone or been asked for in so long is removed: whoever needs it makes it anew."""


class RouteWatch:
    """Tells of the routes that have jobs, and nobody that asks for them; removes unused ones.

    `consumers` gives those that there are, as they were last read.
    """

    def __init__(self, store: Store, consumers: Callable[[], Iterable[Consumer]], unused_s: float = UNUSED_S) -> None:
        self._store = store
        self._consumers = consumers
        self._unused_s = unused_s
        self._spoke_at = -_TELL_EVERY_S
        self._unused: dict[tuple[str, str, int], float] = {}

    async def look(self) -> None:
        """Do what there is to do. Errors are those of the connection."""
        still = [each for each in self._consumers() if each.route is not None and not each.idle]
        await self._tell([each.route for each in still if each.route and each.pending + each.unacked])
        await self._remove([each for each in still if not each.pending + each.unacked])

    async def _tell(self, waiting: list[Route]) -> None:
        if not waiting or boottime() - self._spoke_at < _TELL_EVERY_S:
            return
        self._spoke_at = boottime()
        nodes = await self._store.nodes.living()
        for route in waiting:
            await self._store.routes.tell(route, nodes)

    async def _remove(self, unused: list[Consumer]) -> None:
        now, before = boottime(), self._unused
        keys = {(each.name, each.created, each.deliveries): each for each in unused}
        self._unused = {key: before.get(key, now) for key in keys}
        for key, consumer in keys.items():
            if consumer.route is not None and now - self._unused[key] > self._unused_s:
                await self._store.routes.drop(consumer.route)
