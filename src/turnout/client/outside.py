"""The part of a job's handle that says from outside how the job ends, after its code has raised `CompleteLater`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from turnout.client.away import outwaits
from turnout.client.reader import Reader
from turnout.core.ends import OUTSIDE_ERROR
from turnout.core.events import Answered, KeptAlive
from turnout.core.failure import ErrorInfo
from turnout.core.record import Answer, JobRecord, JobState, Progress, progress_of
from turnout.definition.codec import encode_json
from turnout.definition.fits import misfit
from turnout.definition.plain_json import decode_json
from turnout.errors import InvalidValue, NotCompletable
from turnout.store.perform import Performer, Store


class OutsideMethods:
    """What a `JobHandle` can do for a job whose code has left the rest to others.

    With `attempt` (as of `current_job().attempt`) only that attempt is meant. What comes before the code has raised
    `CompleteLater` counts as soon as it does; if it never does, its own end counts, and `info().unused_answer` tells
    what was said. NotCompletable when it is too late, or the second answer, or the attempt
    is another one; JobNotFound for an unknown id.
    """

    id: str
    encode: Callable[[Any], str] | None
    _reader: Reader
    _performer: Performer
    _store: Store

    @outwaits
    async def complete(self, value: Any = None, attempt: int | None = None) -> None:
        """The job has ended with this result, which has to fit the activity's return type: InvalidValue if not.

        await client.job(job_id).complete({"approved": True})
        """
        checked_attempt(attempt)
        activity = await self._named()
        text = await self._encoded(activity, value)
        body = await self._store.payloads.put(text, "result", self.id)
        await self._answer(activity, Answer(attempt, result=body))

    @outwaits
    async def fail(self, message: str, fatal: bool = False, attempt: int | None = None) -> None:
        """The attempt has failed, as `message` says: the retry policy decides what follows, unless it is `fatal`.

        await client.job(job_id).fail("the customer has refused", fatal=True)
        """
        checked_attempt(attempt)
        if not isinstance(message, str):
            raise InvalidValue(f"message must be text, not {message!r}")
        error = ErrorInfo(OUTSIDE_ERROR, message)
        await self._answer(await self._named(), Answer(attempt, error=error, fatal=bool(fatal)))

    @outwaits
    async def heartbeat(self, attempt: int | None = None) -> None:
        """Somebody is at work on it: the timeout of `CompleteLater` begins anew.

        await client.job(job_id).heartbeat()
        """
        await self._keep_alive(attempt, None)

    @outwaits
    async def progress(
        self, done: float, total: float | None = None, message: str = "", attempt: int | None = None
    ) -> None:
        """How far it is, which is a heartbeat as well. InvalidValue where `done` or `total` is no finite number.

        await client.job(job_id).progress(3, 10, "signed by three")
        """
        await self._keep_alive(attempt, progress_of(done, total, message))

    async def _named(self) -> str:
        raise NotImplementedError

    async def _encoded(self, activity: str, value: Any) -> str:
        if self.encode is not None:
            return self.encode(value)
        text = encode_json(value, "result")
        contract = await self._store.nodes.contract(activity)
        wrong = None if contract is None else misfit(contract.result_schema, decode_json(text, "result"))
        if wrong is not None:
            raise InvalidValue(f"the value is not what {activity} returns: {wrong}")
        return text

    async def _answer(self, activity: str, answer: Answer) -> None:
        found = await self._store.queue.find(activity, self.id)
        event = Answered(answer=answer, now=self._store.connection.now(), u=random.random(), delivery=found)
        applied = await self._performer.apply(activity, self.id, event)
        if applied.effects:
            return
        record = applied.job.record or await self._reader.read(activity, self.id)
        if applied.job.record is None and record.state is JobState.running:  # it has begun in between
            await self._answer(activity, answer)
            return
        if answer.result is not None:
            await self._store.payloads.delete(answer.result)
        self._refuse(record, answer.attempt)

    async def _keep_alive(self, attempt: int | None, progress: Progress | None) -> None:
        checked_attempt(attempt)
        activity = await self._named()
        event = KeptAlive(now=self._store.connection.now(), attempt=attempt, progress=progress)
        applied = await self._performer.apply(activity, self.id, event)
        record = applied.job.record
        meant = record is not None and attempt in (None, record.attempt)
        if record is None or record.state is not JobState.running or not meant:
            self._refuse(record or await self._reader.read(activity, self.id), attempt)

    def _refuse(self, record: JobRecord, attempt: int | None) -> None:
        if record.state is not JobState.running:
            raise NotCompletable(f"job {self.id} is {record.state}: only one that runs can be completed from outside")
        if attempt not in (None, record.attempt):
            raise NotCompletable(f"job {self.id} is in attempt {record.attempt} by now, not in {attempt}")
        raise NotCompletable(f"job {self.id} has its answer already, and goes by it when its code is done")


def checked_attempt(attempt: object) -> None:
    """InvalidValue for what is no number of an attempt."""
    if attempt is not None and (isinstance(attempt, bool) or not isinstance(attempt, int) or attempt < 1):
        raise InvalidValue(f"attempt must be a number from 1, or None, not {attempt!r}")
