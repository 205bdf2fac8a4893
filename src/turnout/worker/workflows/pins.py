"""Runs that are pinned to a build: what one of another build is handed goes on to a worker of that one (W11).

Nobody of another build runs their code. Where no worker of the build takes it, it is given back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from turnout.store.inbox import Wakeup
from turnout.store.perform import Store
from turnout.worker.workflows.passing import pass_on
from turnout.worker.workflows.settling import Settling

logger = logging.getLogger("turnout.workflow")

WAIT_S = (0.2, 5.0)
"""How long a wake-up is given back for where no worker of its build is: at first, and at most."""


class Pins:
    """What a node does about builds. `pins`: the runs whose tasks it does stay with its own build."""

    def __init__(self, store: Store, build: str, *, pins: bool) -> None:
        self._store = store
        self.build = build
        self.pins = pins
        self._newest: dict[str, str] = {}
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    def are_anothers(self, pin: str) -> bool:
        """Whether a run with this pin is another build's."""
        return pin not in ("", self.build)

    async def hand_on(self, wakeups: Sequence[Wakeup], build: str) -> list[Wakeup]:
        """Hand wake-ups of one workflow to a worker of this build; those that nobody takes."""
        return await pass_on(self._store, wakeups, self._store.names.pinned(wakeups[0].name, build)) if wakeups else []

    def give_back(self, settling: Settling, wakeups: Collection[Wakeup], build: str) -> None:
        """No worker of that build takes them: they come again."""
        for wakeup in wakeups:
            logger.debug("workflow %s waits for a worker of build %s", wakeup.id, build)
            settling.give_back(wakeup, min(WAIT_S[0] * 2 ** min(wakeup.number - 1, 20), WAIT_S[1]))

    async def newer(self, name: str) -> str:
        """The newest build of this workflow whose workers pin, where that is not the own; else "".

        The build is the newest whose first living worker has started last.
        """
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        async with self._looking:
            if self._looked_at < asked_at:  # else somebody has looked since this was asked
                began = loop.time()
                await self._look()
                self._looked_at = began
        newest = self._newest.get(name, self.build)
        return "" if newest == self.build else newest

    async def _look(self) -> None:
        first: dict[tuple[str, str], float] = {}
        for node in await self._store.nodes.living():
            for name in node.workflows if node.pins and not node.draining else ():
                at = first.get((name, node.build), node.started_at)
                first[name, node.build] = min(at, node.started_at)
        self._newest = {}
        for name, build in sorted(first, key=lambda key: first[key]):
            if (name, self.build) in first:  # else this node is so new that it does not see itself
                self._newest[name] = build
