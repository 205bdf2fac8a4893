"""Which job a debounced submission goes into: a record per activity and key, by compare-and-set.

It only names the job. Whether that still takes submissions is known from the job's own record, and whoever finds a name
without a job makes the job: so it does not matter who has died after giving the name.
"""

from __future__ import annotations

from turnout.core.limits import hashed
from turnout.core.struct import struct
from turnout.nats.connection import Connection, StoredMessage, WrongLastSequence
from turnout.nats.messages import EXPECTED
from turnout.nats.stream import TTL, for_seconds, kv_stream, seconds_of
from turnout.store.names import Names
from turnout.store.records import Conflict
from turnout.wire.converter import Garbled, dump, load

_KEPT_S = 86_400.0
"""For so long a name is kept, beyond the wait of its job; it is written again when half of that is over."""


@struct
class _Named:
    id: str


@struct
class Debounce:
    """The job that a key stands for, None for none, and the revision that the next write must find. It is kept until
    `until`."""

    job_id: str | None = None
    revision: int = 0
    until: float = 0.0


class Debounces:
    """Reads and writes them. Errors are those of the connection, and `Conflict`."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._stream = kv_stream(names.jobs_bucket)

    async def load(self, activity: str, key: str) -> Debounce:
        """By the word of the leader."""
        subject = self._names.debounced(activity, hashed(key))
        return _read(await self._connection.get_message(self._stream, last_by_subj=subject))

    async def put(self, activity: str, key: str, job_id: str, wait_s: float, revision: int) -> None:
        """Have the key stand for this job, which waits for so long from now, if `revision` is still the newest."""
        headers = {EXPECTED: str(revision), TTL: for_seconds(_KEPT_S + 2 * wait_s)}
        try:
            await self._connection.store(self._names.debounced(activity, hashed(key)), dump(_Named(job_id)), headers)
        except WrongLastSequence as error:
            raise Conflict(f"debounce_key {key!r} of {activity} stands for another job by now") from error

    def ages(self, kept: Debounce, wait_s: float) -> bool:
        """Whether it has to be written again to be kept for as long as its job waits, and a good while longer."""
        return kept.until - self._connection.now() < wait_s + _KEPT_S / 2


def _read(stored: StoredMessage | None) -> Debounce:
    if stored is None:
        return Debounce()
    try:
        named = None if stored.marker else load(stored.data, _Named).id
    except Garbled:  # somebody else has put it there: it names nothing
        named = None
    return Debounce(named, stored.seq, stored.time_ns / 1e9 + seconds_of(stored.headers.get(TTL, "")))
