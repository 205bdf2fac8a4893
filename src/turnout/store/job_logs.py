"""The stream of log lines: batches of what `job.log` was told, one subject per job, the last ones kept.

Writing is for a worker that has better things to do: `append` never waits and never raises. A batch is sent as soon as
the connection is up, sent again when the connection was lost under it, and given up when the server refuses it.
"""

from __future__ import annotations

import asyncio
import bisect
import datetime as dt
import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial

import attrs

from turnout import fastjson
from turnout.core.loglines import Line
from turnout.core.plain import rfc3339, utc
from turnout.errors import PermissionDenied, ServerUnavailable, TurnoutError
from turnout.nats.connection import ApiError, Connection, Disconnected, NoResponders, PubAck, RequestTimeout
from turnout.nats.stream import MSG_ID, NOT_FOUND, Stream
from turnout.store.names import Names

logger = logging.getLogger("turnout.logs")

BATCH_BYTES = 64 * 1024
WAITING_BYTES = 4 * 1024 * 1024
"""What waits for the connection, of all jobs together; more than that, and the oldest is dropped."""
_PAGE = 128


@attrs.frozen
class Batch:
    """Lines that were written together: their sequence in the stream, and when they were stored (unix seconds)."""

    seq: int
    at: float
    lines: list[Line]


@attrs.frozen(order=True)
class _Sending:
    number: int
    subject: str = attrs.field(order=False)
    data: bytes = attrs.field(order=False)


class JobLogs:
    """Appends, reads and purges the lines of jobs. `append` is for the thread of the connection's loop."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._numbers = itertools.count()
        self._nonce = ""
        self._waiting: list[_Sending] = []
        self._waiting_bytes = 0
        self._in_flight = 0
        self._accepted = False
        self._refused = False
        self._warned = False

    @property
    def up(self) -> bool:
        """Whether what is appended now goes out now."""
        return self._connection.up

    def append(self, activity: str, job_id: str, lines: Iterable[Line]) -> None:
        """Write lines of a job, in as many messages as they take. What can't be written is dropped."""
        if self._refused:
            return
        if not self._nonce:
            self._nonce = secrets.token_hex(8)
            self._connection.on_up(self._send)
        subject = self._names.log(activity, job_id)
        most = min(BATCH_BYTES, self._connection.max_payload // 2)
        for data in _batches(lines, most):
            self._wait(_Sending(next(self._numbers), subject, data))
        self._send()

    async def read(self, activity: str, job_id: str, after: int = 0) -> AsyncIterator[Batch]:
        """The batches of a job beyond a sequence, the oldest first. None where there is no such stream yet."""
        body = {"seq": after + 1, "next_by_subj": self._names.log(activity, job_id), "batch": _PAGE}
        try:
            async for stored in self._connection.direct_get(self._names.logs, body):
                yield Batch(stored.seq, stored.time_ns / 1e9, list(_lines(stored.data)))
        except NoResponders:
            if await self._exists():
                raise

    async def purge(self, activity: str, job_id: str) -> None:
        """Remove the lines of a job."""
        try:
            await Stream(self._connection, self._names.logs).purge(self._names.log(activity, job_id))
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise

    async def _exists(self) -> bool:
        return await Stream(self._connection, self._names.logs).config() is not None

    # --- writing ------------------------------------------------------------------------------------------------------

    def _wait(self, batch: _Sending) -> None:
        bisect.insort(self._waiting, batch)  # one that was lost on its way goes before those that have not left yet
        self._waiting_bytes += len(batch.data)
        while self._waiting_bytes > WAITING_BYTES:
            self._waiting_bytes -= len(self._waiting.pop(0).data)

    def _send(self) -> None:
        """Send what waits; until the server has accepted one batch, one at a time: it may refuse them all."""
        while self._waiting and self._connection.up and (self._accepted or not self._in_flight):
            batch = self._waiting[0]
            headers = {MSG_ID: f"{self._nonce}.{batch.number}"}  # sent again it is not stored twice
            try:
                answer = self._connection.store_nowait(batch.subject, batch.data, headers)
            except ServerUnavailable:  # the link is congested: the next batch, or the next link, tries again
                return
            except TurnoutError as error:  # a line that is too long for this server
                logger.info("lines of a job are dropped: %s", error)
            else:
                self._in_flight += 1
                answer.add_done_callback(partial(self._answered, batch))
            self._waiting.pop(0)
            self._waiting_bytes -= len(batch.data)

    def _answered(self, batch: _Sending, answer: asyncio.Future[PubAck]) -> None:
        self._in_flight -= 1
        error = None if answer.cancelled() else answer.exception()
        if error is None:
            self._accepted = True
        elif isinstance(error, Disconnected | RequestTimeout):
            self._wait(batch)
        elif isinstance(error, PermissionDenied):
            self._give_up(error)
        elif not self._warned:
            self._warned = True
            logger.warning("lines of job.log can't be kept: %s", error)
        self._send()

    def _give_up(self, error: PermissionDenied) -> None:
        """The connection has warned of it already, once: there was one batch in flight."""
        self._refused = True
        self._waiting.clear()
        self._waiting_bytes = 0
        logger.info("lines of job.log are not kept by this process: %s", error)


def _batches(lines: Iterable[Line], most: int) -> Iterator[bytes]:
    """Lines as JSON, one a line, in batches of at most `most` bytes."""
    batch: list[bytes] = []
    size = 0
    for line in lines:
        data = _dump(line)
        if batch and size + len(data) >= most:
            yield b"\n".join(batch)
            batch, size = [], 0
        batch.append(data)
        size += len(data) + 1
    if batch:
        yield b"\n".join(batch)


def _dump(line: Line) -> bytes:
    return fastjson.dumps(
        {
            "time": rfc3339(utc(line.at), "milliseconds"),
            "level": line.level,
            "attempt": line.attempt,
            "node": line.node,
            "message": line.message,
        }
    )


def _lines(data: bytes) -> Iterator[Line]:
    for each in data.split(b"\n"):
        try:
            found = fastjson.loads(each)
            at = dt.datetime.fromisoformat(found["time"]).timestamp()
            yield Line(at, str(found["level"]), int(found["attempt"]), str(found["node"]), str(found["message"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # whoever has put that there may know what it is
