"""The work stream: putting jobs in, finding their messages, taking them out. Pulling is in nats/pull.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import attrs

from turnout import wire
from turnout.core.record import Delivery, MessageRef
from turnout.core.spec import DEFAULT_PRIORITY, PRIORITIES, JobSpec, is_express, priority_of
from turnout.nats.connection import Connection, Message, PubAck, StoredMessage
from turnout.nats.messages import EXPECTED, EXPECTED_SUBJECT
from turnout.nats.once import SubjectTaken, store_alone
from turnout.nats.pages import at_sequences
from turnout.nats.stream import ON_SUBJECT, ROLLUP, Stream, ack_subject, delivery_of, nak, scheduled
from turnout.store.consumers import Consumer
from turnout.store.lanes import Lanes
from turnout.store.names import Names
from turnout.store.records import scan

_SEQUENCES = 2**63
"""More than any stream has; an id may look as if it were made of anything."""


class WorkQueue:
    """What is done to the work stream, one method an effect. Errors are those of the connection, and `SubjectTaken`."""

    def __init__(self, connection: Connection, names: Names, lanes: Lanes) -> None:
        self._connection = connection
        self._names = names
        self._lanes = lanes

    def message_of(self, spec: JobSpec, nonce: str) -> tuple[str, bytes, dict[str, str]]:
        """Subject, body and headers of the message that submits this job, expecting none on its subject (P3). Its lane
        has to be open."""
        headers = wire.message_headers(spec, nonce)
        headers[EXPECTED] = "0"
        return self._subject(spec), _body(spec), headers

    async def publish(self, spec: JobSpec, nonce: str, *, chosen: bool = False) -> int | None:
        """Put the job's first message in; SubjectTaken when the id already has one, if `chosen` under any activity.

        Returns where it lies, None if that is not known.

        A publish that isn't answered is sent again under the same message id, so it is stored once at most. When the
        answers stay away: OutcomeUnknown.
        """
        subject, body, headers = self.message_of(spec, nonce)
        if chosen:
            headers[EXPECTED_SUBJECT] = self._names.anywhere(spec.id)
        await self.open_lane(spec)
        ack = await self._store(subject, body, headers)
        return ack.seq if ack is not None else None

    async def schedule(self, spec: JobSpec, at: float, nonce: str, *, chosen: bool = False) -> None:
        """Have the server publish the job at `at` (unix seconds), expecting no other schedule of the id (P11).

        SubjectTaken when there is one, or if `chosen` a job of this id under any activity.
        """
        headers = wire.message_headers(spec, nonce, scheduled=True)
        headers |= scheduled(at, self._subject(spec))
        headers[EXPECTED] = "0"
        if chosen:
            headers[EXPECTED_SUBJECT] = self._names.anywhere(spec.id)
        await self.open_lane(spec)
        try:
            await self._store(self._names.timer(spec.activity, spec.id), _body(spec), headers)
        except SubjectTaken:
            fired = await self.find_named(spec.activity, spec.id, spec.lane)
            if fired is None or not fired.scheduled:  # our own timer may have fired before its answer was sent again
                raise

    async def open_lane(self, spec: JobSpec) -> None:
        """See to it that the job is asked for where its message will lie."""
        await self._lanes.open(spec.activity, spec.lane)

    async def unschedule(self, spec: JobSpec) -> None:
        """Purge the job's pending schedule, if it has one."""
        subject = self._names.timer(spec.activity, spec.id)
        await Stream(self._connection, self._names.work).purge(subject)

    async def replace(self, spec: JobSpec, expected_seq: int, replaced: int, nonce: str) -> None:
        """Requeue the job in its lane, in place of the message at `expected_seq` there; SubjectTaken when that is no
        longer so."""
        headers = wire.message_headers(spec, nonce, replaced=replaced) | _in_place_of(expected_seq)
        await self.open_lane(spec)
        await self._store(self._subject(spec), _body(spec), headers)

    async def send_on(self, spec: JobSpec, subject: str, expected_seq: int, nonce: str) -> None:
        """Put the job onto this subject of a route, in place of what lies there at `expected_seq`, 0 for nothing;
        SubjectTaken when that is no longer so."""
        headers = wire.message_headers(spec, nonce, replaced=1, routed=True) | _in_place_of(expected_seq)
        await self._store(subject, _body(spec), headers)

    async def remove(self, message: MessageRef) -> None:
        """Delete the message at this sequence, if it still is the one of this timestamp."""
        if await self.exists(message):
            await Stream(self._connection, self._names.work).delete_if_there(message.seq)

    def give_back(self, consumer: Consumer, message: MessageRef) -> None:
        """NAK the newest delivery of a message, whoever has it. Nothing happens when it is not in anybody's hands.

        The ack subject follows from the message. The server drops a NAK that names a delivery at or below the one up to
        which it takes all for acknowledged: the next delivery of the consumer never is.
        """
        place = (message.seq, message.time_ns)
        subject = ack_subject(self._names.work, consumer.name, place, consumer.deliveries + 1)
        self._connection.send(subject, nak())

    async def exists(self, message: MessageRef) -> bool:
        """Whether the message is still in the stream, by the word of the leader."""
        stored = await self._connection.get_message(self._names.work, seq=message.seq)
        return stored is not None and stored.time_ns == message.time_ns

    async def those_there(self, messages: Iterable[MessageRef]) -> dict[int, str]:
        """Those of these messages that are in the stream: their sequences and subjects. May be a moment old."""
        times = {message.seq: message.time_ns for message in messages}
        found = await at_sequences(self._connection, self._names.work, times) if times else []
        return {raw.seq: raw.subject.decode("utf-8", "replace") for raw in found if times[raw.seq] == raw.time_ns}

    async def end(self) -> MessageRef:
        """The place of the newest message of all: whatever is stored from now on lies behind it."""
        return MessageRef(*await Stream(self._connection, self._names.work).end())

    async def find_named(self, activity: str, job_id: str, priority: int | None = None) -> Delivery | None:
        """The message on the job's own subject by the word of the leader, None when there is none.

        `priority`: only in this lane, which a job's record tells, if it has one.
        """
        found = await self._last(self._names.jobs(activity, job_id, priority or DEFAULT_PRIORITY))
        if found is None and priority is not None and is_express(priority):  # it may not have been let past others yet
            return await self._last(self._names.jobs(activity, job_id, priority_of(priority)))
        if found is not None or priority is not None or activity == "*":
            return found
        others = [self._names.jobs(activity, job_id, lane) for lane in PRIORITIES if lane != DEFAULT_PRIORITY]
        return next((each for each in await asyncio.gather(*map(self._last, others)) if each is not None), None)

    async def _last(self, subject: str) -> Delivery | None:
        stored = await self._connection.get_message(self._names.work, last_by_subj=subject)
        return None if stored is None else delivery_in(self._names, stored)

    async def find(self, activity: str, job_id: str, priority: int | None = None) -> Delivery | None:
        """The job's message by the word of the leader, None when it has none. `*` finds it under any activity.

        A bare job that was named by its message id is found by reading through the bare jobs. `priority` as above.
        """
        named = await self.find_named(activity, job_id, priority)
        if named is not None:
            return named
        routed, bare = await asyncio.gather(
            self.find_routed(activity, job_id), self._find_bare_or_numbered(activity, job_id)
        )
        return bare or routed

    async def carries(self, activity: str, job_id: str) -> bool:
        """Whether any message or timer carries this job, by the word of the leader; one that is parked for a limit has
        a record that says so."""
        subjects = self._names.anywhere(job_id), self._names.routed("*", activity, job_id)
        for subject in subjects:
            if await self._connection.get_message(self._names.work, last_by_subj=subject) is not None:
                return True
        return False

    async def find_routed(self, activity: str, job_id: str) -> Delivery | None:
        """The job's message on a route by the word of the leader, None when there is none."""
        subject = self._names.routed("*", activity, job_id)
        stored = await self._connection.get_message(self._names.work, last_by_subj=subject)
        return None if stored is None else delivery_in(self._names, stored)

    async def _find_bare_or_numbered(self, activity: str, job_id: str) -> Delivery | None:
        position = wire.parse_bare_id(job_id)
        if position is None:
            return await self.find_bare(activity, job_id)
        if not 0 < position[0] < _SEQUENCES:
            return None
        stored = await self._connection.get_message(self._names.work, seq=position[0])
        if stored is None or stored.time_ns != position[1]:
            return None
        found = delivery_in(self._names, stored)
        return found if found is not None and activity in ("*", found.activity) else None

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
        """Whose subjects carry a message of this id; bare ones are not looked for, those on a route have a record."""
        subjects = Stream(self._connection, self._names.work).subjects(self._names.jobs("*", job_id))
        named = [self._names.job_of(subject) async for subject, _ in subjects]
        return sorted(found[0] for found in named if found is not None)

    async def scan(self, activity: str = "*") -> AsyncIterator[Delivery]:
        """Every job's message. May be a moment old."""
        for subject in await self._lanes.subjects(None if activity == "*" else activity):
            async for found in self.scan_subject(subject):
                yield found

    async def scan_subject(self, subject: str) -> AsyncIterator[Delivery]:
        """The jobs on one subject of the stream, in its order. May be a moment old."""
        async for stored in scan(self._connection, self._names.work, subject):
            found = delivery_in(self._names, stored)
            if found is not None:
                yield found

    def _subject(self, spec: JobSpec) -> str:
        return self._names.jobs(spec.activity, spec.id, spec.lane)

    async def _store(self, subject: str, body: bytes, headers: dict[str, str]) -> PubAck | None:
        return await store_alone(self._connection, self._names.work, subject, body, headers)


