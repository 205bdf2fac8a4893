"""The members of groups: submitted, asked to end, looked at; and the list of how they have ended.

Whoever does it may be cut short anywhere, and somebody else may do it again: a member's id follows from the group's, so
that one which is submitted again is known for the one that is there, by its message or by its record.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import attrs

from turnout import wire
from turnout.bounded import each
from turnout.core.events import CancelRequested, Submitted
from turnout.core.evolve import evolve
from turnout.core.group import GroupRecord, Roster, member_id, then_id
from turnout.core.lifecycle import record_of
from turnout.core.record import Delivery
from turnout.core.spec import DEFAULT_PRIORITY, JobSpec, SubmitOptions
from turnout.crashpoints import reach
from turnout.nats.connection import Disconnected, PubAck, RequestTimeout, WrongLastSequence
from turnout.nats.direct import Raw
from turnout.nats.once import SubjectTaken
from turnout.nats.pages import newest_of
from turnout.nats.stream import kv_stream
from turnout.store.groups import KeptGroup
from turnout.store.member_list import Member, as_json, list_parameter, member_of
from turnout.store.perform import Performer, Store
from turnout.store.records import Conflict, Versioned
from turnout.telemetry import metrics

PART = 1000
"""How many members are read, or submitted, in one go."""

_PART_CANCELLED = 256
_AT_ONCE = 32

ActivityOf = Callable[[int], str]
"""The activity of a member, by its number."""


class Members:
    """Acts on the members of groups. Errors are those of the connection, and ObjectGone."""

    def __init__(self, store: Store, performer: Performer) -> None:
        self._store = store
        self._performer = performer
        self._registry = kv_stream(store.names.jobs_bucket)

    async def activities(self, record: GroupRecord) -> ActivityOf:
        """What each member is a job of."""
        if record.activity:
            return lambda _: record.activity
        roster = await self._store.groups.roster(record)
        return lambda number: roster.kind(number).activity

    # --- looking ------------------------------------------------------------------------------------------------------

    async def records(self, group_id: str, activity_of: ActivityOf, numbers: Iterable[int]) -> dict[int, Raw]:
        """The records of those of these members that have one. May be a moment old."""
        names = self._store.names
        wanted = {names.record(activity_of(n), member_id(group_id, n)).encode(): n for n in numbers}
        found = await newest_of(self._store.connection, self._registry, [each.decode() for each in wanted])
        return {wanted[subject]: raw for subject, raw in found.items() if subject in wanted}

    async def without_message(self, group_id: str, activity_of: ActivityOf, numbers: Iterable[int]) -> list[int]:
        """Those of these members whose job has no message, in whatever lane. May be a moment old."""
        names, numbers = self._store.names, list(numbers)
        lanes, wanted = await self._store.lanes.all(), {}
        for number in numbers:
            activity, job_id = activity_of(number), member_id(group_id, number)
            for priority in (DEFAULT_PRIORITY, *lanes.get(activity, ())):
                wanted[names.jobs(activity, job_id, priority).encode()] = number
        found = await newest_of(self._store.connection, names.work, [each.decode() for each in wanted])
        there = {wanted[subject] for subject in found if subject in wanted}
        return [number for number in numbers if number not in there]

    async def missing(self, group_id: str, roster: Roster, numbers: Iterable[int]) -> list[int]:
        """Those of these members of which there is nothing: the message first, for it goes when the record is there.

        One with a deadline is there when its record is: without that it would not end when nobody works.
        """

        def activity_of(number: int) -> str:
            return roster.kind(number).activity

        numbers = list(numbers)
        timed = {number for number in numbers if roster.kind(number).options.has_deadline}
        silent = [*timed, *await self.without_message(group_id, activity_of, [n for n in numbers if n not in timed])]
        known = await self.records(group_id, activity_of, silent) if silent else {}
        return [number for number in silent if number not in known]

    async def is_gone(self, group_id: str, activity: str, number: int) -> bool:
        """Whether nothing of the member is kept any more, by the word of the leader."""
        job_id = member_id(group_id, number)
        for _ in range(2):  # it may begin, and even end, between the two questions
            if (await self._store.registry.load(activity, job_id)).record is not None:
                return False
            if await self._store.queue.find_named(activity, job_id) is not None:
                return False
        return True

    # --- submitting ---------------------------------------------------------------------------------------------------

    async def publish(self, kept: KeptGroup, roster: Roster, *, fresh: bool = False) -> KeptGroup:
        """Submit the members that are not there yet, and write down how far that is; the group as it is then.

        `fresh`: nobody has submitted any, so that is not looked for.
        """
        record = kept.record
        while record is not None and record.finished_at is None and record.published < record.total:
            up_to = min(record.published + PART, record.total)
            numbers: Sequence[int] = range(record.published, up_to)
            if not fresh:
                numbers = await self.missing(record.id, roster, numbers)
            await self._publish(record, roster, numbers)
            reach("group.published")
            kept = await self.change(record.id, partial(_published, up_to=up_to))
            record = kept.record
        return kept

    async def change(self, group_id: str, change: Callable[[GroupRecord], GroupRecord]) -> KeptGroup:
        """Write the record as `change` makes it of what it is; nothing where it stays as it is, or is gone. That of a
        group that has finished is the last one, and expires: nothing is written behind it."""
        while True:
            kept = await self._store.groups.load(group_id)
            if (
                kept.record is None
                or kept.record.finished_at is not None
                or (changed := change(kept.record)) == kept.record
            ):
                return kept
            try:
                return await self._store.groups.save(changed, kept.revision)
            except Conflict:
                continue

    async def _publish(self, record: GroupRecord, roster: Roster, numbers: Sequence[int]) -> None:
        """Without waiting for one after the other; what is there already stays as it is."""
        in_flight: list[tuple[Submitted, asyncio.Future[PubAck]]] = []
        again = []
        for kind in roster.kinds:
            await self._store.lanes.open(kind.activity, kind.options.priority or DEFAULT_PRIORITY)
        for count, number in enumerate(numbers):
            event = await self._submitted(record, roster, number)
            if event.at is not None or event.spec.options.has_deadline:
                again.append(event)  # it has a record before any attempt
                continue
            try:
                message = self._store.queue.message_of(event.spec, event.nonce)
                in_flight.append((event, self._store.connection.store_nowait(*message)))
            except Disconnected:
                again.append(event)
            if count % 256 == 0:
                await asyncio.sleep(0)
        answers = await asyncio.gather(*(future for _, future in in_flight), return_exceptions=True)
        for (event, _), answer in zip(in_flight, answers, strict=True):
            if isinstance(answer, RequestTimeout | Disconnected):
                again.append(event)
            elif isinstance(answer, WrongLastSequence):
                await self._store.payloads.delete(event.spec.payload)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                metrics.submitted(event.spec.activity)
        await each(self._submit, again, _AT_ONCE)

    async def _submit(self, event: Submitted) -> bool:
        """Submit one job; False when it is there already."""
        spec = event.spec
        try:
            await self._performer.apply(spec.activity, spec.id, event, Versioned() if event.at is None else None)
        except SubjectTaken:
            await self._store.payloads.delete(spec.payload)
            found = await self._store.queue.find_named(spec.activity, spec.id) if spec.options.has_deadline else None
            if found is not None:
                await self._keep_deadline(found)
            return False
        metrics.submitted(spec.activity)
        return True

    async def _keep_deadline(self, found: Delivery) -> None:
        """Write the record of a job whose submitter has come no further than its message, if it needs one (P12)."""
        record = record_of(found)
        if record.deadline is not None:
            with contextlib.suppress(Conflict):  # it is there
                await self._store.registry.save(record, 0)

    async def _submitted(self, record: GroupRecord, roster: Roster, number: int) -> Submitted:
        kind = roster.kind(number)
        job_id, options = member_id(record.id, number), attrs.evolve(kind.options, group=record.id)
        spec = await self._spec(record, kind.activity, job_id, roster.payloads[number], options)
        return Submitted(spec=spec, nonce=self._store.chance.nonce(), at=kind.at)

    async def _spec(
        self, record: GroupRecord, activity: str, job_id: str, text: str, options: SubmitOptions
    ) -> JobSpec:
        return JobSpec(
            id=job_id,
            activity=activity,
            submitted_at=self._store.connection.now(),
            payload=await self._store.payloads.put(text, "payload", job_id),
            headers=record.headers,
            options=options,
            trace_id=wire.trace_id_of(record.headers, activity, job_id),
        )

    # --- cancelling ---------------------------------------------------------------------------------------------------

    async def cancel(self, kept: KeptGroup) -> KeptGroup:
        """Ask every member to end that has not, and write down how far that is; the group as it is then."""
        record = kept.record
        activity_of = await self.activities(record) if record is not None else None
        while record is not None and activity_of is not None and _asks_on(record):
            up_to = min(record.cancelled + _PART_CANCELLED, record.total)
            numbers = [n for n in record.seen.open(record.cancelled, _PART_CANCELLED) if n < up_to]
            asked = [(activity_of(n), member_id(record.id, n)) for n in numbers]
            await each(partial(self._cancel, record.cancel or ""), asked, _AT_ONCE)
            reach("group.cancelled")
            kept = await self.change(record.id, partial(_asked_to_end, up_to=up_to))
            record = kept.record
        return kept

    async def _cancel(self, reason: str, job: tuple[str, str]) -> None:
        activity, job_id = job
        found = await self._store.queue.find(activity, job_id)
        event = CancelRequested(reason=reason, now=self._store.connection.now(), delivery=found)
        await self._performer.apply(activity, job_id, event)

    # --- following ----------------------------------------------------------------------------------------------------

    async def follow(self, record: GroupRecord, activity_of: ActivityOf) -> str:
        """Submit the job that follows the group, unless it is there already; its id."""
        then, job_id = record.then, then_id(record.id)
        assert then is not None
        there = (await self._store.registry.load(then.activity, job_id)).record is not None
        found = None if there else await self._store.queue.find_named(then.activity, job_id)
        if found is not None:
            await self._keep_deadline(found)
        if there or found is not None:
            return job_id
        parameter = then.parameter if then.parameter is not None else await self._parameter(then.activity)
        text = await as_json(await self._ended(record, activity_of), self._store.payloads, beside=len(parameter) + 8)
        if parameter:
            text = f"{{{json.dumps(parameter)}:{text}}}"
        spec = await self._spec(record, then.activity, job_id, text, then.options)
        await self._submit(Submitted(spec=spec, nonce=self._store.chance.nonce()))
        return job_id

    async def _ended(self, record: GroupRecord, activity_of: ActivityOf) -> list[Member]:
        seen, found = record.seen, []
        for first in range(0, record.total, PART):
            numbers = range(first, min(first + PART, record.total))
            raws = await self.records(record.id, activity_of, numbers)
            found += [member_of(member_id(record.id, n), seen.of_member(n), raws.get(n)) for n in numbers]
        return found

    async def _parameter(self, activity: str) -> str:
        """The parameter that takes the list, by the contract of the activity; "": the list is the payload."""
        contract = await self._store.nodes.contract(activity)
        return "" if contract is None else list_parameter(contract.payload_schema) or ""


def _published(record: GroupRecord, *, up_to: int) -> GroupRecord:
    return evolve(record, published=max(record.published, up_to))


def _asks_on(record: GroupRecord) -> bool:
    return record.finished_at is None and record.cancelled < record.total


def _asked_to_end(record: GroupRecord, *, up_to: int) -> GroupRecord:
    return evolve(record, cancelled=max(record.cancelled, up_to))
