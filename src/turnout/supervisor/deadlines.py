"""Deadlines that no record tells: of bare jobs, and of jobs whose submitter has died before it wrote one (P12).

A worker that is handed such a job ends it, but that may take for ever. So each message that has waited for a moment is
read once, and the place of each that has a deadline is noted: what runs quickly is gone by then, and what waits costs
one read, however long it waits. A queue that is worked off is read as well, in the process that works: so this rests
for much longer than it reads.

A new term reads all of it again, the oldest first, and ends what it finds overdue meanwhile. For 100,000 jobs that wait
that is 1.2 s of the server's time and 2 s of this process's, spread over a minute. To keep what was read for the next
supervisor would cost a write for each job with a deadline, most of which are gone before that is there.
"""

from __future__ import annotations

import logging
from contextlib import aclosing

from turnout import wire
from turnout.bounded import each
from turnout.core.events import Expired
from turnout.core.record import Delivery
from turnout.nats.direct import Raw
from turnout.nats.pages import at_sequences, some, unhurried
from turnout.store.perform import Store
from turnout.store.queue import delivery_in
from turnout.supervisor.agenda import Agenda
from turnout.supervisor.apply import AT_ONCE, Applier

logger = logging.getLogger("turnout.supervisor")

_DUE_MOST = 1024
_GRAIN_S = 0.25
_AGAIN_S = 30.0
_REST = 16.0
_SAYS = f"\r\n{wire.OPTIONS}:".encode()


def _says_nothing(message: tuple[bytes, bytes]) -> bool:
    return _SAYS not in message[1]


class Deadlines:
    """Looks after them: `read` finds those of messages that have waited for `least_age_s`, `look` ends what is overdue.
    Errors are those of the connection."""

    def __init__(self, store: Store, apply: Applier, *, least_age_s: float) -> None:
        self._store = store
        self._apply = apply
        self._least_age_s = least_age_s
        self.begin()

    def begin(self) -> None:
        """Read all of it again."""
        self._read_up_to = 0
        self._agenda = Agenda(_GRAIN_S)
        self._epoch = self._store.connection.epoch

    async def read(self) -> bool:
        """Read what is new, in no hurry; whether there was nothing."""
        connection, names = self._store.connection, self._store.names
        if connection.epoch != self._epoch:
            self.begin()  # a server that has lost its power gives sequences a second time
        begin = self._read_up_to + 1
        first = await some(connection, names.work, names.all_jobs, begin, 1)
        if not first.messages or self._came_just_now(first.messages[0]):
            return not first.messages
        walk = unhurried(connection, names.work, names.all_jobs, begin, rest=_REST, skip=_says_nothing)
        async with aclosing(walk) as pages:
            async for page in pages:
                if connection.epoch != self._epoch:
                    return False
                for raw in page:
                    if _SAYS in raw.block:
                        self._note(raw)
                self._read_up_to = page[-1].seq
                if self._came_just_now(page[-1]):
                    return False
        return False

    async def look(self) -> None:
        """End what is overdue."""
        while True:
            with self._agenda.taking(self._store.connection.now(), _DUE_MOST) as due:
                if not due:
                    return
                found = await at_sequences(self._store.connection, self._store.names.work, due)
                await each(self._expire, found, AT_ONCE)

    def _came_just_now(self, raw: Raw) -> bool:
        return raw.time_ns / 1e9 > self._store.connection.now() - self._least_age_s

    def _note(self, raw: Raw) -> None:
        found = self._delivery(raw)
        if found is None:
            return
        limits = [limit for limit in (found.spec.expires_at, found.spec.starts_by) if limit is not None]
        if limits:
            self._agenda.add(min(limits), raw.seq, now=self._store.connection.now())

    async def _expire(self, raw: Raw) -> None:
        found, now = self._delivery(raw), self._store.connection.now()
        if found is None:
            return
        if not await self._apply(found.activity, found.id, Expired(now=now, delivery=found)):
            self._agenda.add(now + _AGAIN_S, raw.seq, now=now)

    def _delivery(self, raw: Raw) -> Delivery | None:
        """The job; None for what is none."""
        try:
            return delivery_in(self._store.names, raw.parsed())
        except Exception as error:  # whatever this one message does to its reader, there are others
            logger.warning("the message %d can't be looked at: %s", raw.seq, error)
            return None
