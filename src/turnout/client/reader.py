"""Reading jobs: one, all, counted, watched. A job is its record, or its message when that is newer or all there is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TypeVar

from turnout import wire
from turnout.client.away import outwaits, unless_away
from turnout.client.counting import Counting
from turnout.client.filters import Filters
from turnout.client.info import Bodies, FaultInfo, JobInfo, fault_info, inline, job_info
from turnout.client.listing import Listing
from turnout.client.notices import Notices
from turnout.client.reasons import Reasons
from turnout.client.unmended import unmended
from turnout.core.ends import seen_at
from turnout.core.events import Expired
from turnout.core.lifecycle import newer, record_of
from turnout.core.record import RETRYABLE, JobRecord, JobState
from turnout.core.spec import Body
from turnout.errors import AmbiguousJob, JobNotFound, TurnoutError, UnreadableRecord
from turnout.nats.connection import Message
from turnout.store.payloads import ObjectGone
from turnout.store.perform import Performer, Store
from turnout.store.records import Versioned

logger = logging.getLogger("turnout.client")

T = TypeVar("T")

_POLL_S = (0.5, 5.0)
_QUICK_S = 0.05
_FRESH_S = 0.002
"""How soon after its submission a job has hardly ended."""


class Reader:
    """Reads jobs for clients, and writes nothing: whoever may only look sees what there is."""

    def __init__(self, store: Store, performer: Performer) -> None:
        self._store = store
        self._performer = performer

    @outwaits
    async def locate(self, job_id: str) -> str:
        """The activity of the job with this id. JobNotFound, AmbiguousJob."""
        for _ in range(2):
            loaded, waiting = await asyncio.gather(
                self._store.registry.find(job_id), self._store.queue.activities_of(job_id)
            )
            known = {*waiting, *([loaded.record.activity] if loaded.record is not None else [])}
            if len(known) > 1:
                names = ", ".join(sorted(known))
                raise AmbiguousJob(f"id {job_id} is known under several activities: {names}; name one of them")
            if known:
                return known.pop()
            found = await self._store.queue.find("*", job_id)
            if found is not None:
                return found.activity
        raise JobNotFound(f"no job {job_id} in namespace {self._store.names.ns}: is the id right, or has it expired?")

    async def read(self, activity: str, job_id: str) -> JobRecord:
        """The job as it stands, by the word of the leader. JobNotFound."""
        record = (await self.load(activity, job_id)).record
        if record is None:
            raise JobNotFound(f"no job {job_id} of activity {activity} in namespace {self._store.names.ns}")
        return self._seen(record)

    def _seen(self, record: JobRecord) -> JobRecord:
        return seen_at(record, self._store.connection.now())

    async def settled(self, activity: str, job_id: str) -> JobRecord:
        """The job as it stands, for whoever is about to change it: that an overdue one has ended is written first."""
        record = (await self.load(activity, job_id)).record
        now = self._store.connection.now()
        if record is not None and seen_at(record, now) is record:
            return record
        if record is not None:
            await self._performer.apply(activity, job_id, Expired(now=now))
        return await self.read(activity, job_id)

    async def keys(self, filters: Filters, *, as_stored: bool = False) -> list[tuple[str, str]]:
        """The activities and ids of the jobs that match; `as_stored`: an overdue one has not ended by that alone."""
        seen = (lambda record: record) if as_stored else self._seen
        async with contextlib.aclosing(Listing(self._store, filters, seen).records()) as records:
            return [(record.activity, record.id) async for record in records]

    async def load(self, activity: str, job_id: str) -> Versioned:
        """The job as it stands; a job without a record is given the one that its message tells."""
        loaded = await self._store.registry.load(activity, job_id)
        while True:
            record = loaded.record
            if record is not None and record.state not in RETRYABLE:
                return loaded
            # A new life is always put onto the job's own subject (P2): only a job without a record may be a bare one.
            queue = self._store.queue
            if record is None:
                found = await queue.find(activity, job_id)
            else:
                found = await queue.find_named(activity, job_id, record.spec.lane)
            if found is not None and newer(found, record):
                return Versioned(record_of(found, record), loaded.revision)
            # No newer message: there is none, or it has begun its life, and even ended it, between the two reads.
            again = await self._store.registry.load(activity, job_id)
            if again.revision == loaded.revision:
                return loaded
            loaded = again

    async def info(self, record: JobRecord) -> JobInfo:
        """The record as users see it, with what it refers to."""
        node = _node_of(record)
        suspect = node is not None and await self._store.nodes.get(node) is None
        waiting_for = await Reasons(self._store).of(record)
        return job_info(record, await self._bodies(record), suspect=suspect, waiting_for=waiting_for)

    async def text(self, body: Body | None) -> str | None:
        return None if body is None else await self._store.payloads.get(body)

    async def jobs(self, filters: Filters, limit: int | None) -> AsyncGenerator[JobInfo]:
        """The jobs that match, newest first, as they are found."""
        alive: dict[str, bool] = {}
        reasons = Reasons(self._store)
        async with contextlib.aclosing(Listing(self._store, filters, self._seen).records()) as records:
            async for record in records:
                suspect = False
                if (node := _node_of(record)) is not None:
                    alive = alive or {living.id: True for living in await self._store.nodes.living()}
                    if node not in alive:  # it may have started since
                        alive[node] = await self._store.nodes.get(node) is not None
                    suspect = not alive[node]
                try:
                    waiting_for = await reasons.of(record)
                    info = job_info(record, await self._bodies(record), suspect=suspect, waiting_for=waiting_for)
                except TurnoutError:
                    raise
                except Exception as error:  # whatever this one record does to its reader, there are others
                    logger.warning("job %s is left out: %s", record.id, error)
                    continue
                yield info
                if limit is not None and (limit := limit - 1) == 0:
                    return

    async def count(self, filters: Filters) -> dict[JobState, int]:
        """How many jobs are in each state; each job once."""
        return await Counting(self._store, filters, self._seen).count()

    async def faults(
        self, activity: str | None, since: float | None, job_id: str = "*", *, mended: bool = True
    ) -> AsyncIterator[FaultInfo]:
        """The dead letters, the oldest first; without `mended` those of jobs that have not gone on since."""
        asked = activity or "*", job_id
        dead_letters = self._store.dead_letters.scan(*asked) if mended else unmended(self._store, *asked)
        async for dead_letter in dead_letters:
            if since is None or dead_letter.at >= since:
                yield fault_info(
                    dead_letter.seq,
                    dead_letter.at,
                    dead_letter.record,
                    await self._shown(dead_letter.record.spec.payload),
                )

    async def end(self, activity: str, job_id: str, *, since: float | None = None) -> JobRecord | str:
        """How the job ended, as soon as it has: its record, or of a completed one the text of its result.

        `since`: when it was submitted, if it was just now, by the loop's clock.
        """
        notices = Notices(self._store.connection, lambda message: wire.tells_end(message.data))
        await notices.begin(self._store.names.stored(activity, job_id))
        try:
            # A quick job ends before all that `read` asks is answered, a fresh one maybe before the first question.
            left_s = 0.0 if since is None else since + _FRESH_S - asyncio.get_running_loop().time()
            soon = left_s > 0 and await notices.within(left_s)
            if not soon and (notices.heard or not await self._ended(activity, job_id)):
                await notices.within(_QUICK_S)
            pause = _POLL_S[0]
            while True:
                notice = notices.take()
                text = None if notice is None else wire.result_text(notice.data)
                if text is not None:
                    return text
                record = _lasting(notice) or await self.unless_away(self.read(activity, job_id))
                if record is not None and record.state.final:
                    return record
                pause = await _rest(notices, pause)
        finally:
            await notices.end()

    async def changes(self, activity: str, job_id: str) -> AsyncGenerator[JobRecord, None]:
        """The job now, and again whenever it may have changed; ends never. Changes in quick succession are one."""
        notices = Notices(self._store.connection)
        await notices.begin(self._store.names.stored(activity, job_id))
        try:
            pause = _POLL_S[0]
            while True:
                notice = notices.take()
                record = _lasting(notice) or await self.unless_away(self.read(activity, job_id))
                if record is not None:
                    yield record
                pause = await _rest(notices, pause)
        finally:
            await notices.end()

    async def unless_away(self, answer: Awaitable[T]) -> T | None:
        """The answer, or None while the server or the stream's leader is away: ask again. A closed client raises."""
        return await unless_away(self._store, answer)

    async def _ended(self, activity: str, job_id: str) -> bool:
        """Whether the job has ended, or nobody knows."""
        with contextlib.suppress(TurnoutError):
            record = (await self._store.registry.peek(activity, job_id)).record
            return record is not None and record.state.final
        return True

    async def _bodies(self, record: JobRecord) -> Bodies:
        payload, checkpoint, result = record.spec.payload, record.checkpoint, record.result
        if inline(payload) and inline(checkpoint) and inline(result):
            return Bodies(payload.text, _inline_text(checkpoint), _inline_text(result))
        return Bodies(await self._shown(payload), await self._shown(checkpoint), await self._shown(result))

    async def _shown(self, body: Body | None) -> str | None:
        """The text of a body, None if it is gone: a listing is about more than this one job."""
        try:
            return await self.text(body)
        except ObjectGone:
            return None


def _node_of(record: JobRecord) -> str | None:
    """The node that runs the job's code, None where none does: what is silent there makes the job suspect."""
    running = record.state is JobState.running and record.outside is None
    return record.token.node if running and record.token is not None else None


async def _rest(notices: Notices, pause: float) -> float:
    """Wait for a notice. Nothing is told twice, so a slow poll stands behind it: for how long to wait then."""
    return _POLL_S[0] if await notices.within(pause) else min(pause * 1.5, _POLL_S[1])


def _lasting(notice: Message | None) -> JobRecord | None:
    """The record, if it tells all there is to know: after any other end a job may be retried, which no record tells."""
    if notice is not None:
        with contextlib.suppress(UnreadableRecord):
            record = wire.load_record(notice.data)
            return record if record.state in (JobState.running, JobState.completed) else None
    return None


def _inline_text(body: Body | None) -> str | None:
    return None if body is None else body.text
