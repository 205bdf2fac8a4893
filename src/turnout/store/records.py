"""The registry: one key-value bucket with a record per job, written by compare-and-set only.

Decisions read from the leader; a direct read may be stale (it is for listings). An expired or deleted key is one that
has no record but may still have a revision, its marker's.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any

from turnout import wire
from turnout.core.record import JobRecord, MessageRef
from turnout.core.struct import struct
from turnout.errors import AmbiguousJob, StorageRefused, TurnoutError, UnreadableRecord
from turnout.nats.connection import DEFAULT_TIMEOUT_S, Connection, StoredMessage, WrongLastSequence
from turnout.nats.messages import EXPECTED, KV_OPERATION
from turnout.nats.stream import TTL, Stream, for_seconds, kv_stream
from turnout.store.names import Names
from turnout.store.settings import Settings
from turnout.telemetry import metrics

logger = logging.getLogger("turnout.registry")

_SAVE_S = 5.0

MARKER_TTL_S = 3600
"""How long a deleted record's marker keeps a late delivery from beginning the job again."""

_FORGOTTEN = "Turnout-Message"
_HEADERS_BYTES = 512
"""Room for the headers of a record's message."""


@struct
class Versioned:
    """A job's record as read or written, and the revision that the next write must find. Revision 0: no such key.

    `forgotten` is the place in the queue up to which all messages of the id are of the job whose record was deleted, as
    its marker tells.
    """

    record: JobRecord | None = None
    revision: int = 0
    forgotten: MessageRef | None = None

    @property
    def deleted(self) -> bool:
        """There was a record, and it was deleted on purpose a short while ago."""
        return self.record is None and self.revision > 0

    def late(self, message: MessageRef) -> bool:
        """Whether the message is one of the deleted job: what is submitted under its id later lies behind it."""
        gone = self.forgotten
        return gone is not None and message.seq <= gone.seq and message.time_ns <= gone.time_ns


class Conflict(TurnoutError):
    """Somebody else wrote the record since it was read: read again, decide again."""


