"""The sweep: finds the messages that nobody will bring back in time, and gives them back, or says of each to `decide()`
what is the matter with it.

It walks the stream, not only the registry: a job may be stuck before its first record. Each message that was handed to
somebody is read once (handed.py) and judged by its job's record (judge.py), which also tells when to look again.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections import deque
from collections.abc import Iterable, Sequence

import attrs

from turnout import wire
from turnout.bounded import each
from turnout.core.events import Event, Expired, Leftover, Stuck
from turnout.core.record import Delivery, MessageRef
from turnout.crashpoints import reach
from turnout.errors import UnreadableRecord
from turnout.nats.boottime import boottime
from turnout.nats.direct import Raw
from turnout.nats.pages import at_sequences, newest_of
from turnout.nats.stream import kv_stream
from turnout.store.consumers import Consumer, consumers_of, line_of
from turnout.store.perform import Store
from turnout.store.queue import delivery_in
from turnout.supervisor.agenda import Agenda
from turnout.supervisor.apply import AT_ONCE, Applier, chunks
from turnout.supervisor.handed import Reading
from turnout.supervisor.judge import NO_RECORD_MAX_LOST, Finding, Handed, Pace, judge
from turnout.supervisor.owners import Owned, Owners

logger = logging.getLogger("turnout.supervisor")

_TOGETHER = 512
_MOST = 1024
"""How many messages are looked at again in one turn."""

_FAR_S = 60.0
"""Of what waits for longer no more than its place is remembered."""

_GRAIN_S = 1.0
_WAITING_MOST = 8192
"""While so many messages of an activity are late already, no others are looked at: they would wait as well."""

_AGAIN_S = 1.0
_UNREADABLE_S = 60.0
_ALL_AGAIN_S = 3600.0
"""A replica may have been behind when it was read, and so may have been the one who read."""

ALERT_S = 35.0
"""For so long after a node has gone everything is given back quickly: its open pulls may swallow for 30 s."""

RESUMED_S = 15.0
"""For so long after a pause nobody wonders that messages wait: they are handed over one after the other."""

_ALERT_PATIENCE_S = 1.0
_URGENT_S = 0.3
_URGENT_TIMES = 10
"""So often in a row something is given back quickly: each time costs one of the deliveries that it has (P7)."""

_RELOOKS_A_SECOND = 1000.0
_OURS = b"\r\nTurnout-"
"""In the headers of a message that says more of its job than its subject does."""


class Sweep:
    """Looks after everything that was handed to somebody. `read` finds what is new, `look` judges what is due."""

    def __init__(self, store: Store, apply: Applier, owners: Owners, pace: Pace) -> None:
        self.consumers: dict[str, Consumer] = {}
        """All there are by name, as they were last read."""
        self._store = store
        self._apply = apply
        self._owners = owners
        self._pace = pace
        self._reading = Reading(store)
        self._order = itertools.count()
        self.begin()

    def begin(self) -> None:
        """Know nothing. Who supervised before may be dead, and what it knew is lost."""
        self._known: dict[int, Handed] = {}
        self._looks: list[tuple[float, int, Handed]] = []
        self._far: dict[str, Agenda] = {}
        self._late: dict[str, int] = {}
        self._paused_at: dict[str, float] = {}
        self._begun = (-1, 0.0)
        self._departed = self._owners.departed
        self._reading.begin()
        self.alert()

    def alert(self) -> None:
        """A node may have gone: what it was handed goes on at once."""
        self._alert_until = boottime() + ALERT_S

    def soon(self, activity: str, job_id: str, lost: Owned) -> None:
        """An attempt was lost, and its message given back: see to it that somebody takes it."""
        if lost.message is None:
            return
        handed = self._known.get(lost.message.seq)
        if handed is None or not handed.message.same(lost.message):
            handed = Handed(activity, job_id, lost.message, lost.token.generation, math.inf, 0.0)
        handed.urgent = True
        self._remember(handed, self._now() + _URGENT_S)

    @property
    def known(self) -> int:
        """How many messages are remembered one by one."""
        return len(self._known)

    @property
    def far(self) -> int:
        """How many wait for their time."""
        return sum(len(agenda) for agenda in self._far.values())

    async def read(self) -> bool:
        """Read what was handed to somebody since the last time; whether nothing is in anybody's hands, or can get there
        before it is published. Errors are those of the connection."""
        if self._owners.departed != self._departed:
            self._departed = self._owners.departed
            self.alert()
        found = await consumers_of(self._store.connection, self._store.names)
        self.consumers = {consumer.name: consumer for consumer in found}
        self._paused_at |= {consumer.name: boottime() for consumer in found if consumer.paused}
        now, begun = self._now(), (self._store.connection.epoch, self._begun[1])
        if begun != self._begun or boottime() - self._begun[1] > _ALL_AGAIN_S:
            self._begun = (self._store.connection.epoch, boottime())
            self._reading.begin()
            self._far = {}
        pace = self._patience()
        least_age_s = min(self._pace.patience / 2, pace.patience)
        async for consumer, at, page in self._reading.pages(found, now, least_age_s):
            new = [handed for raw in page if (handed := self._handed(consumer, raw, at)) is not None]
            await self._judge(consumer.name, new)
        reach("supervisor.read")
        waits = any(consumer.pending or consumer.unacked for consumer in found)
        return not (waits or self._known or self.far or self._reading.unread)

    async def look(self) -> None:
        """Judge what is due. Errors are those of the connection."""
        now = self._now()
        due: dict[str, list[Handed]] = {}
        for _ in range(_MOST):
            if not self._looks or self._looks[0][0] > now:
                break
            at, _, handed = heapq.heappop(self._looks)
            if handed.look_at != at or self._known.get(handed.message.seq) is not handed:
                continue
            due.setdefault(handed.line, []).append(handed)
        parts = deque((line, some) for line, waiting in due.items() for some in chunks(waiting, _TOGETHER))
        try:
            while parts:
                await self._judge(*parts.popleft())
        finally:
            for handed in (each for _, some in parts for each in some):
                self._remember(handed, now)  # they were cut short: nothing else would have them looked at again
        for line, agenda in list(self._far.items()):
            if self._late.get(line, 0) < _WAITING_MOST:
                await self._meet_again(line, agenda, now)
        reach("supervisor.swept")

    async def _meet_again(self, line: str, agenda: Agenda, now: float) -> None:
        with agenda.taking(now, _TOGETHER) as seqs:
            consumer = self.consumers.get(line)
            if consumer is None or not seqs:
                return
            found = await at_sequences(self._store.connection, self._store.names.work, seqs)
        new = [handed for raw in found if (handed := self._handed(consumer, raw, 0.0)) is not None]
        await self._judge(line, [handed for handed in new if handed.activity == consumer.activity])

    # --- judging ------------------------------------------------------------------------------------------------------

    async def _judge(self, line: str, messages: Sequence[Handed]) -> None:
        """Judge these messages of one consumer, and act."""
        if not messages:
            return
        for handed in messages:
            self._remember(handed, self._now() + _AGAIN_S)  # in case that this is cut short
        records = await self._records(messages)
        consumer, now, pace = self.consumers.get(line), self._now(), self._patience()
        urgent = attrs.evolve(pace, patience=min(_URGENT_S, pace.patience))
        late: list[Handed] = []
        others: list[tuple[Handed, Finding, wire.Brief | None]] = []
        for handed in messages:
            record = records.get(handed.message.seq)
            if isinstance(record, wire.Garbled):
                record = None  # it goes on from its message
            if isinstance(record, UnreadableRecord):
                logger.warning("job %s is left alone: %s", handed.id, record)
                self._remember(handed, now + _UNREADABLE_S)
                continue
            ack_wait_s = consumer.ack_wait_s if consumer is not None else math.inf
            finding, again_at = judge(handed, record, ack_wait_s, now, urgent if handed.urgent else pace)
            if finding is Finding.owned and record is not None and record.token is not None:
                handed.given_back, handed.urgent = 0, False
                self._owners.note(handed.activity, handed.id, Owned(record.token, handed.message))
            else:
                self._owners.drop(handed.activity, handed.id)
            if finding in (Finding.stuck, Finding.swallowed) and self._held_up(line):
                self._remember(handed, now + self._pace.patience)
                continue
            if finding is Finding.swallowed and consumer is not None and handed.message.seq <= consumer.acked_seq:
                # The server takes for acknowledged what is there: no NAK does anything, and no lease brings it back.
                finding = Finding.stuck
            elif finding is Finding.stuck and (consumer is None or not consumer.idle):
                # Unless pulls wait at the consumer, the server may yet have it to hand over.
                finding = Finding.swallowed
            if finding in (Finding.nothing, Finding.owned):
                self._remember(handed, again_at)
            elif finding is Finding.swallowed:
                late.append(handed)
            else:
                others.append((handed, finding, record))
        if late:
            known = self._known.values()
            self._late[line] = sum(1 for handed in known if handed.given_back and handed.line == line)
        else:
            self._late[line] = 0
        await self._give_back(consumer, late, records)
        await each(lambda other: self._act(*other), others, AT_ONCE)

    async def _give_back(
        self, consumer: Consumer | None, late: list[Handed], records: dict[int, wire.Brief | UnreadableRecord]
    ) -> None:
        """NAK what is still there. What the server has not handed to anybody since it was given back waits its turn."""
        now = self._now()
        waits = [handed for handed in late if consumer is None or handed.deliveries == consumer.deliveries]
        rest = [handed for handed in late if consumer is not None and handed.deliveries != consumer.deliveries]
        for handed in waits:
            self._remember(handed, now + self._pause(handed))
        there = await self._store.queue.those_there(handed.message for handed in rest)
        for handed in rest:
            if handed.message.seq not in there:
                record = records.get(handed.message.seq)
                await self._gone(handed, record if isinstance(record, wire.Brief) else None)
                continue
            assert consumer is not None
            line = line_of(self._store.names, there[handed.message.seq])
            if line is not None and line != handed.line:
                handed.line = line  # it was heard of by its record, which does not tell
                self._remember(handed, now + _AGAIN_S)
                continue
            self._store.queue.give_back(consumer, handed.message)
            self._remember(handed, now + self._pause(handed))
            handed.given_back += 1
            handed.deliveries = consumer.deliveries

    async def _gone(self, handed: Handed, record: wire.Brief | None) -> None:
        """The message is not there any more: fine, unless the record says that it is what carries the job."""
        self._forget(handed)
        if record is not None and not record.state.final and handed.message.same(record.message):
            await self._apply(handed.activity, handed.id, Stuck(now=self._now(), delivery=None))

    async def _act(self, handed: Handed, finding: Finding, record: wire.Brief | None) -> None:
        """Say to `decide()` what is the matter with the job, whose message is read once more, from the leader."""
        try:
            found = await self._found(handed)
        except Exception as error:  # whatever this one message does to its reader, there are others
            logger.warning("job %s can't be looked at: %s", handed.id, error)
            self._remember(handed, self._now() + _UNREADABLE_S)
            return
        if found is None:
            await self._gone(handed, record)
            return
        now = self._now()
        event: Event
        if finding is Finding.stuck:
            event = Stuck(
                now=now, delivery=found, max_lost=record.max_lost if record is not None else NO_RECORD_MAX_LOST
            )
        elif finding is Finding.expired:
            event = Expired(now=now, delivery=found)
        else:
            event = Leftover(now=now, delivery=found)
        await self._apply(handed.activity, handed.id, event)
        # Whatever came of it: a job that has begun meanwhile leaves its twin where it is.
        self._remember(handed, now + self._pace.patience)

    async def _found(self, handed: Handed) -> Delivery | None:
        stored = await self._store.connection.get_message(self._store.names.work, seq=handed.message.seq)
        there = stored is not None and stored.time_ns == handed.message.time_ns
        return delivery_in(self._store.names, stored) if stored is not None and there else None

    # --- remembering --------------------------------------------------------------------------------------------------

    def _handed(self, consumer: Consumer, raw: Raw, since: float) -> Handed | None:
        """The message as it is remembered; None for one that is known, or none of a job."""
        known = self._known.get(raw.seq)
        try:
            message = MessageRef(raw.seq, raw.time_ns)
            if known is not None and known.message.same(message):
                return None
            named = self._store.names.job_of(raw.subject.decode("utf-8", "replace"))
            if named is None:
                return None
            activity, job_id = named
            message = attrs.evolve(message, bare=consumer.route is not None, priority=consumer.priority)
            if job_id is not None and _OURS not in raw.block:
                return Handed(activity, job_id, message, 1, math.inf, since, line=consumer.name)
            found = wire.parse_delivery(activity, job_id, message, b"", raw.parsed().headers)
        except Exception as error:  # whatever this one message does to its reader, there are others
            logger.warning("the message %d can't be looked at: %s", raw.seq, error)
            return None
        limits = (found.spec.expires_at, found.spec.starts_by)
        expires_at = min((limit for limit in limits if limit is not None), default=math.inf)
        return Handed(
            activity,
            found.id,
            found.message,
            found.generation,
            expires_at,
            since,
            after=found.spec.after,
            line=consumer.name,
        )

    async def _records(self, messages: Iterable[Handed]) -> dict[int, wire.Brief | UnreadableRecord]:
        """The records of their jobs, by the sequences of the messages."""
        names = self._store.names
        subjects = {handed.message.seq: names.record(handed.activity, handed.id) for handed in messages}
        values = await newest_of(self._store.connection, kv_stream(names.jobs_bucket), set(subjects.values()))
        found: dict[int, wire.Brief | UnreadableRecord] = {}
        for seq, subject in subjects.items():
            stored = values.get(subject.encode())
            if stored is not None and stored.data:
                try:
                    found[seq] = wire.load_brief(stored.data)
                except UnreadableRecord as error:
                    found[seq] = error
        return found

    def _remember(self, handed: Handed, look_at: float) -> None:
        now = self._now()
        if look_at - now > _FAR_S:
            self._forget(handed)
            self._far.setdefault(handed.line, Agenda(_GRAIN_S)).add(look_at, handed.message.seq, now=now)
            return
        handed.look_at = look_at
        self._known[handed.message.seq] = handed
        heapq.heappush(self._looks, (look_at, next(self._order), handed))

    def _held_up(self, line: str) -> bool:
        """Whether what this consumer has to hand over waits for no fault of its own: for the end of a pause,
        or because it has just ended."""
        paused_at = self._paused_at.get(line)
        return paused_at is not None and boottime() - paused_at < RESUMED_S

    def _forget(self, handed: Handed) -> None:
        if self._known.get(handed.message.seq) is handed:
            del self._known[handed.message.seq]

    # --- pace ---------------------------------------------------------------------------------------------------------

    @property
    def _alerted(self) -> bool:
        return boottime() < self._alert_until

    def _pause(self, handed: Handed) -> float:
        """How long somebody has to begin what was given back."""
        if handed.given_back < _URGENT_TIMES and (handed.urgent or self._alerted):
            return _URGENT_S if handed.urgent else _AGAIN_S
        return min(_AGAIN_S * 2.0 ** min(handed.given_back, 10), self._pace.patience)

    def _patience(self) -> Pace:
        relook = max(self._pace.relook, len(self._owners) / _RELOOKS_A_SECOND)
        patience = min(_ALERT_PATIENCE_S, self._pace.patience) if self._alerted else self._pace.patience
        return attrs.evolve(self._pace, patience=patience, relook=relook)

    def _now(self) -> float:
        return self._store.connection.now()