def delivery_in(names: Names, stored: StoredMessage) -> Delivery | None:
    """The job whose message lies there in the stream; None when it is none of a job."""
    place = names.place_of(stored.subject)
    if place is None:
        return None
    message = MessageRef(stored.seq, stored.time_ns, bare=place.routed, priority=place.lane)
    return wire.parse_delivery(place.activity, place.id, message, stored.data, stored.headers)


def parse_received(names: Names, received: Message, max_deliver: int) -> Delivery | None:
    """A message that the consumer handed over; None when it is none of a job."""
    place, handed = names.place_of(received.subject), delivery_of(received.reply)
    if place is None or handed is None:
        return None
    number, seq, stamp = handed
    message = MessageRef(seq, stamp, received.reply, bare=place.routed, priority=place.lane)
    delivery = wire.parse_delivery(place.activity, place.id, message, received.data, received.headers)
    if number == 1:
        return delivery
    return attrs.evolve(delivery, number=number, exhausted=0 < max_deliver <= number)


def _in_place_of(expected_seq: int) -> dict[str, str]:
    """Headers of a message that takes the place of the one at this sequence, 0 for none.

    No rollup where there is nothing to replace: of a consumer that hands over other subjects as well, the server (2.15)
    then forgets whatever waits to be handed over again.
    """
    headers = {EXPECTED: str(expected_seq)}
    return headers | {ROLLUP: ON_SUBJECT} if expected_seq else headers


def _body(spec: JobSpec) -> bytes:
    return (spec.payload.text or "").encode()