class Registry:
    """Reads and writes records. Errors are those of the connection, and `Conflict`."""

    def __init__(self, connection: Connection, names: Names, settings: Settings | None = None) -> None:
        self._settings = settings or Settings(connection, names)
        self._connection = connection
        self._names = names
        self._stream = kv_stream(names.jobs_bucket)
        self.trouble: str | None = None
        """Why no record could be stored when that was last tried; None when it could. For any thread."""

    async def load(self, activity: str, job_id: str) -> Versioned:
        """The record by the word of the leader."""
        subject = self._names.record(activity, job_id)
        return _loaded(await self._connection.get_message(self._stream, last_by_subj=subject))

    async def peek(self, activity: str, job_id: str) -> Versioned:
        """The record as some replica has it: quicker than `load`, and maybe a moment old."""
        subject = self._names.record(activity, job_id)
        return _loaded(await Stream(self._connection, self._stream).peek(subject))

    async def find(self, job_id: str) -> Versioned:
        """The record of this id under whatever activity; AmbiguousJob when there are several."""
        pattern = self._names.record("*", job_id)
        stored = await self._connection.get_message(self._stream, last_by_subj=pattern)
        if stored is None:
            return Versioned()
        subjects = await self._subjects(pattern)
        if len(subjects) > 1:
            loaded = [_loaded(await self._connection.get_message(self._stream, last_by_subj=s)) for s in subjects]
            alive = [found for found in loaded if found.record is not None]
            if len(alive) > 1:
                names = ", ".join(sorted(found.record.activity for found in alive if found.record is not None))
                raise AmbiguousJob(f"id {job_id} is known under several activities: {names}; name one of them")
            return alive[0] if alive else Versioned()
        return _loaded(stored)

    async def save(self, record: JobRecord, revision: int, expires: bool = False) -> Versioned:
        """Write `record` if `revision` is still the newest; begin its retention when it `expires`."""
        spec, headers = record.spec, {EXPECTED: str(revision)}
        if expires:
            retention = await self._settings.retention(spec.activity)
            headers[TTL] = for_seconds(retention.of(record.state, spec.generation))
        subject = self._names.record(spec.activity, spec.id)
        data = wire.dump_record(record, self._connection.max_payload - _HEADERS_BYTES)
        try:
            ack = await self._connection.store_nowait(subject, data, headers, timeout_s=_SAVE_S)
        except WrongLastSequence as error:
            metrics.CONFLICTS.add()
            raise Conflict(f"the record of job {record.id} has changed") from error
        except StorageRefused as error:
            self.trouble = f"no record can be stored: {error}"
            raise
        self.trouble = None
        return Versioned(record, ack.seq)

    async def delete(self, record: JobRecord, revision: int, forgotten: MessageRef | None) -> int:
        """Leave a marker in the record's place, which in time goes as well; its revision."""
        try:
            return await self.mark(record, revision, forgotten)
        except StorageRefused:
            # Where everything is full there is no room for a marker either, and what is deleted makes some.
            await self.drop(record, revision)
            return 0

    async def mark(self, record: JobRecord, revision: int, forgotten: MessageRef | None) -> int:
        """Leave a marker in the record's place, or where one would be, so that no late delivery begins the job; its
        revision."""
        headers = {
            EXPECTED: str(revision),
            TTL: for_seconds(MARKER_TTL_S),
            KV_OPERATION: "DEL",
        }
        if forgotten is not None:
            headers[_FORGOTTEN] = f"{forgotten.seq}.{forgotten.time_ns}"
        try:
            return (await self._connection.store(self._names.record(record.activity, record.id), b"", headers)).seq
        except WrongLastSequence as error:
            metrics.CONFLICTS.add()
            raise Conflict(f"the record of job {record.id} has changed") from error

    async def drop(self, record: JobRecord, revision: int) -> None:
        """Remove the record and leave nothing in its place, if it is still this one; for that there is always room."""
        stream = Stream(self._connection, self._stream)
        if not await stream.purge(self._names.record(record.activity, record.id), below=revision + 1):
            raise Conflict(f"the record of job {record.id} has changed")

    async def scan(self, activity: str = "*") -> AsyncIterator[Versioned]:
        """Every record, in the order of the last write, a page at a time. May be a moment old.

        One that can't be read is left out, with a warning: it must not hide all the others.
        """
        async for stored in scan(self._connection, self._stream, self._names.record(activity, "*")):
            try:
                loaded = _loaded(stored)
            except UnreadableRecord as error:
                logger.warning("the record %s is left out: %s", stored.subject, error)
                continue
            if loaded.record is not None:
                yield loaded

    async def _subjects(self, pattern: str) -> list[str]:
        return sorted([subject async for subject, _ in Stream(self._connection, self._stream).subjects(pattern)])


def _loaded(stored: StoredMessage | None) -> Versioned:
    if stored is None:
        return Versioned()
    if stored.marker:
        seq, _, time_ns = stored.headers.get(_FORGOTTEN, "").partition(".")
        forgotten = MessageRef(int(seq), int(time_ns)) if seq.isdecimal() and time_ns.isdecimal() else None
        return Versioned(None, stored.seq, forgotten)
    try:
        return Versioned(wire.load_record(stored.data), stored.seq)
    except wire.Garbled as error:
        # Somebody else has put it there: the job begins anew, with its message, and writes its record over it.
        logger.warning("what is under %s is no record: %s", stored.subject, error)
        return Versioned(None, stored.seq)


_PAGE = 512


async def scan(connection: Connection, stream: str, subject: str) -> AsyncIterator[StoredMessage]:
    """All messages of a stream on a subject (wildcards allowed), by direct reads of a page each."""
    sequence = 1
    while True:
        count = 0
        body: dict[str, Any] = {"seq": sequence, "next_by_subj": subject, "batch": _PAGE}
        async for stored in connection.direct_get(stream, body):
            count += 1
            sequence = stored.seq + 1
            yield stored
        if count < _PAGE:
            return


async def last_values(
    connection: Connection, stream: str, subjects: Iterable[str], *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> list[StoredMessage]:
    """The newest message of each of the subjects (wildcards allowed), by direct reads."""
    body = {"multi_last": list(subjects), "batch": 1024}
    return [stored async for stored in connection.direct_get(stream, body, timeout_s=timeout_s)]
