"""What was said from outside of jobs by whoever can only publish: `turnout.complete.<id>` and `turnout.fail.<id>`.

It is kept in a stream, also while nobody works, and dropped when dealt with. What does not fit is logged and dropped,
what could not be dealt with is kept, and tried again.
"""

from __future__ import annotations

import logging
import random

from turnout.core.ends import OUTSIDE_ERROR
from turnout.core.events import Answered
from turnout.core.failure import ErrorInfo
from turnout.core.loglines import fields
from turnout.core.record import Answer, JobRecord, JobState
from turnout.definition.fits import misfit
from turnout.definition.plain_json import PayloadProblem, decode_json
from turnout.errors import AmbiguousJob, TurnoutError
from turnout.nats.connection import StoredMessage
from turnout.nats.stream import Stream
from turnout.store.perform import Performer, Store
from turnout.store.records import scan

logger = logging.getLogger("turnout.supervisor")


_AGAIN_S = 1.0
_SELDOM_S = 600.0
"""What can't be dealt with is tried again after the one, then after twice as long each time, up to the other."""


class Dropped(Exception):
    """An answer that no job waits for, or that does not fit; the text says why."""


class Completions:
    """Deals with the answers that are kept."""

    def __init__(self, store: Store, performer: Performer) -> None:
        self._store = store
        self._performer = performer
        self.begin()

    def begin(self) -> None:
        """Try all of them."""
        self._failed: dict[int, tuple[int, float]] = {}

    async def look(self) -> bool:
        """Deal with each; whether there was none. Errors are those of the connection."""
        connection, names = self._store.connection, self._store.names
        kept: dict[int, tuple[int, float]] = {}
        calm = True
        async for stored in scan(connection, names.completions, f"{names.ns}.*.*"):
            calm = False
            times, again_at = self._failed.get(stored.seq, (0, 0.0))
            if connection.now() < again_at:
                kept[stored.seq] = times, again_at
            elif await self._dealt_with(stored):
                await Stream(connection, names.completions).delete_if_there(stored.seq)
            else:
                kept[stored.seq] = times + 1, connection.now() + min(_AGAIN_S * 2.0**times, _SELDOM_S)
        self._failed = kept
        return calm

    async def _dealt_with(self, stored: StoredMessage) -> bool:
        """Whether nothing is left to do about it; if not, why not is in the log."""
        try:
            await self._deal(stored)
        except Dropped as error:
            logger.warning("%s: %s; the message is dropped", stored.subject, error)
        except TurnoutError as error:
            logger.warning("%s can't be dealt with yet: %s", stored.subject, error)
            return False
        except Exception:  # whatever this one, or what is said of its job, does to its reader, there are others
            logger.exception("%s can't be dealt with yet, it is tried again", stored.subject)
            return False
        return True

    async def _deal(self, stored: StoredMessage) -> None:
        named = self._store.names.answer_of(stored.subject)
        if named is None:
            raise Dropped("that names no job")
        kind, job_id = named
        try:
            record = (await self._store.registry.find(job_id)).record
        except AmbiguousJob as error:
            raise Dropped(str(error)) from error
        if record is None:
            raise Dropped("there is no such job, or it has not begun")
        if record.state is not JobState.running:
            raise Dropped(f"the job is {record.state}, and only one that runs can be completed from outside")
        # Before the first attempt there was no other that could be meant: whoever is told by its code may answer before
        # our clock says that it has begun.
        since = record.attempts[-1].started_at if record.attempt > 1 else record.spec.submitted_at
        if stored.time_ns / 1e9 < since:
            raise Dropped(f"it was sent before attempt {record.attempt} began, and meant another one")
        answer = await self._answer(kind, record, stored.data)
        found = await self._store.queue.find(record.activity, job_id)
        event = Answered(answer=answer, now=self._store.connection.now(), u=random.random(), delivery=found)
        applied = await self._performer.apply(record.activity, job_id, event)
        if not applied.effects:
            raise Dropped("it came too late, or the job has its answer already")
        logger.info("job %s: %s from outside", job_id, kind, extra=fields(job_id, record.activity, record.attempt))

    async def _answer(self, kind: str, record: JobRecord, data: bytes) -> Answer:
        text = data.decode(errors="replace").strip()
        if kind == "fail":
            return Answer(error=ErrorInfo(OUTSIDE_ERROR, text or "it failed"))
        try:
            value = decode_json(text or "null", "result")
        except PayloadProblem as error:
            raise Dropped(f"the result is no JSON: {error}") from error
        contract = await self._store.nodes.contract(record.activity)
        wrong = None if contract is None else misfit(contract.result_schema, value)
        if wrong is not None:
            raise Dropped(f"the result is not what {record.activity} returns: {wrong}")
        body = await self._store.payloads.put(text or "null", "result", record.id)
        return Answer(result=body)
