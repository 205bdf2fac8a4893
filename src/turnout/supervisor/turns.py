"""Turns: where jobs of several keys wait, each key has its turn, however many the others have waiting.

Of an activity with a fairness the acting supervisor reads what waits, each message once, and notes the key of each.
While a key whose turn it is would have to wait for those that lie before it, it deals the turns: the first job of each
key in turn is moved into the express lane, from which nodes take before they take from the lane itself. It deals a few
in advance, as many as nodes start from one look to the next. Moving is that of a change of priority: three steps, each
of which may be the last one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import attrs

from turnout import wire
from turnout.bounded import each
from turnout.core.events import PriorityRequested
from turnout.core.spec import EXPRESS, is_express
from turnout.definition.fairness import Fairness
from turnout.errors import TurnoutError
from turnout.nats.direct import Raw
from turnout.nats.pages import at_sequences, some
from turnout.store.consumers import Consumer, consumer_of
from turnout.store.names import lane
from turnout.store.perform import Store
from turnout.store.queue import delivery_in
from turnout.supervisor.apply import AT_ONCE, Applier
from turnout.supervisor.backlog import Backlog

_PAGE = 1024
_PAGES = 8
"""So many pages of a lane are read in one look."""

_MOST = 1_000_000
_MOST_KEYS = 20_000
"""So many jobs of a lane are remembered, with 16 bytes each, and so many keys: what lies behind is read as they go."""

FEWEST = 8
_MOST_DEALT = 512
"""How many are dealt in advance, at least and at most."""

_REST_S = (0.02, 0.5)
"""How long it rests between two looks, at least, while turns are dealt, and when nothing has changed for a while."""

_REST = 4.0
"""While there is nothing to deal it rests for so many times as long as a look took."""

_LARGEST = 4 * 1024 * 1024
"""A payload in the object store is read for its key up to this size; larger ones are all of one key."""

_UNREAD = "?"


@attrs.define
class _Subject:
    """How far one subject of a lane is read."""

    name: str
    read_up_to: int = 0


class _Lane:
    """What is known of one lane of an activity with a fairness, of whose `consumer` it was read."""

    def __init__(self, store: Store, consumer: Consumer, fairness: Fairness, epoch: int) -> None:
        self.fairness = fairness
        self.of = _identity(consumer, epoch)
        self.subjects = [_Subject(name) for name in consumer.subjects(store.names)]
        self.backlog = Backlog(len(self.subjects))
        self.ahead = FEWEST
        """How many are dealt in advance."""
        self.dealt = False

    @property
    def full(self) -> bool:
        """Whether no more can be remembered until some have gone."""
        if self.backlog.keys >= _MOST_KEYS:
            self.backlog.forget_handed()
        return len(self.backlog) >= _MOST or self.backlog.keys >= _MOST_KEYS

    def learn(self, left: int) -> None:
        """So many of those that were dealt have not been taken: where all have, it was too few."""
        if self.dealt and left == 0:
            self.ahead = min(2 * self.ahead, _MOST_DEALT)
        elif left > self.ahead // 2:
            self.ahead = max(FEWEST, self.ahead - self.ahead // 4)


class Turns:
    """Deals the turns. `consumers` gives those that there are, as they were last read."""

    def __init__(self, store: Store, apply: Applier, consumers: Callable[[], Iterable[Consumer]]) -> None:
        self._store = store
        self._apply = apply
        self._consumers = consumers
        self._lanes: dict[str, _Lane] = {}

    def begin(self) -> None:
        """Read all of it again."""
        self._lanes = {}

    async def look(self) -> None:
        """Deal as long as jobs wait of an activity with a fairness. Errors are those of the connection."""
        rest_s = _REST_S[0]
        while True:
            consumers = self._consumers()
            waiting = [one for one in consumers if one.fairness and one.pending and not one.paused]
            names = {consumer.name for consumer in waiting}
            self._lanes = {name: known for name, known in self._lanes.items() if name in names}
            if not waiting:
                return
            began = asyncio.get_running_loop().time()
            goes_on = [await self._one(consumer) for consumer in waiting]
            took_s = asyncio.get_running_loop().time() - began
            rest_s = _REST_S[0] if any(goes_on) else min(2 * rest_s, _REST_S[1])
            await asyncio.sleep(rest_s if any(goes_on) else max(rest_s, _REST * took_s))

    async def _one(self, consumer: Consumer) -> bool:
        """Whether turns were dealt, or there is more to read."""
        connection, names = self._store.connection, self._store.names
        now = await consumer_of(connection, names, consumer.name)
        fairness = None if now is None else Fairness.loads(now.fairness)
        if now is None or fairness is None or is_express(now.priority):
            return False
        known = self._lanes.get(now.name)
        if known is None or known.of != _identity(now, connection.epoch):
            known = self._lanes[now.name] = _Lane(self._store, now, fairness, connection.epoch)
        known.backlog.handed(now.delivered_seq)
        more = await self._read(known, now)
        if known.backlog.fair(known.ahead):
            return more
        left = await self._left(now)
        known.learn(left)
        seqs = [seq for _ in range(known.ahead - left) if (seq := known.backlog.next()) is not None]
        await self._deal(seqs, now)
        known.dealt = bool(seqs)
        return more or known.dealt

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _read(self, known: _Lane, consumer: Consumer) -> bool:
        """Read what is new. Whether there is more of it."""
        more = False
        for number, subject in enumerate(known.subjects):
            subject.read_up_to = max(subject.read_up_to, consumer.delivered_seq)
            for _ in range(_PAGES):
                if known.full:
                    return False
                page = await some(
                    self._store.connection, self._store.names.work, subject.name, subject.read_up_to + 1, _PAGE
                )
                for raw in page.messages:
                    stored = _STORED in raw.block
                    key = await self._key_of_stored(known.fairness, raw) if stored else known.fairness.key(raw.data)
                    known.backlog.add(number, raw.seq, key)
                    subject.read_up_to = raw.seq
                if not page.messages or not page.more:
                    break
                await asyncio.sleep(0)
            else:
                more = True
        return more

    async def _key_of_stored(self, fairness: Fairness, raw: Raw) -> str:
        stored = raw.parsed()
        try:
            body = wire.parse_body(stored.data, stored.headers)
            if body.size > _LARGEST:
                return _UNREAD
            return fairness.key(await self._store.payloads.get(body))
        except (TurnoutError, ValueError):
            return _UNREAD

    async def _left(self, consumer: Consumer) -> int:
        """How many of those that were dealt nobody has been handed yet."""
        connection, names, number = self._store.connection, self._store.names, consumer.priority + EXPRESS
        express = await consumer_of(connection, names, lane(consumer.activity, number))
        if express is not None:
            return express.pending
        (subject,) = names.waiting(consumer.activity, number)
        return len((await some(connection, names.work, subject, 1, _MOST_DEALT)).messages)

    # --- dealing ------------------------------------------------------------------------------------------------------

    async def _deal(self, seqs: list[int], consumer: Consumer) -> None:
        found = {raw.seq: raw for raw in await at_sequences(self._store.connection, self._store.names.work, seqs)}
        there = [found[seq] for seq in seqs if seq in found]
        await each(lambda raw: self._move(raw, consumer.priority), there, AT_ONCE)

    async def _move(self, raw: Raw, number: int) -> None:
        stored = raw.parsed()
        found = delivery_in(self._store.names, stored)
        if found is None or found.message.priority != number:
            return
        event = PriorityRequested(
            priority=number + EXPRESS,
            now=self._store.connection.now(),
            nonce=self._store.chance.nonce(),
            delivery=found,
        )
        loaded = await self._store.registry.load(found.activity, found.id)
        await self._apply(found.activity, found.id, event, loaded)


_STORED = f"\r\n{wire.PAYLOAD}:".encode()


def _identity(consumer: Consumer, epoch: int) -> tuple[str, str, int]:
    """Of another one nothing counts that was read before, nor after a time without a connection."""
    return consumer.created, consumer.fairness, epoch
