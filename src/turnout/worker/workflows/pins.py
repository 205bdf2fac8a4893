"""Runs that are pinned to a build: what one of another build is handed goes on to a worker of that one (W11).

Nobody of another build runs their code. A wake-up is handed over by a request of core NATS that carries it, with the
subject that settles it: whoever takes it settles it, and where nobody does it is given back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from turnout.errors import TurnoutError
from turnout.nats.connection import Disconnected, RequestTimeout
from turnout.nats.messages import Message, NoResponders
from turnout.nats.subscription import Subscription
from turnout.store.inbox import Wakeup, parse_wakeup
from turnout.store.perform import Store
from turnout.worker.workflows.queries import GROUP
from turnout.worker.workflows.settling import Settling

logger = logging.getLogger("turnout.workflow")

HANDED = "Turnout-Handed"
"""The header of a wake-up that is handed over: its subject in the inbox, and the subject that settles it."""

WITHIN_S = 0.3
"""How long a worker of the build is waited for."""

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

    async def hand_on(self, wakeups: Collection[Wakeup], build: str) -> list[Wakeup]:
        """Hand wake-ups to a worker of this build; those that nobody takes."""
        taken = await asyncio.gather(*(self._hand(wakeup, build) for wakeup in wakeups))
        return [wakeup for wakeup, gone in zip(wakeups, taken, strict=True) if not gone]

    async def _hand(self, wakeup: Wakeup, build: str) -> bool:
        given = wakeup.given
        if given is None:
            return False
        names = self._store.names
        lay = names.input(wakeup.name, wakeup.id, given.kind, given.what)
        headers = {**(wakeup.headers or {}), HANDED: f"{lay} {wakeup.ack}"}
        subject = names.pinned(wakeup.name, build)
        try:
            await self._store.connection.request(subject, wakeup.data, headers=headers, timeout_s=WITHIN_S)
        except (NoResponders, RequestTimeout, Disconnected):
            return False
        except TurnoutError as error:
            logger.warning("workflow %s: can't be handed to build %s: %s", wakeup.id, build, error)
            return False
        return True

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


class PinServer:
    """Takes the wake-ups of runs that are pinned to this build from nodes of other builds."""

    def __init__(self, store: Store, names: Collection[str], build: str, receive: Callable[[Wakeup], None]) -> None:
        self._store = store
        self._workflows = names
        self._build = build
        self._receive = receive
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Returns when the server knows of it. PermissionDenied where these credentials may not listen."""
        for name in self._workflows:
            subject = self._store.names.pinned(name, self._build)
            self._subscriptions.append(await self._store.connection.subscribe(subject, self._hears, queue=GROUP))

    async def stop(self) -> None:
        for subscription in self._subscriptions:
            await subscription.drain()

    def _hears(self, message: Message) -> None:
        lay, _, ack = message.headers.get(HANDED, "").partition(" ")
        handed = Message(lay, ack, message.data, message.block)
        wakeup = parse_wakeup(self._store.names, handed) if ack and message.reply else None
        if wakeup is not None:
            self._store.connection.send(message.reply, b"+")
            self._receive(wakeup)
