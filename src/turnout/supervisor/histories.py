"""Finding workflows that nothing will wake any more, since storage was lost: what is missing is put back (W14).

A workflow whose newest record is old waits for something that is there: an input, a job, a child, a timer, or a
signal. Where it isn't, its end is looked for in the inbox first, then whether the history is the same still; only then
is what the command asked for stored once more, which joins whatever was there after all. A local activity whose input
is gone is given another one, and whoever is handed that runs it again (W15).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence

import attrs

from turnout.bounded import each as for_each
from turnout.core.workflows.effects import (
    Effect,
    ScheduleCollection,
    SendJoin,
    SetTimer,
    Tell,
    Wake,
    asked,
    ended_in,
)
from turnout.core.workflows.jobs import ending_of_job
from turnout.core.workflows.standing import stand
from turnout.core.workflows.values import (
    COLLECTION,
    TIMEOUT,
    Command,
    CommandKind,
    Input,
    InputKind,
    Record,
    RecordKind,
    Wait,
    WaitKind,
    key_of,
    token_of,
)
from turnout.errors import TurnoutError
from turnout.nats.boottime import boottime
from turnout.nats.messages import level_of
from turnout.nats.pages import newest_of
from turnout.nats.stream import kv_stream
from turnout.store.commit import Committer
from turnout.store.histories import Stored, is_deleted
from turnout.store.perform import Performer, Store
from turnout.wire import load_brief
from turnout.wire.entries import Entry

logger = logging.getLogger("turnout.supervisor")

_PAGE = 200
_AT_ONCE = 8
_REST = 4.0
"""After each page it rests for so many times as long as that took."""


@attrs.frozen
class _Missing:
    """What a workflow waits for in vain, for people to read, and what puts it back."""

    what: str
    effect: Effect


class HistoryWalk:
    """Walks the workflows of a namespace. `least_age_s`: those with a younger record are left alone."""

    def __init__(self, store: Store, performer: Performer, least_age_s: float) -> None:
        self._store = store
        self._committer = Committer(store, performer)
        self._least_age_s = least_age_s

    async def walk(self) -> int:
        """Put back what is missing; of how many workflows something was. Errors are those of the connection."""
        old = [key async for key, entry in self._store.histories.entries() if self._is_old(entry.at)]
        mended = 0
        for begin in range(0, len(old), _PAGE):
            began = boottime()
            suspects = await self._suspects(old[begin : begin + _PAGE])
            mended += sum(await for_each(self._see_to, suspects, _AT_ONCE))
            await asyncio.sleep(_REST * (boottime() - began))
        return mended

    def _is_old(self, at: float) -> bool:
        return at <= self._store.connection.now() - self._least_age_s

    # --- at a glance --------------------------------------------------------------------------------------------------

    async def _suspects(self, ids: Sequence[str]) -> Sequence[str]:
        """Those whose entry does not show that all they wait for is there: most sleepers cost no read of their own."""
        try:
            page = await self._store.histories.entries_of(ids)
            there = await self._there(page)
            return [key for key, entry in page if not self._in_order(key, entry, there)]
        except Exception as error:  # an entry that somebody else has made up: one by one it keeps no other
            logger.info("a page of workflows can't be looked at together: %s", error)
            return ids

    async def _there(self, page: Sequence[tuple[str, Entry]]) -> set[bytes]:
        """The subjects of what they wait for that is there: timers, and jobs that have not ended."""
        names, connection = self._store.names, self._store.connection
        timers = {subject for key, entry in page for subject in self._timers(key, entry)}
        jobs = [self._job(key, entry, wait) for key, entry in page for wait in _of_kind(entry, WaitKind.activity)]
        there = {*await newest_of(connection, names.inbox, timers)}
        there |= {*await newest_of(connection, names.work, {names.jobs(*job) for job in jobs})}
        records = await newest_of(connection, kv_stream(names.jobs_bucket), {names.record(*job) for job in jobs})
        return there | {
            subject for subject, raw in records.items() if raw.data and not load_brief(raw.data).state.final
        }

    def _in_order(self, key: str, entry: Entry, there: set[bytes]) -> bool:
        if entry.state.final:
            return entry.kind is RecordKind.deleted or all(each.encode() in there for each in self._timers(key, entry))
        waits = entry.summary.waits
        if not waits or len(waits) < entry.summary.waiting:
            return False
        return all(self._is_there(key, entry, wait, there) for wait in waits)

    def _is_there(self, key: str, entry: Entry, wait: Wait, there: set[bytes]) -> bool:
        match wait.kind:
            case WaitKind.timer:
                return self._timer(key, entry, wait.id).encode() in there
            case WaitKind.activity:
                names, job = self._store.names, self._job(key, entry, wait)
                return any(subject.encode() in there for subject in (names.record(*job), names.jobs(*job)))
            case _:
                return not wait.id  # a signal, or a condition of its own code

    def _job(self, key: str, entry: Entry, wait: Wait) -> tuple[str, str]:
        """The activity and the id of the job that it waits for."""
        return wait.name, key_of(key, entry.life, entry.run, wait.id)

    def _timers(self, key: str, entry: Entry) -> Iterator[str]:
        if entry.state.final:
            yield self._store.names.workflow_timer(entry.name, key, entry.life, 0, COLLECTION)
        for wait in _of_kind(entry, WaitKind.timer):
            yield self._timer(key, entry, wait.id)

    def _timer(self, key: str, entry: Entry, command: str) -> str:
        return self._store.names.workflow_timer(entry.name, key, entry.life, entry.run, token_of(command))

    # --- one by one ---------------------------------------------------------------------------------------------------

    async def _see_to(self, workflow_id: str) -> bool:
        """Whether something was missing, and is put back. What one workflow does to its reader stops no other."""
        try:
            return await self._mend(workflow_id)
        except TurnoutError as error:
            level = level_of(error, logging.INFO)
            logger.log(level, "workflow %s can't be looked after now: %s", workflow_id, error)
        except Exception:  # whatever it meets, there are others
            logger.exception("the supervisor has stumbled over workflow %s, it goes on", workflow_id)
        return False

    async def _mend(self, workflow_id: str) -> bool:
        newest = await self._store.histories.newest(workflow_id)
        if newest is None or is_deleted(newest) or not self._is_old(newest.record.at):
            return False
        lying = await self._store.inbox.read(newest.record.name, workflow_id, set(), whole=True)
        missing = [each async for each in self._missing(newest, [each.given for each in lying])]
        if not missing or not await self._store.histories.is_newest(workflow_id, newest.seq):
            return False
        lost = ", ".join(each.what for each in missing)
        logger.warning("workflow %s waits for what is not there, it is put back: %s", workflow_id, lost)
        for each in missing:
            await self._committer.perform(newest, each.effect)
        return True

    async def _missing(self, newest: Stored, inputs: Sequence[Input]) -> AsyncIterator[_Missing]:
        record = newest.record
        if record.state.final:
            lies = any(given.kind is InputKind.gc for given in inputs)
            if record.gc_at is not None and not lies and not await self._has_timer(record, 0, COLLECTION):
                yield _Missing("its collection", ScheduleCollection(record.gc_at))
            return
        records = await self._store.histories.read(record.id, newest)
        standing = stand([(each.record, each.seq) for each in records])
        ended = ended_in(record, inputs)
        heard_of = _heard_of(standing.run, [*inputs, *(given for each in records for given in each.record.inputs)])
        for command in standing.pending.values():
            if command.kind is CommandKind.local:
                effect: Effect | None = None if _is_kept(command, standing.run, inputs) else Wake(command.id)
            else:
                effect = None if command.id in ended else await self._lost(record, command, heard_of)
            if effect is not None:
                yield _Missing(f"{command.kind} {command.name or command.target or command.id}", effect)
        limit, fired = standing.start.timeout, any(given.what == TIMEOUT for given in inputs)
        if limit is not None and not fired and not await self._has_timer(record, 0, TIMEOUT):
            yield _Missing("its timeout", SetTimer(TIMEOUT, 0, records[0].record.begun_at + limit))
        if not standing.begun and not standing.pending and not inputs:
            yield _Missing("its start", Wake())

    async def _lost(self, record: Record, command: Command, heard_of: Collection[str]) -> Effect | None:
        """What puts back what this command waits for; None where that is there. Of these children it has heard that
        they are there."""
        match command.kind:
            case CommandKind.activity:
                return await self._lost_job(record, command)
            case CommandKind.child | CommandKind.joining:
                return await self._lost_other(record, command, heard_of)
            case CommandKind.timer if await self._has_timer(record, record.done_run, token_of(command.id)):
                return None
            case CommandKind.timer | CommandKind.signal | CommandKind.cancel:
                return next(asked(record, command), None)
            case _:
                return None

    async def _lost_job(self, record: Record, command: Command) -> Effect | None:
        key = key_of(record.id, record.life, record.done_run, command.id)
        job = (await self._store.registry.load(command.name, key)).record
        if job is None:  # one that nobody has begun has no record either
            waits = await self._store.queue.carries(command.name, key)
            return None if waits else next(asked(record, command), None)
        if not job.state.final:
            return None  # jobs have walks of their own
        return Tell(record.asker(command.id), ending_of_job(job))

    async def _lost_other(self, record: Record, command: Command, heard_of: Collection[str]) -> Effect | None:
        other = await self._store.histories.newest(command.target)
        is_open = other is not None and not other.record.state.final
        if command.kind is CommandKind.child and (other is None or (is_open and command.id not in heard_of)):
            return next(asked(record, command), None)
        return SendJoin(command) if other is None or other.record.state.final else None

    async def _has_timer(self, record: Record, run: int, token: str) -> bool:
        subject = self._store.names.workflow_timer(record.name, record.id, record.life, run, token)
        return await self._store.connection.get_message(self._store.names.inbox, last_by_subj=subject) is not None


def _heard_of(run: int, inputs: Iterable[Input]) -> set[str]:
    """The commands of this run whose children are known to be there."""
    return {given.what for given in inputs if given.kind is InputKind.started and given.run == run}


def _is_kept(command: Command, run: int, inputs: Iterable[Input]) -> bool:
    """Whether what keeps this local activity is there: the input that a record names, or what was put in its place."""
    return any(
        given.seq == command.wake or (given.kind is InputKind.start and (given.what, given.run) == (command.id, run))
        for given in inputs
    )


def _of_kind(entry: Entry, kind: WaitKind) -> Iterator[Wait]:
    return (wait for wait in entry.summary.waits if wait.kind == kind)
