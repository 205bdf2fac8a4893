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
from turnout.core.values import FINAL, Delivery, JobRecord, JobState, MessageRef
from turnout.errors import UnreadableRecord
from turnout.jetstream.direct import Raw
from turnout.jetstream.names import kv_stream
from turnout.jetstream.perform import Store
from turnout.jetstream.walk import newest_of

logger = logging.getLogger("turnout.registry")

RETRYABLE = frozenset({JobState.faulted, JobState.cancelled})
EXPIRES = b'"expires_in":'
GENERATION = wire.GENERATION.encode()
_SCHEDULED = wire.SCHEDULED.encode()
_REPLACED = wire.REPLACED.encode()


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
    def put_anew(self) -> bool:
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
        self._needle = filters.needle
        self._unreadable: set[bytes] = set()

    async def by_records(self, page: Iterable[Raw]) -> list[Found]:
        """The jobs of these records that are wanted, the newest first."""
        found: list[Found] = []
        ended: list[tuple[Raw, wire.Glimpse]] = []
        for raw in {raw.subject: raw for raw in page}.values():  # of one that moved meanwhile the newer counts
            if wire.state_of(raw.data) in self._unwanted:  # most are left here, where that is so
                continue
            glimpse = self.glimpse(raw)
            if glimpse is None or self._needle not in raw.data:
                continue
            if glimpse.state in RETRYABLE and (glimpse.state in self._wanted or JobState.queued in self._wanted):
                ended.append((raw, glimpse))
            elif glimpse.state in self._wanted or self._may_expire(glimpse, raw):
                found.append(Found(glimpse.submitted_at, raw.subject, raw.data))
        found += await self._with_messages(ended)
        return sorted(found, key=lambda job: job.order, reverse=True)

    async def by_messages(self, page: Iterable[Raw], above: int | None) -> list[Found]:
        """The jobs of these messages that are wanted, the newest first.

        With `above`, records up to this revision are somebody else's, and only what they can't tell is found.
        """
        messages = {name: raw for raw in page if self._may_be(raw) and (name := self.key_of(raw)) is not None}
        records = await newest_of(self._connection, self._registry, messages) if messages else {}
        found: list[Found] = []
        for subject, raw in messages.items():
            key = subject.encode()
            stored = records.get(key)
            if stored is None or not stored.data:
                if JobState.queued in self._wanted and not self._is_timer(raw):
                    found.append(Found(raw.time_ns / 1e9, key, None, raw))
                continue
            glimpse = self.glimpse(stored)
            if glimpse is None:
                continue
            if self.is_newer(raw, glimpse.generation):
                if JobState.queued in self._wanted:
                    found.append(Found(glimpse.submitted_at, key, stored.data, raw))
            elif (above is None or stored.seq > above) and (
                glimpse.state in self._wanted or self._may_expire(glimpse, stored)
            ):
                found.append(Found(glimpse.submitted_at, key, stored.data))
        return sorted(found, key=lambda job: job.order, reverse=True)

    def record(self, found: Found) -> JobRecord | None:
        """The job's record, or the one that its message tells; None for one that can't be read."""
        before = None
        if found.data is not None:
            try:
                before = wire.load_record(found.data)
            except UnreadableRecord as error:
                self._warn(found.key, error)
                return None
        if found.message is None:
            return before
        delivery = self.delivery(found.message)
        if delivery is None or not newer(delivery, before):
            return before
        return record_of(delivery, before)

    def glimpse(self, raw: Raw) -> wire.Glimpse | None:
        """What a record is about; None for a marker, and for one that can't be read."""
        if not raw.data:
            return None
        glimpse = wire.glimpse(raw.data)
        if glimpse is not None:
            return glimpse
        try:
            record = wire.load_record(raw.data)
        except UnreadableRecord as error:
            self._warn(raw.subject, error)
            return None
        return wire.Glimpse(record.state, record.generation, record.submitted_at)

    def delivery(self, raw: Raw) -> Delivery | None:
        subject = raw.subject.decode()
        named = self._names.job_of(subject)
        if named is None:
            return None
        stored = raw.parsed()
        message = MessageRef(stored.seq, stored.time_ns)
        return wire.parse_delivery(named[0], named[1], message, stored.data, stored.headers)

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
        return None

    def is_newer(self, message: Raw, generation: int) -> bool:
        """Whether the message begins a life that the record does not know of."""
        if GENERATION not in message.block:
            return False
        delivery = self.delivery(message)
        return delivery is not None and delivery.generation > generation

    async def _with_messages(self, ended: Sequence[tuple[Raw, wire.Glimpse]]) -> list[Found]:
        """Jobs that have ended, and those among them that were retried: such a message is on the job's own subject."""
        subjects = {raw.subject: self._own_subject(raw.subject) for raw, _ in ended}
        messages = await newest_of(self._connection, self._names.work, subjects.values()) if ended else {}
        found: list[Found] = []
        for raw, glimpse in ended:
            message = messages.get(subjects[raw.subject].encode())
            if message is not None and self.is_newer(message, glimpse.generation):
                if JobState.queued in self._wanted:
                    found.append(Found(glimpse.submitted_at, raw.subject, raw.data, message))
            elif glimpse.state in self._wanted:
                found.append(Found(glimpse.submitted_at, raw.subject, raw.data))
        return found

    def _own_subject(self, record: bytes) -> str:
        activity, job_id = record.decode().split(".")[-2:]
        return self._names.jobs(activity, job_id)

    def _may_be(self, raw: Raw) -> bool:
        """Where only scheduled jobs are wanted, most messages are none."""
        return self._wanted != {JobState.scheduled} or self._is_timer(raw) or _SCHEDULED in raw.block

    def _may_expire(self, glimpse: wire.Glimpse, raw: Raw) -> bool:
        """Whether it may have to be called faulted by the one who sees it (P12)."""
        return JobState.faulted in self._wanted and not glimpse.state.final and EXPIRES in raw.data

    def _is_timer(self, raw: Raw) -> bool:
        return raw.subject.startswith(f"{self._names.ns}.timers.".encode())

    def _warn(self, key: bytes, error: UnreadableRecord) -> None:
        if key not in self._unreadable:
            self._unreadable.add(key)
            logger.warning("the record %s is left out: %s", key.decode(), error)
