"""A job as it is found among very many: by the bytes of its record, of its message, or of both. Nothing is parsed
before it is known to be wanted.

A job is its record, or its message when that is newer or all there is (P2). Records are looked up for messages, and
messages for records, a page at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import attrs

from turnout import wire
from turnout.client.filters import Filters
from turnout.core.lifecycle import newer, record_of
from turnout.core.record import FINAL, RETRYABLE, Delivery, JobRecord, JobState
from turnout.core.spec import is_name
from turnout.errors import UnreadableRecord
from turnout.nats.direct import Raw
from turnout.nats.pages import newest_of
from turnout.nats.stream import kv_stream
from turnout.store.perform import Store
from turnout.store.queue import delivery_in

logger = logging.getLogger("turnout.registry")

_DEADLINES = (b'"expires_in":', b'"start_within":')
GENERATION = wire.GENERATION.encode()
_SCHEDULED = wire.SCHEDULED.encode()
_REPLACED = wire.REPLACED.encode()


def has_deadline(data: bytes) -> bool:
    """Whether a record or a message may tell of a deadline: then only its content says whether the job has ended."""
    return any(name in data for name in _DEADLINES)


@attrs.frozen
class Found:
    """A job: its record's subject, which is its key, the bytes of its record, its message if that says more."""

    submitted_at: float
    key: bytes
    data: bytes | None
    message: Raw | None = None

    @property
    def order(self) -> tuple[float, bytes]:
        return self.submitted_at, self.key

    @property
    def requeued(self) -> bool:
        """Its message is younger than the job."""
        return self.message is not None and _REPLACED in self.message.block


