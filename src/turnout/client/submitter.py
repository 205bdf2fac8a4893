"""Submitting: from a payload's text to a message that JetStream has stored."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from turnout import wire
from turnout.client.handle import JobHandle
from turnout.client.reader import Reader
from turnout.core.events import Submitted
from turnout.core.values import JobRecord, JobState, Token
from turnout.definition.activity import ActivityRef
from turnout.definition.codec import encode_json
from turnout.definition.options import Submission
from turnout.errors import InvalidArguments, InvalidValue, JobExists, TurnoutError
from turnout.jetstream.connection import Disconnected, NoResponders, PubAck, RequestTimeout, WrongLastSequence
from turnout.jetstream.payloads import check_size, inline
from turnout.jetstream.perform import Performer, Store
from turnout.jetstream.queue import Taken
from turnout.jetstream.registry import Loaded
from turnout.telemetry import metrics, spans

_IN_FLIGHT = 4096

_BARE_SEARCHED = 256
"""How many waiting bare jobs a submit looks through for its id. Beyond them an id may be taken unnoticed; its job
still runs once."""


class Submitter:
    """Submits for a client. A chosen id is looked for in the whole namespace first; one made up here isn't."""

    def __init__(self, store: Store, performer: Performer, reader: Reader) -> None:
        self._store = store
        self._performer = performer
        self._reader = reader
        self._nonce = secrets.token_hex(8)
        self._count = itertools.count()

    def untyped(self, ref: ActivityRef, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The payload of an activity by name: one positional payload, or keywords as its object."""
        if len(args) > 1 or (args and kwargs):
            raise InvalidArguments(f"activity {ref.name} by name takes one payload, or keyword arguments; not both")
        return self.encode_untyped(args[0] if args else dict(kwargs))

    def encode_untyped(self, payload: object) -> str:
        return encode_json(payload, "payload")

    async def submit(self, ref: ActivityRef, text: str) -> str:
        """Submit one job and return its id."""
        chosen = ref.submission.id
        job_id = chosen or new_id()
        if chosen is not None:
            existing = await self._existing(job_id)
            if existing is not None:
                return self._taken(ref, job_id, existing)
        with spans.submitting(ref.name, job_id, self._store.names.bare(ref.name)) as headers:
            draft = await self._draft(ref, job_id, text, headers)
            try:
                seq = await self._store_draft(draft, self._at(ref.submission), ref)
                if chosen is not None and seq is not None:
                    await self._refuse_latecomer(draft, seq)
            except Taken:
                await self._store.payloads.delete(draft.payload)
                return self._taken(ref, job_id, ref.name)
            return job_id

    async def submit_many(self, ref: ActivityRef, texts: Sequence[str], ids: Sequence[str] | None) -> list[str]:
        """Submit many jobs, thousands in flight at a time, and return their ids."""
        plain = ref.submission.expires_in is None and self._at(ref.submission) is None and ids is None
        if ref.submission.id is not None:
            raise InvalidValue("options(id=...) names one job; give submit_many a list of ids")
        for text in texts:
            check_size(text, "payload")
        if not plain:
            if ids is not None and ref.submission.if_exists == "raise":
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
        gate = asyncio.Semaphore(256)

        async def one(each: ActivityRef, text: str) -> str:
            async with gate:
                return await self.submit(each, text)

        # The first error is raised when nothing is under way any more: whoever handles it finds the jobs at rest.
        submits = [one(each, text) for each, text in zip(refs, texts, strict=True)]
        outcomes = await asyncio.gather(*submits, return_exceptions=True)
        job_ids = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            job_ids.append(outcome)
        return job_ids

    async def _pipeline(
        self, ref: ActivityRef, job_ids: Sequence[str], texts: Sequence[str], headers: dict[str, str]
    ) -> None:
        """Publish without waiting; what failed on the way is published again under its nonce, as `submit` does."""
        in_flight: list[tuple[JobRecord, asyncio.Future[PubAck]]] = []
        for job_id, text in zip(job_ids, texts, strict=True):
            draft = await self._draft(ref, job_id, text, headers)
            assert draft.token is not None
            subject, body, head = self._store.queue.message_of(draft, draft.token.nonce)
            try:
                future = self._store.connection.store_nowait(subject, body, head)
            except Disconnected as error:  # those before it are in flight still, and are published again like this one
                future = asyncio.get_running_loop().create_future()
                future.set_exception(error)
            in_flight.append((draft, future))
            if len(in_flight) % 256 == 0:
                await asyncio.sleep(0)
        answers = await asyncio.gather(*(future for _, future in in_flight), return_exceptions=True)
        metrics.submitted(ref.name, sum(not isinstance(answer, BaseException) for answer in answers))
        for (draft, _), answer in zip(in_flight, answers, strict=True):
            if isinstance(answer, RequestTimeout | Disconnected | WrongLastSequence):
                await self._store_draft(draft, None, ref)
            elif isinstance(answer, BaseException):
                raise answer

    async def _draft(self, ref: ActivityRef, job_id: str, text: str, headers: dict[str, str]) -> JobRecord:
        """The record as it would be. Its token names this call, so that its own writes are known again (P1, P3)."""
        body = inline(text) or await self._store.payloads.put(text, "payload", job_id)
        return JobRecord(
            id=job_id,
            activity=ref.name,
            state=JobState.queued,
            submitted_at=self._store.connection.now(),
            payload=body,
            headers=headers,
            options=ref.submission.recorded,
            token=Token("", 1, 0, f"{self._nonce}{next(self._count):x}"),
            trace_id=wire.trace_id_of(headers, ref.name, job_id),
        )

    async def _refuse_latecomer(self, draft: JobRecord, seq: int) -> None:
        """Taken when the id's job had run and ended between the look for it and the publish at `seq`.

        Its record is there, then, and of an earlier message; whoever gets the late one drops it.
        """
        record = (await self._store.registry.load(draft.activity, draft.id)).record
        if record is not None and record.message is not None and record.message.seq < seq:
            raise Taken(f"job {draft.id} exists")

    async def _store_draft(self, draft: JobRecord, at: float | None, ref: ActivityRef) -> int | None:
        """Store the job; where its message lies, None if it is delayed or that is not known."""
        event = Submitted(draft=draft, at=at)
        try:
            applied = await self._performer.apply(draft.activity, draft.id, event, Loaded() if at is None else None)
        except NoResponders as error:
            raise TurnoutError(
                f"the work stream {self._store.names.work} is gone: run `turnout setup`, or connect again"
            ) from error
        if at is not None and not applied.effects:
            raise Taken(f"job {draft.id} exists")
        metrics.submitted(draft.activity)
        return applied.seq

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

    def _taken(self, ref: ActivityRef, job_id: str, activity: str) -> str:
        if ref.submission.if_exists == "join" and activity == ref.name:
            return job_id
        handle: JobHandle[Any] = JobHandle(job_id, activity, self._reader, self._performer, self._store)
        raise JobExists(
            f"job {job_id} exists already (activity {activity}): choose another id, or submit with if_exists='join'",
            handle,
        )

    def _at(self, submission: Submission) -> float | None:
        if submission.at_s is not None:
            return submission.at_s
        return None if not submission.delay else self._store.connection.now() + submission.delay


def _no_id_twice(ids: Sequence[str]) -> None:
    twice = [job_id for job_id, times in Counter(ids).items() if times > 1]
    if twice:
        raise InvalidValue(f"ids: {twice[0]!r} is given more than once")


_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_SHIFTS = tuple(range(120, -1, -10))


def new_id() -> str:
    """An id that sorts by time: a ULID (https://github.com/ulid/spec)."""
    number = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10))
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])
