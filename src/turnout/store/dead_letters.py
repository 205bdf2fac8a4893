"""Dead letters: what an operator needs to understand a faulted job and to run it again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import attrs

from turnout import wire
from turnout.core.record import JobRecord
from turnout.errors import UnreadableRecord
from turnout.nats.connection import Connection, StoredMessage, WrongLastSequence
from turnout.nats.messages import EXPECTED, encode_headers
from turnout.nats.stream import Stream
from turnout.store.names import Names
from turnout.store.records import scan

logger = logging.getLogger("turnout.dead_letters")


@attrs.frozen
class DeadLetter:
    """A dead letter: its sequence in the stream, the instant it was written (unix seconds), and the record in it."""

    seq: int
    at: float
    record: JobRecord


class DeadLetters:
    """The stream of dead letters; each is the job's record when it faulted, written once per generation (P4)."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names

    async def write(self, record: JobRecord) -> None:
        """Write it unless it is there: the expected sequence dedupes for as long as dead letters are kept."""
        if await self._written(record, after=0):
            return
        # DeadLetters outlive records: the one that is there may tell of an earlier job of this id, deleted or expired.
        subject = self._names.fault(record.activity, record.id, record.generation)
        stored = await self._connection.get_message(self._names.faults, last_by_subj=subject)
        if stored is not None and not _same_life(stored, record):
            await self._written(record, after=stored.seq)

    async def _written(self, record: JobRecord, after: int) -> bool:
        subject = self._names.fault(record.activity, record.id, record.generation)
        headers = {**wire.user_headers(record.spec.headers), EXPECTED: str(after)}
        room = self._connection.max_payload - len(encode_headers(headers))
        data = wire.dump_record(record, room)
        if len(data) > room:  # a record has them too
            headers = {EXPECTED: str(after)}
        try:
            await self._connection.store(subject, data, headers)
        except WrongLastSequence:
            return False
        return True

    async def scan(self, activity: str = "*", job_id: str = "*") -> AsyncIterator[DeadLetter]:
        """Each dead letter, the oldest first. One that can't be read stays where it is."""
        subject = self._names.fault(activity, job_id, "*")
        async for stored in scan(self._connection, self._names.faults, subject):
            try:
                yield DeadLetter(stored.seq, stored.time_ns / 1e9, wire.load_record(stored.data))
            except UnreadableRecord as error:
                logger.warning("the dead letter %s can't be read: %s", stored.subject, error)

    async def remove(self, seq: int) -> None:
        """Delete one dead letter, if nobody has yet."""
        await Stream(self._connection, self._names.faults).delete_if_there(seq)


def _same_life(stored: StoredMessage, record: JobRecord) -> bool:
    try:
        return wire.load_record(stored.data).finished_at == record.finished_at
    except UnreadableRecord:
        return False
