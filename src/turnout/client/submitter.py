"""Submitting: from a payload's text to a message that JetStream has stored."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from turnout import wire
from turnout.bounded import each
from turnout.client.contracts import Contracts
from turnout.client.debouncer import Debouncer
from turnout.client.handle import JobHandle
from turnout.client.reader import Reader
from turnout.core.events import Resubmitted, Submitted
from turnout.core.record import JobRecord
from turnout.core.spec import DEFAULT_PRIORITY, JobSpec, SubmitOptions
from turnout.definition.activity import Activity, ActivityRef, NamedActivity, refuse_local
from turnout.definition.codec import encode_json
from turnout.definition.options import Submission
from turnout.errors import (
    IF_TAKEN,
    InvalidArguments,
    InvalidValue,
    JobExists,
    JobNotFound,
    OutcomeUnknown,
    PermissionDenied,
    TurnoutError,
)
from turnout.nats.connection import Disconnected, NoResponders, PubAck, RequestTimeout, WrongLastSequence
from turnout.nats.once import SubjectTaken
from turnout.store.chance import drawn_bytes
from turnout.store.payloads import check_size
from turnout.store.perform import Performer, Store
from turnout.store.records import Versioned
from turnout.telemetry import metrics, spans

_IN_FLIGHT = 4096
_ONE_BY_ONE = 256
"""How many submits with an id of their own are under way at a time."""

_BARE_SEARCHED = 256
"""How many waiting bare jobs a submit looks through for its id. Beyond them an id may be taken unnoticed; its job
still runs once."""


_REPLACED = "replaced by a job of the same id"
_CANCEL_AGAIN_S = 5.0
"""After how long a job that shall be replaced is asked to end again: somebody may have retried it, or replaced it."""


class Submitter:
    """Submits for a client. A chosen id is looked for in the whole namespace first; one made up here isn't."""

    def __init__(self, store: Store, performer: Performer, reader: Reader) -> None:
        self._store = store
        self._performer = performer
        self._reader = reader
        self.contracts = Contracts(store.nodes)
        self._nonce = secrets.token_hex(8)
        self._count = itertools.count()
        self._debouncer = Debouncer(store, performer, self._submitted, new_id)

    def untyped(self, ref: ActivityRef, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The payload of an activity by name: one positional payload, or keywords as its object."""
        if len(args) > 1 or (args and kwargs):
            raise InvalidArguments(f"activity {ref.name} by name takes one payload, or keyword arguments; not both")
        return self.encode_untyped(args[0] if args else dict(kwargs))

    def encode_untyped(self, payload: object) -> str:
        return encode_json(payload, "payload")

    async def submit(self, ref: ActivityRef, text: str) -> str:
        """Submit one job and return its id."""
        refuse_local(ref)
        if ref.submission.debounce is not None:
            return await self._debouncer.submit(ref, text, ref.submission.debounce)
        chosen = ref.submission.id
        job_id = chosen or new_id()
        existing = None if chosen is None else await self._existing(job_id)
        if existing is None:
            with spans.submitting(ref.name, job_id, self._store.names.bare(ref.name)) as headers:
                if await self._first(ref, job_id, text, headers):
                    return job_id
            existing = await self._existing(job_id) or ref.name
        if existing != ref.name or ref.submission.if_exists == "raise":
            raise self._taken(job_id, existing)
        if ref.submission.if_exists == "replace":
            await self._replace(ref, job_id, text)
        return job_id

    async def _first(self, ref: ActivityRef, job_id: str, text: str, headers: dict[str, str]) -> bool:
        """Submit the job under an id that nobody has; False when somebody has it."""
        event = await self._submitted(ref, job_id, text, headers, self.at(ref.submission))
        try:
            seq = await self._apply(event)
            if event.chosen and seq is not None:
                await self._refuse_latecomer(event.spec, seq)
        except SubjectTaken:
            # An id that was made up here is nobody else's: a lost answer, and a message that was requeued meanwhile.
            return not event.chosen or await self._is_there(event.spec)
        return True

    async def _replace(self, ref: ActivityRef, job_id: str, text: str) -> None:
        """Submit the job in place of the one that has its id, once that has ended.

        Of several who do so at a time one after the other has its way, and cancels the job of the one before.
        """
        with spans.submitting(ref.name, job_id, self._store.names.bare(ref.name)) as headers:
            while True:
                ended = await self._ended(ref.name, job_id)
                if ended is None:
                    if await self._first(ref, job_id, text, headers):
                        return
                    continue
                event = await self._submitted(ref, job_id, text, headers, self.at(ref.submission))
                spec = attrs.evolve(event.spec, generation=ended.generation + 1)
                try:
                    await self._apply(Resubmitted(spec=spec, nonce=event.nonce, at=event.at))
                except SubjectTaken:
                    if await self._is_there(spec):
                        return
                    continue
                return

    async def _ended(self, activity: str, job_id: str) -> JobRecord | None:
        """The job, whose end is asked for and waited for; None when there is none."""
        handle = self._handle(activity, job_id)
        while True:
            limit = asyncio.timeout(_CANCEL_AGAIN_S)
            try:
                await handle.cancel(_REPLACED)
                async with limit:
                    await self._reader.end(activity, job_id)
                return (await self._store.registry.load(activity, job_id)).record
            except JobNotFound:
                return None
            except TimeoutError:
                if not limit.expired():
                    raise

    async def submit_many(self, ref: ActivityRef, texts: Sequence[str], ids: Sequence[str] | None) -> list[str]:
        """Submit many jobs, thousands in flight at a time, and return their ids."""
        refuse_local(ref)
        submission = ref.submission
        if submission.id is not None:
            raise InvalidValue("options(id=...) names one job; give submit_many a list of ids")
        if submission.debounce is not None:
            raise InvalidValue("debounce keeps the last of several payloads; submit that one, with `submit`")
        for text in texts:
            check_size(text, "payload")
        endless = submission.expires_in is None and submission.start_within is None
        if ids is not None or not endless or self.at(submission) is not None:
            if ids is not None and submission.if_exists != "join":
                _no_id_twice(ids)
            return await self._one_by_one(ref, texts, ids)
        job_ids = [new_id() for _ in texts]
        with spans.submitting(ref.name, None, self._store.names.bare(ref.name), count=len(texts)) as headers:
            for first in range(0, len(texts), _IN_FLIGHT):
                part = slice(first, first + _IN_FLIGHT)
                await self._pipeline(ref, job_ids[part], texts[part], headers)
        return job_ids

    async def _one_by_one(self, ref: ActivityRef, texts: Sequence[str], ids: Sequence[str] | None) -> list[str]:
        chosen: Iterable[str | None] = ids if ids is not None else [None] * len(texts)
        refs = [ref.options(id=job_id) if job_id is not None else ref for job_id in chosen]
        return await each(lambda submission: self.submit(*submission), list(zip(refs, texts, strict=True)), _ONE_BY_ONE)

    async def _pipeline(
        self, ref: ActivityRef, job_ids: Sequence[str], texts: Sequence[str], headers: dict[str, str]
    ) -> None:
        """Publish without waiting; what failed on the way is published again under its nonce, as `submit` does."""
        await self._store.lanes.open(ref.name, self.recorded(ref).priority or DEFAULT_PRIORITY)
        in_flight: list[tuple[Submitted, asyncio.Future[PubAck]]] = []
        for job_id, text in zip(job_ids, texts, strict=True):
            event = await self._submitted(ref, job_id, text, headers)
            subject, body, head = self._store.queue.message_of(event.spec, event.nonce)
            try:
                future = self._store.connection.store_nowait(subject, body, head)
            except Disconnected as error:  # those before it are in flight still, and are published again like this one
                future = asyncio.get_running_loop().create_future()
                future.set_exception(error)
            in_flight.append((event, future))
            if len(in_flight) % 256 == 0:
                await asyncio.sleep(0)
        answers = await asyncio.gather(*(future for _, future in in_flight), return_exceptions=True)
        metrics.submitted(ref.name, sum(not isinstance(answer, BaseException) for answer in answers))
        for (event, _), answer in zip(in_flight, answers, strict=True):
            if isinstance(answer, RequestTimeout | Disconnected | WrongLastSequence):
                with contextlib.suppress(SubjectTaken):  # by its own message, requeued meanwhile: ids are made up here
                    await self._apply(event)
            elif isinstance(answer, BaseException):
                raise answer

    async def _submitted(
        self, ref: ActivityRef, job_id: str, text: str, headers: dict[str, str], at: float | None = None
    ) -> Submitted:
        """The event of this call, under a nonce by which its own writes are known again (P1, P3)."""
        body = self._store.payloads.inline(text) or await self._store.payloads.put(text, "payload", job_id)
        spec = JobSpec(
            id=job_id,
            activity=ref.name,
            submitted_at=self._store.connection.now(),
            payload=body,
            headers=headers,
            options=self.recorded(ref),
            trace_id=wire.trace_id_of(headers, ref.name, job_id),
        )
        nonce = f"{self._nonce}{next(self._count):x}"
        if ref.submission.id is None:
            return Submitted(spec=spec, nonce=nonce, at=at)
        return Submitted(spec=attrs.evolve(spec, nonce=nonce), nonce=nonce, at=at, chosen=True)

    def recorded(self, ref: ActivityRef) -> SubmitOptions:
        """What a job of it keeps of what was asked for, within its bounds: of one by name those of its contract,
        and the priority of that."""
        refuse_local(ref)
        asked = ref.recorded
        bounds = ref.settings.bounds if isinstance(ref, Activity) else self.contracts.bounds(ref.name)
        if bounds is not None:
            bounds.check(ref.name, asked)
        said = self.contracts.priority(ref.name) if ref.priority is None and isinstance(ref, NamedActivity) else None
        return asked if said is None else asked.prioritized(said)

    async def _refuse_latecomer(self, spec: JobSpec, seq: int) -> None:
        """SubjectTaken when the id's job had run and ended between the look for it and the publish at `seq`.

        Its record is there, then, and of an earlier message; whoever gets the late one drops it.
        """
        record = (await self._store.registry.load(spec.activity, spec.id)).record
        if record is not None and record.message is not None and record.message.seq < seq:
            raise SubjectTaken(f"job {spec.id} exists")

    async def _is_there(self, spec: JobSpec) -> bool:
        """Whether the job that has the id is this call's own after all: the answer was lost, and it was sent again to a
        server that had forgotten the first message, or had it requeued. The payload of what is not there is deleted."""
        record = (await self._store.registry.load(spec.activity, spec.id)).record
        found = record.spec if record is not None else None
        if found is None and (waiting := await self._store.queue.find_named(spec.activity, spec.id)) is not None:
            found = waiting.spec
        if found is not None and spec.nonce and found.nonce == spec.nonce:
            return True
        await self._store.payloads.delete(spec.payload)
        return False

    async def _apply(self, event: Submitted | Resubmitted) -> int | None:
        """Store the job; where its message lies, None if it is delayed or that is not known. SubjectTaken."""
        spec, record_first = event.spec, event.at is not None or isinstance(event, Resubmitted)
        try:
            job = None if record_first else Versioned()
            applied = await self._performer.apply(spec.activity, spec.id, event, job)
        except NoResponders as error:
            await self._undo(event, error)
            raise TurnoutError(
                f"the work stream {self._store.names.work} is gone: run `turnout setup`, or connect again"
            ) from error
        except (OutcomeUnknown, asyncio.CancelledError):
            raise
        except TurnoutError as error:
            if isinstance(event, Resubmitted) and isinstance(error, SubjectTaken):
                metrics.submitted(spec.activity)
                return None  # its record is there: the sweep, or a retry, was quicker to bring what that says
            await self._undo(event, error)
            raise
        if record_first and not applied.effects:
            raise SubjectTaken(f"job {spec.id} exists")
        metrics.submitted(spec.activity)
        return applied.seq

    async def _undo(self, event: Submitted | Resubmitted, error: TurnoutError) -> None:
        """Take back what a submit has stored that is about to raise. OutcomeUnknown where that can't be done.

        Of a delayed job its record is there before its timer, and the supervisor would run it without one; so is that
        of a job that takes the place of another. Of a job with a deadline its message is there before the record.
        """
        spec = event.spec
        try:
            if event.at is not None or isinstance(event, Resubmitted):
                loaded = await self._store.registry.load(spec.activity, spec.id)
                record = loaded.record
                if record is not None and record.is_of(event.nonce):
                    await self._store.registry.delete(record, loaded.revision, record.message)
            elif (spec.expires_at or spec.starts_by) is not None and await self._stored(event):
                raise OutcomeUnknown(f"job {spec.id} is stored, but the record of its deadline is not: {error}")
        except OutcomeUnknown:
            raise
        except PermissionDenied:
            return  # whoever may not write records has written none
        except TurnoutError:
            unclear = (
                f"job {spec.id} was not submitted as asked ({error}), and what of it is stored could not be removed"
            )
            raise OutcomeUnknown(f"{unclear}: it may run") from error

    async def _stored(self, event: Submitted | Resubmitted) -> bool:
        subject = self._store.names.jobs(event.spec.activity, event.spec.id, event.spec.lane)
        stored = await self._store.connection.get_message(self._store.names.work, last_by_subj=subject)
        return stored is not None and stored.headers.get(wire.MSG_ID, "").endswith(f".{event.nonce}")

    async def _existing(self, job_id: str) -> str | None:
        """The activity that has a job of this id."""
        loaded, found, bare = await asyncio.gather(
            self._store.registry.find(job_id),
            self._store.connection.get_message(
                self._store.names.work, last_by_subj=self._store.names.jobs("*", job_id)
            ),
            self._store.queue.find_bare("*", job_id, most=_BARE_SEARCHED),
        )
        if loaded.record is not None:
            return loaded.record.activity
        if bare is not None:
            return bare.activity
        named = self._store.names.job_of(found.subject) if found is not None else None
        return named[0] if named is not None else None

    def _taken(self, job_id: str, activity: str) -> JobExists:
        what = f"job {job_id} exists already (activity {activity}): choose another id"
        return JobExists(f"{what}, or submit to that activity with {IF_TAKEN}", self._handle(activity, job_id))

    def _handle(self, activity: str, job_id: str) -> JobHandle[Any]:
        return JobHandle(job_id, activity, self._reader, self._performer, self._store)

    def at(self, submission: Submission) -> float | None:
        """The instant before which it may not run, if it asks for one."""
        if submission.at_s is not None:
            return submission.at_s
        return None if not submission.delay else self._store.connection.now() + submission.delay


def _no_id_twice(ids: Sequence[str]) -> None:
    twice = [job_id for job_id, times in Counter(ids).items() if times > 1]
    if twice:
        raise InvalidValue(f"ids: {twice[0]!r} is given more than once")


_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]


def new_id() -> str:
    """An id that sorts by time: a ULID (https://github.com/ulid/spec)."""
    drawn = drawn_bytes(10)
    first, second = int.from_bytes(drawn[:5]), int.from_bytes(drawn[5:])
    return f"{_time_digits(int(time.time() * 1000))}{_eight_digits(first)}{_eight_digits(second)}"


@functools.lru_cache(maxsize=1)
def _time_digits(ms: int) -> str:
    return f"{_PAIRS[ms >> 40]}{_eight_digits(ms)}"


def _eight_digits(number: int) -> str:
    """The lowest 40 bits."""
    pairs = _PAIRS
    return f"{pairs[number >> 30 & 1023]}{pairs[number >> 20 & 1023]}{pairs[number >> 10 & 1023]}{pairs[number & 1023]}"
