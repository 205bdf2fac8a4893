"""Bare jobs of a priority, found before their turn.

What priority a bare job has is told by a header, which no consumer looks at: it lies in the line of all bare jobs.
Where jobs wait, the new ones are read ahead, each once, and those of another priority are moved into their lane.
"""

from __future__ import annotations

from collections.abc import Iterable

from turnout import wire
from turnout.bounded import each
from turnout.core.events import PriorityRequested
from turnout.core.record import MessageRef
from turnout.core.spec import DEFAULT_PRIORITY
from turnout.nats.direct import Raw
from turnout.nats.pages import newest_of, some
from turnout.store.consumers import Consumer
from turnout.store.perform import Store
from turnout.supervisor.apply import AT_ONCE, Applier

_PAGE = 512
_PAGES = 64
"""So many pages of an activity are read in one look."""

_SAYS = f"\r\n{wire.PRIORITY}:".encode()


class Ahead:
    """Reads ahead. Errors are those of the connection."""

    def __init__(self, store: Store, apply: Applier) -> None:
        self._store = store
        self._apply = apply
        self._read_up_to: dict[str, tuple[str, int]] = {}

    def begin(self) -> None:
        """Read all of it again."""
        self._read_up_to = {}

    async def look(self, consumers: Iterable[Consumer]) -> None:
        """Read what is new at those of these consumers that have something to hand over."""
        waiting = {
            self._store.names.bare(consumer.activity): consumer
            for consumer in consumers
            if consumer.pending and consumer.priority == DEFAULT_PRIORITY
        }
        newest = await newest_of(self._store.connection, self._store.names.work, waiting) if waiting else {}
        for subject, raw in newest.items():
            await self._read(waiting[subject.decode()], raw.seq)

    async def _read(self, consumer: Consumer, newest: int) -> None:
        names, name = self._store.names, consumer.activity
        created, read_up_to = self._read_up_to.get(name, ("", 0))
        if created != consumer.created:
            read_up_to = 0
        seq = max(read_up_to, consumer.delivered_seq) + 1
        for _ in range(_PAGES):
            if seq > newest:
                break
            page = await some(self._store.connection, names.work, names.bare(name), seq, _PAGE)
            await each(self._move, [raw for raw in page.messages if _SAYS in raw.block], AT_ONCE)
            seq = page.messages[-1].seq + 1 if page.messages and page.more else newest + 1
            self._read_up_to[name] = (consumer.created, seq - 1)

    async def _move(self, raw: Raw) -> None:
        stored = raw.parsed()
        named = self._store.names.job_of(stored.subject)
        priority = wire.bare_priority(stored.headers)
        if named is None or priority == DEFAULT_PRIORITY:
            return
        found = wire.parse_delivery(named[0], None, MessageRef(stored.seq, stored.time_ns), stored.data, stored.headers)
        event = PriorityRequested(
            priority=priority,
            now=self._store.connection.now(),
            nonce=self._store.chance.nonce(),
            delivery=found,
        )
        loaded = await self._store.registry.load(found.activity, found.id)
        await self._apply(found.activity, found.id, event, loaded)
