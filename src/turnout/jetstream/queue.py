"""The work stream: putting jobs in, finding their messages, taking them out. Pulling is in worker/pull.py."""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import AsyncIterator

import attrs

from turnout import wire
from turnout.core.values import Delivery, JobRecord, MessageRef
from turnout.errors import InvalidValue, OutcomeUnknown, TurnoutError
from turnout.jetstream.connection import (
    ApiError,
    Connection,
    Disconnected,
    NoResponders,
    PubAck,
    Received,
    RequestTimeout,
    StoredMessage,
    WrongLastSequence,
)
from turnout.jetstream.messages import EXPECTED
from turnout.jetstream.names import Names
from turnout.jetstream.registry import scan

_RESENDS = 3
_PATIENCE_S = 5.0
_LEADERLESS_S = 6.0
_SEQUENCES = 2**63
"""More than any stream has; an id may look as if it were made of anything."""


class Taken(InvalidValue):
    """The subject already carries a message that is not this call's."""


class Queue:
    """What is done to the work stream, one method an effect. Errors are those of the connection, and `Taken`."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names

    def message_of(self, record: JobRecord, nonce: str) -> tuple[str, bytes, dict[str, str]]:
        """Subject, body and headers of the message that submits this job, expecting none on its subject (P3)."""
        headers = wire.message_headers(record, nonce)
        headers[EXPECTED] = "0"
        return self._names.jobs(record.activity, record.id), _body(record), headers

    async def publish(self, record: JobRecord, nonce: str) -> int | None:
        """Put the job's first message in; Taken when the id already has one. Where it lies, None if that is not known.

        A publish that isn't answered is sent again under the same message id, so it is stored once at most. When the
        answers stay away: OutcomeUnknown.
        """
        subject, body, headers = self.message_of(record, nonce)
        ack = await self._store(subject, body, headers)
        return ack.seq if ack is not None else None

    async def confirm(self, record: JobRecord, nonce: str) -> None:
        """After a refusal: fine when the message on the subject is this call's own, else Taken."""
        subject, _, headers = self.message_of(record, nonce)
        await self._own_or_taken(subject, headers)

    async def schedule(self, record: JobRecord, at: float, nonce: str) -> None:
        """Have the server publish the job at `at` (unix seconds), expecting no other schedule of the id (P11)."""
        headers = wire.message_headers(record, nonce, scheduled=True)
        headers["Nats-Schedule"] = f"@at {rfc3339(at)}"
        headers["Nats-Schedule-Target"] = self._names.jobs(record.activity, record.id)
        headers[EXPECTED] = "0"
        await self._store(self._names.timer(record.activity, record.id), _body(record), headers)

    async def unschedule(self, record: JobRecord) -> None:
        """Purge the job's pending schedule, if it has one."""
        subject = self._names.timer(record.activity, record.id)
        await self._connection.api(f"STREAM.PURGE.{self._names.work}", {"filter": subject})

    async def replace(self, record: JobRecord, expected_seq: int, replaced: int, nonce: str) -> None:
        """Put the job's message in anew in place of the one at `expected_seq`; Taken when that is no longer there."""
        headers = wire.message_headers(record, nonce, replaced=replaced)
        headers[EXPECTED] = str(expected_seq)
        headers["Nats-Rollup"] = "sub"
        await self._store(self._names.jobs(record.activity, record.id), _body(record), headers)

    async def remove(self, message: MessageRef) -> None:
        """Delete the message at this sequence, if it still is the one of this timestamp."""
        stored = await self._connection.get_message(self._names.work, seq=message.seq)
        if stored is None or stored.time_ns != message.time_ns:
            return
        try:
            await self._connection.api(f"STREAM.MSG.DELETE.{self._names.work}", {"seq": message.seq, "no_erase": True})
        except ApiError:
            if await self.exists(message):
                raise

    def give_back(self, activity: str, message: MessageRef) -> None:
        """NAK the newest delivery of a message, whoever has it: the ack subject follows from the sequence."""
        subject = f"$JS.ACK.{self._names.work}.{activity}.1.{message.seq}.1.{message.time_ns}.0"
        self._connection.send(subject, b"-NAK")

    async def exists(self, message: MessageRef) -> bool:
        """Whether the message is still in the stream, by the word of the leader."""
        stored = await self._connection.get_message(self._names.work, seq=message.seq)
        return stored is not None and stored.time_ns == message.time_ns

    async def find_named(self, activity: str, job_id: str) -> Delivery | None:
        """The message on the job's own subject by the word of the leader, None when there is none."""
        subject = self._names.jobs(activity, job_id)
        stored = await self._connection.get_message(self._names.work, last_by_subj=subject)
        return None if stored is None else self._delivery(stored)

    async def find(self, activity: str, job_id: str) -> Delivery | None:
        """The job's message by the word of the leader, None when it has none. `*` finds it under any activity.

        A bare job that was named by its message id is found by reading through the bare jobs.
        """
        named = await self.find_named(activity, job_id)
        if named is not None:
            return named
        position = wire.parse_bare_id(job_id)
        if position is not None:
            if not 0 < position[0] < _SEQUENCES:
                return None
            stored = await self._connection.get_message(self._names.work, seq=position[0])
            if stored is None or stored.time_ns != position[1]:
                return None
            found = self._delivery(stored)
            return found if found is not None and activity in ("*", found.activity) else None
        return await self.find_bare(activity, job_id)

    async def find_bare(self, activity: str, job_id: str, *, most: int | None = None) -> Delivery | None:
        """The bare job of this message id among the `most` oldest bare jobs; they have to be read to be told apart."""
        seen = 0
        async for found in self.scan_subject(self._names.bare(activity)):
            if found.id == job_id:
                return found
            seen += 1
            if seen == most:
                return None
        return None

    async def activities_of(self, job_id: str) -> list[str]:
        """Whose subjects carry a message of this id; bare ones are not looked for."""
        body = {"subjects_filter": self._names.jobs("*", job_id)}
        info = await self._connection.api(f"STREAM.INFO.{self._names.work}", body)
        named = (self._names.job_of(subject) for subject in info["state"].get("subjects") or {})
        return sorted(found[0] for found in named if found is not None)

    async def scan(self, activity: str = "*") -> AsyncIterator[Delivery]:
        """Every job's message, bare ones first. May be a moment old."""
        for subject in (self._names.bare(activity), self._names.jobs(activity, "*")):
            async for found in self.scan_subject(subject):
                yield found

    async def scan_subject(self, subject: str) -> AsyncIterator[Delivery]:
        """The jobs on one subject of the stream, in its order. May be a moment old."""
        async for stored in scan(self._connection, self._names.work, subject):
            found = self._delivery(stored)
            if found is not None:
                yield found

    def _delivery(self, stored: StoredMessage) -> Delivery | None:
        named = self._names.job_of(stored.subject)
        if named is None:
            return None
        message = MessageRef(stored.seq, stored.time_ns)
        return wire.parse_delivery(named[0], named[1], message, stored.data, stored.headers)

    async def _store(self, subject: str, body: bytes, headers: dict[str, str]) -> PubAck | None:
        sent = False
        trouble: TurnoutError | None = None
        for _ in range(_RESENDS):
            try:
                await self._connection.wait_up(timeout_s=_PATIENCE_S)
                sent = True
                return await self._led(subject, body, headers)
            except WrongLastSequence:
                await self._own_or_taken(subject, headers)
                return None
            except (RequestTimeout, Disconnected) as error:
                trouble = error
        if not sent and trouble is not None:
            raise trouble
        raise OutcomeUnknown(f"nobody said whether the message on {subject} is stored: {trouble}") from trouble

    async def _led(self, subject: str, body: bytes, headers: dict[str, str]) -> PubAck:
        """A stream that is between two leaders answers nobody for some seconds; one that is gone, never."""
        deadline = 0.0
        while True:
            try:
                return await self._connection.store(subject, body, headers)
            except NoResponders:
                now = asyncio.get_running_loop().time()
                deadline = deadline or now + _LEADERLESS_S
                if now > deadline:
                    raise
                await asyncio.sleep(0.25)

    async def _own_or_taken(self, subject: str, headers: dict[str, str]) -> None:
        stored = await self._connection.get_message(self._names.work, last_by_subj=subject)
        if stored is None or stored.headers.get(wire.MSG_ID) != headers[wire.MSG_ID]:
            raise Taken(f"{subject} already carries another message")


def parse_received(names: Names, received: Received, max_deliver: int) -> Delivery | None:
    """A message that the consumer handed over; None when it is none of a job.

    The reply subject tells all: `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<..>.<timestamp>.<pending>`, with a
    domain and an account hash before the stream in servers that send the longer form.
    """
    named = names.job_of(received.subject)
    parts = received.reply.split(".")
    if named is None or len(parts) < 9:
        return None
    offset = 2 if len(parts) >= 11 else 0
    number, seq, stamp = int(parts[4 + offset]), int(parts[5 + offset]), int(parts[7 + offset])
    message = MessageRef(seq, stamp, received.reply)
    delivery = wire.parse_delivery(named[0], named[1], message, received.data, received.headers)
    if number == 1:
        return delivery
    return attrs.evolve(delivery, number=number, exhausted=0 < max_deliver <= number)


def rfc3339(instant: float) -> str:
    """Unix seconds as the server reads a schedule's time; rounded up, so that nothing fires early."""
    milliseconds = math.ceil(instant * 1000)
    moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"


def _body(record: JobRecord) -> bytes:
    return (record.payload.text or "").encode()
