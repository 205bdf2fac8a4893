"""The registry: one key-value bucket with a record per job, written by compare-and-set only.

Decisions read from the leader; a direct read may be stale (it is for listings). An expired or deleted key is one that
has no record but may still have a revision, its marker's.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any

import attrs

from turnout import wire
from turnout.core.frozen import frozen
from turnout.core.values import JobRecord, JobState, MessageRef
from turnout.errors import AmbiguousJob, TurnoutError, UnreadableRecord
from turnout.jetstream.connection import Connection, StoredMessage, WrongLastSequence
from turnout.jetstream.messages import EXPECTED, KV_OPERATION, stored_by_direct_get
from turnout.jetstream.names import Names, kv_stream
from turnout.telemetry import metrics

logger = logging.getLogger("turnout.registry")

LEAST_RETENTION_S = 3600.0
"""A final record lives at least this long: acks that come back after a server crash must meet it (P9)."""

_SAVE_S = 5.0

MARKER_TTL_S = 3600
"""How long a deleted record's marker keeps a late delivery from beginning the job again."""

_FORGOTTEN = "Turnout-Message"


LETTERS_KEPT_S = 30 * 86_400.0
"""How long dead letters are kept by default. A job that was retried is remembered for as long, however it ended: with
its record gone, the letter of its earlier life would look as if nobody had dealt with it."""


@attrs.frozen(kw_only=True)
class Retention:
    """How many seconds the record of an ended job is kept; its id may run again afterwards."""

    completed: float = 7 * 86_400.0
    faulted: float = 30 * 86_400.0
    cancelled: float = 7 * 86_400.0

    def of(self, state: JobState, generation: int = 1) -> float:
        chosen: float = getattr(self, state)
        return max(chosen, LEAST_RETENTION_S if generation == 1 else LETTERS_KEPT_S)


@frozen
class Loaded:
    """A job's record as read or written, and the revision that the next write must find. Revision 0: no such key.

    `forgotten` is the message of the job whose record was deleted, as its marker tells.
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

    def __init__(self, connection: Connection, names: Names, retention: Retention | None = None) -> None:
        self._connection = connection
        self._names = names
        self._stream = kv_stream(names.jobs_bucket)
        self._retention = retention or Retention()

    async def load(self, activity: str, job_id: str) -> Loaded:
        """The record by the word of the leader."""
        subject = self._names.record(activity, job_id)
        return _loaded(await self._connection.get_message(self._stream, last_by_subj=subject))

    async def peek(self, activity: str, job_id: str) -> Loaded:
        """The record as some replica has it: quicker than `load`, and maybe a moment old."""
        subject = self._names.record(activity, job_id)
        answer = await self._connection.request(f"$JS.API.DIRECT.GET.{self._stream}.{subject}")
        return _loaded(None if answer.status is not None else stored_by_direct_get(answer))

    async def find(self, job_id: str) -> Loaded:
        """The record of this id under whatever activity; AmbiguousJob when there are several."""
        pattern = self._names.record("*", job_id)
        stored = await self._connection.get_message(self._stream, last_by_subj=pattern)
        if stored is None:
            return Loaded()
        subjects = await self._subjects(pattern)
        if len(subjects) > 1:
            loaded = [_loaded(await self._connection.get_message(self._stream, last_by_subj=s)) for s in subjects]
            alive = [found for found in loaded if found.record is not None]
            if len(alive) > 1:
                names = ", ".join(sorted(found.record.activity for found in alive if found.record is not None))
                raise AmbiguousJob(f"id {job_id} is known under several activities: {names}; name one of them")
            return alive[0] if alive else Loaded()
        return _loaded(stored)

    async def save(self, record: JobRecord, revision: int, expires: bool = False) -> Loaded:
        """Write `record` if `revision` is still the newest; begin its retention when it `expires`."""
        headers = {EXPECTED: str(revision)}
        if expires:
            headers["Nats-TTL"] = f"{int(self._retention.of(record.state, record.generation))}s"
        subject = self._names.record(record.activity, record.id)
        try:
            ack = await self._connection.store_nowait(subject, wire.dump_record(record), headers, timeout_s=_SAVE_S)
        except WrongLastSequence as error:
            metrics.CONFLICTS.add()
            raise Conflict(f"the record of job {record.id} has changed") from error
        return Loaded(record, ack.seq)

    async def delete(self, record: JobRecord, revision: int) -> None:
        """Leave a marker in the record's place, which in time goes as well."""
        headers = {
            EXPECTED: str(revision),
            "Nats-TTL": f"{MARKER_TTL_S}s",
            KV_OPERATION: "DEL",
        }
        if record.message is not None:
            headers[_FORGOTTEN] = f"{record.message.seq}.{record.message.time_ns}"
        try:
            await self._connection.store(self._names.record(record.activity, record.id), b"", headers)
        except WrongLastSequence as error:
            metrics.CONFLICTS.add()
            raise Conflict(f"the record of job {record.id} has changed") from error

    async def scan(self, activity: str = "*") -> AsyncIterator[Loaded]:
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
        info = await self._connection.api(f"STREAM.INFO.{self._stream}", {"subjects_filter": pattern})
        return sorted(info["state"].get("subjects") or {})


def _loaded(stored: StoredMessage | None) -> Loaded:
    if stored is None:
        return Loaded()
    if stored.marker:
        seq, _, time_ns = stored.headers.get(_FORGOTTEN, "").partition(".")
        forgotten = MessageRef(int(seq), int(time_ns)) if seq.isdecimal() and time_ns.isdecimal() else None
        return Loaded(None, stored.seq, forgotten)
    return Loaded(wire.load_record(stored.data), stored.seq)


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


async def last_values(connection: Connection, stream: str, subjects: Iterable[str]) -> list[StoredMessage]:
    """The newest message of each of the subjects (wildcards allowed), by direct reads."""
    body = {"multi_last": list(subjects), "batch": 1024}
    return [stored async for stored in connection.direct_get(stream, body)]
