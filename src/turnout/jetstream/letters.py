"""Dead letters: what an operator needs to understand a faulted job and to run it again."""

from __future__ import annotations

from collections.abc import AsyncIterator

from turnout import wire
from turnout.core.values import JobRecord
from turnout.jetstream.connection import ApiError, Connection, StoredMessage, WrongLastSequence
from turnout.jetstream.names import Names
from turnout.jetstream.registry import scan


class Letters:
    """The stream of dead letters; each is the job's record when it faulted, written once per generation (P4)."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names

    async def write(self, record: JobRecord) -> None:
        """Write the letter unless it is there: the expected sequence dedupes for as long as letters are kept."""
        subject = self._names.fault(record.activity, record.id, record.generation)
        headers = {**wire.user_headers(record.headers), "Nats-Expected-Last-Subject-Sequence": "0"}
        try:
            await self._connection.store(subject, wire.dump_record(record), headers)
        except WrongLastSequence:
            return

    async def scan(self, activity: str = "*", job_id: str = "*") -> AsyncIterator[tuple[int, float, JobRecord]]:
        """Sequence, instant and content of each letter, the oldest first."""
        subject = self._names.fault(activity, job_id, "*")
        async for stored in scan(self._connection, self._names.faults, subject):
            yield stored.seq, stored.time_ns / 1e9, _record(stored)

    async def remove(self, seq: int) -> None:
        """Delete one letter."""
        try:
            await self._connection.api(f"STREAM.MSG.DELETE.{self._names.faults}", {"seq": seq, "no_erase": True})
        except ApiError as error:
            if error.code != 404:
                raise


def _record(stored: StoredMessage) -> JobRecord:
    return wire.load_record(stored.data)
