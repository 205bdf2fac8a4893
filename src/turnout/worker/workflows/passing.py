"""Wake-ups that one node passes on to another, which has the code or the memory for them (W11).

Each is a request of core NATS that carries the wake-up, with the subject that settles it: whoever takes it settles it,
and where nobody does it stays where it is. Whatever is lost on the way, the server hands it over again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence

import attrs

from turnout.core.workflows.values import Record
from turnout.errors import TurnoutError
from turnout.nats.connection import Disconnected, RequestTimeout
from turnout.nats.messages import Message, NoResponders
from turnout.nats.subscription import Subscription
from turnout.store.inbox import Wakeup, parse_wakeup
from turnout.store.perform import Store
from turnout.worker.workflows.queries import GROUP

logger = logging.getLogger("turnout.workflow")

HANDED = "Turnout-Handed"
"""The header of a wake-up that is passed on: its subject in the inbox, and the subject that settles it."""

WITHIN_S = 0.3
"""How long somebody who takes it is waited for."""


LONG_EVENTS = 200
"""A run with more events than that is better done by who has it in memory than replayed."""


async def pass_home(store: Store, wakeups: list[Wakeup], record: Record, node: str) -> list[Wakeup]:
    """The wake-ups that this node deals with, though the run is not in its memory: a long one mostly is where its
    newest record was written.

    That is speed alone. What was passed on is not passed on again; what lies in no inbox is for this node.
    """
    if record.state.final or record.summary.events <= LONG_EVENTS or record.node in ("", node):
        return wakeups
    if any(wakeup.passed_on or not wakeup.seq for wakeup in wakeups):
        return wakeups
    return await pass_on(store, wakeups, store.names.home(record.node))


async def pass_on(store: Store, wakeups: Sequence[Wakeup], subject: str) -> list[Wakeup]:
    """Pass wake-ups on to whoever listens on this subject; those that nobody takes."""
    taken = await asyncio.gather(*(_pass(store, wakeup, subject) for wakeup in wakeups))
    return [wakeup for wakeup, gone in zip(wakeups, taken, strict=True) if not gone]


async def _pass(store: Store, wakeup: Wakeup, subject: str) -> bool:
    given = wakeup.given
    if given is None:
        return False
    lay = store.names.input(wakeup.name, wakeup.id, given.kind, given.what)
    headers = {**(wakeup.headers or {}), HANDED: f"{lay} {wakeup.ack}"}
    try:
        await store.connection.request(subject, wakeup.data, headers=headers, timeout_s=WITHIN_S)
    except (NoResponders, RequestTimeout, Disconnected):
        return False
    except TurnoutError as error:
        logger.warning("workflow %s: can't be passed on to %s: %s", wakeup.id, subject, error)
        return False
    return True


class Taker:
    """Takes what others pass on: on the subjects `shared` whoever is quickest of a group, on `own` this node."""

    def __init__(
        self,
        store: Store,
        workflows: Collection[str],
        receive: Callable[[Wakeup], None],
        *,
        shared: Iterable[str] = (),
        own: str,
    ) -> None:
        self._store = store
        self._workflows = workflows
        self._receive = receive
        self._subjects = {own: "", **dict.fromkeys(shared, GROUP)}
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Returns when the server knows of it. PermissionDenied where these credentials may not listen."""
        for subject, group in self._subjects.items():
            self._subscriptions.append(await self._store.connection.subscribe(subject, self._hears, queue=group))

    async def stop(self) -> None:
        for subscription in self._subscriptions:
            await subscription.drain()

    def _hears(self, message: Message) -> None:
        lay, _, ack = message.headers.get(HANDED, "").partition(" ")
        handed = Message(lay, ack, message.data, message.block)
        wakeup = parse_wakeup(self._store.names, handed) if ack and message.reply else None
        if wakeup is not None and wakeup.name in self._workflows:
            with contextlib.suppress(Disconnected):  # whoever asks hears nothing, and keeps it
                self._store.connection.send(message.reply, b"+")
                self._receive(attrs.evolve(wakeup, passed_on=True))