class Finder:
    """Makes jobs of pages of records and of messages. It warns of a record that can't be read, once."""

    def __init__(self, store: Store, filters: Filters) -> None:
        self._names = store.names
        self._connection = store.connection
        self._registry = kv_stream(store.names.jobs_bucket)
        self._record_prefix = store.names.record("", "")[:-1]
        self._wanted = filters.wanted
        self._unwanted = FINAL - self._wanted - (RETRYABLE if JobState.queued in self._wanted else set())
        self._must_contain = filters.must_contain
        self._unreadable: set[bytes] = set()
        self.garbled: set[bytes] = set()
        """Under which keys there is something that no turnout has written: their jobs are as if they had no record."""

    async def by_records(self, page: Iterable[Raw]) -> list[Found]:
        """The jobs of these records that are wanted, the newest first."""
        found: list[Found] = []
        ended: list[tuple[Raw, wire.Peek]] = []
        for raw in {raw.subject: raw for raw in page}.values():  # of one that moved meanwhile the newer counts
            if wire.state_of(raw.data) in self._unwanted:  # most are left here, where that is so
                continue
            peek = self.peek(raw) if self._names_job(raw.subject) else None
            if peek is None or self._must_contain not in raw.data:
                continue
            if peek.state in RETRYABLE and (peek.state in self._wanted or JobState.queued in self._wanted):
                ended.append((raw, peek))
            elif peek.state in self._wanted or self._may_expire(peek, raw):
                found.append(Found(peek.submitted_at, raw.subject, raw.data))
        found += await self._with_messages(ended)
        return sorted(found, key=lambda job: job.order, reverse=True)

    async def by_messages(self, page: Iterable[Raw], revision_floor: int | None) -> list[Found]:
        """The jobs of these messages that are wanted, the newest first.

        With `revision_floor`, records up to this revision are somebody else's, and only what they can't tell is found.
        """
        messages = {name: raw for raw in page if self._may_be(raw) and (name := self.key_of(raw)) is not None}
        records = await newest_of(self._connection, self._registry, messages) if messages else {}
        found: list[Found] = []
        for subject, raw in messages.items():
            key = subject.encode()
            stored = records.get(key)
            peek = self.peek(stored) if stored is not None else None
            if stored is None or not stored.data or key in self.garbled:
                if JobState.queued in self._wanted and self._carries(raw):
                    found.append(Found(raw.time_ns / 1e9, key, None, raw))
                continue
            if peek is None:
                continue
            if self.is_newer(raw, peek.generation, stored):
                if JobState.queued in self._wanted:
                    found.append(Found(peek.submitted_at, key, stored.data, raw))
            elif (revision_floor is None or stored.seq > revision_floor) and (
                peek.state in self._wanted or self._may_expire(peek, stored)
            ):
                found.append(Found(peek.submitted_at, key, stored.data))
        return sorted(found, key=lambda job: job.order, reverse=True)

    def record(self, found: Found) -> JobRecord | None:
        """The job's record, or the one that its message tells; None for one that can't be read."""
        before = None
        if found.data is not None:
            before = self._load(found.key, found.data)
            if before is None and found.key not in self.garbled:
                return None
        if found.message is None:
            return before
        delivery = self.delivery(found.message)
        if delivery is None or not newer(delivery, before):
            return before
        return record_of(delivery, before)

    def peek(self, raw: Raw) -> wire.Peek | None:
        """What a record is about; None for a marker, and for one that can't be read."""
        if not raw.data:
            return None
        peek = wire.peek(raw.data)
        if peek is not None:
            return peek
        record = self._load(raw.subject, raw.data)
        return None if record is None else wire.Peek(record.state, record.generation, record.spec.submitted_at)

    def _load(self, key: bytes, data: bytes) -> JobRecord | None:
        """The record under this key; None for what is none, or can't be read, or was put there for another job."""
        try:
            record = wire.load_record(data)
        except UnreadableRecord as error:
            if isinstance(error, wire.Garbled):
                self.garbled.add(key)
            self._warn(key, error)
            return None
        if self._names.record(record.activity, record.id).encode() != key:
            self._warn(key, UnreadableRecord(f"it is of job {record.id[:80]!r}"))
            return None
        return record

    def _names_job(self, key: bytes) -> bool:
        """Whether a record may be under this key: the server takes any bytes."""
        return all(is_name(token) for token in key.decode("utf-8", "replace").split(".")[-2:])

    def delivery(self, raw: Raw) -> Delivery | None:
        return delivery_in(self._names, raw.parsed())

    def key_of(self, raw: Raw) -> str | None:
        """The subject of the record that the message's, or the timer's, job has; None for what is no job."""
        subject = raw.subject.decode("utf-8", "replace")
        named = self._names.job_of(subject)
        if named is not None and named[1] is not None:
            return self._names.record(named[0], named[1])
        if named is not None:
            delivery = self.delivery(raw)
            return None if delivery is None else self._names.record(delivery.activity, delivery.id)
        if self._is_timer(raw):
            return self._record_prefix + subject.removeprefix(f"{self._names.ns}.timers.")
        if (parked := self._names.parked_of(subject)) is not None:
            return self._names.record(parked.activity, parked.id)
        return None

    def is_newer(self, message: Raw, generation: int, record: Raw) -> bool:
        """Whether the message begins a life that the record, which is of this generation, does not know of."""
        if GENERATION not in message.block:
            return False
        delivery = self.delivery(message)
        if delivery is None or delivery.generation <= generation:
            return False
        try:
            return delivery.spec.after == wire.load_brief(record.data).life
        except UnreadableRecord:
            return False

    async def _with_messages(self, ended: Sequence[tuple[Raw, wire.Peek]]) -> list[Found]:
        """Jobs that have ended, and those among them that were retried: such a message is on the job's own subject."""
        subjects = {raw.subject: self._own_subject(raw) for raw, _ in ended}
        messages = await newest_of(self._connection, self._names.work, subjects.values()) if ended else {}
        found: list[Found] = []
        for raw, peek in ended:
            message = messages.get(subjects[raw.subject].encode())
            if message is not None and self.is_newer(message, peek.generation, raw):
                if JobState.queued in self._wanted:
                    found.append(Found(peek.submitted_at, raw.subject, raw.data, message))
            elif peek.state in self._wanted:
                found.append(Found(peek.submitted_at, raw.subject, raw.data))
        return found

    def _own_subject(self, record: Raw) -> str:
        activity, job_id = record.subject.decode().split(".")[-2:]
        return self._names.jobs(activity, job_id, wire.priority_in(record.data))

    def _may_be(self, raw: Raw) -> bool:
        """Where only scheduled jobs are wanted, most messages are none: the message of one that is due comes of a
        timer, or of whoever has requeued it since."""
        scheduled = self._is_timer(raw) or _SCHEDULED in raw.block or _REPLACED in raw.block
        return scheduled or self._wanted != {JobState.scheduled}

    def _may_expire(self, peek: wire.Peek, raw: Raw) -> bool:
        """Whether it may have to be called faulted by the one who sees it (P12)."""
        return JobState.faulted in self._wanted and not peek.state.final and has_deadline(raw.data)

    def _carries(self, raw: Raw) -> bool:
        """Whether it is the message of a job: a timer, or an entry of a line, is nothing without a record."""
        return self._names.job_of(raw.subject.decode("utf-8", "replace")) is not None

    def _is_timer(self, raw: Raw) -> bool:
        return raw.subject.startswith(f"{self._names.ns}.timers.".encode())

    def _warn(self, key: bytes, error: UnreadableRecord) -> None:
        if key not in self._unreadable:
            self._unreadable.add(key)
            logger.warning("the record %s is left out: %s", key.decode("utf-8", "replace"), error)
