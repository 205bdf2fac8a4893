"""The interpreter of a workflow's records: performs what `effects_of()` a record wants done (W2).

Everything here is idempotent by name: what is there is joined. Whoever finds a record whose writer may have died
behind it has the same effects performed again.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterable
from typing import assert_never

import attrs

from turnout import crashpoints
from turnout.bounded import each
from turnout.core.events import CancelRequested, Submitted
from turnout.core.spec import Asker, JobSpec
from turnout.core.workflows.effects import (
    CancelJob,
    ClearTimer,
    ClearTimers,
    Dispatch,
    Effect,
    EndChild,
    PurgeRecords,
    ScheduleCollection,
    SendCancel,
    SendJoin,
    SendSignal,
    SetTimer,
    StartChild,
    Tell,
    Wake,
    effects_of,
)
from turnout.core.workflows.jobs import job_of
from turnout.core.workflows.standing import forks
from turnout.core.workflows.values import InputKind, Record
from turnout.nats.once import SubjectTaken
from turnout.store.histories import Stored
from turnout.store.others import Others
from turnout.store.perform import Performer, Store
from turnout.store.records import Versioned
from turnout.telemetry import metrics
from turnout.wire import histories as wire

IN_FLIGHT = 256
"""How many effects of one record are under way at once."""

_TOGETHER = (Dispatch, SetTimer, StartChild, SendSignal, SendCancel, SendJoin, CancelJob, EndChild, ClearTimer)
"""The effects that don't depend on each other; the rest follow one by one, in order."""

_TOGETHER_IN_FORKS = tuple(set(_TOGETHER) - {SendSignal, SendCancel, SendJoin})
"""There a child may be started by the same record that sends it something."""


class Committer:
    """Performs the effects of records. Errors are those of the connection: performed again, all is well."""

    def __init__(self, store: Store, performer: Performer | None = None) -> None:
        self._store = store
        self._performer = performer or Performer(store)
        self._others = Others(store, self.commit)

    async def commit(self, stored: Stored, ended: Collection[str] = ()) -> None:
        """Perform the effects of this record. `ended` are the commands whose end is in the inbox already."""
        effects = effects_of(stored.record, ended)
        if not effects:
            return
        together = _TOGETHER_IN_FORKS if forks(stored.record) else _TOGETHER
        await self._perform_together(stored, [effect for effect in effects if isinstance(effect, together)])
        for effect in effects:
            if not isinstance(effect, together):
                await self.perform(stored, effect)

    async def _perform_together(self, stored: Stored, effects: Iterable[Effect]) -> None:
        waiting = list(effects)
        while waiting:
            part, waiting = waiting[:IN_FLIGHT], waiting[IN_FLIGHT:]
            await each(functools.partial(self.perform, stored), part, IN_FLIGHT)

    async def perform(self, stored: Stored, effect: Effect) -> None:
        """Perform one effect of this record's run."""
        if crashpoints.ARMED:
            crashpoints.reach(f"workflow.{type(effect).__name__}")
        record, inbox = stored.record, self._store.inbox
        match effect:
            case Dispatch():
                await self._dispatch(record, effect)
            case CancelJob():
                await self._cancel_job(effect)
            case SetTimer(command, run, at):
                await inbox.schedule(_asker(record, command, run), at)
            case ClearTimer(command, run):
                await inbox.clear_timers(record.name, record.id, record.life, run, command)
            case ClearTimers(run):
                await inbox.clear_timers(record.name, record.id, record.life, run)
            case StartChild() | EndChild() | SendSignal() | SendCancel() | SendJoin():
                await self._reach(record, effect)
            case Tell(asker, ending):
                await inbox.tell(asker, InputKind.done, ending)
            case Wake(command):
                headers = wire.input_headers(life=record.life, run=record.done_run if command else 0, command=command)
                await inbox.append(record.name, record.id, InputKind.start, headers=headers)
            case PurgeRecords():
                await self._store.histories.purge_before(record.id, stored.seq)
            case ScheduleCollection(at):
                await inbox.schedule_collection(record.name, record.id, record.life, at)
            case _:
                assert_never(effect)

    async def _reach(self, record: Record, effect: StartChild | EndChild | SendSignal | SendCancel | SendJoin) -> None:
        """What is done to another workflow."""
        others = self._others
        match effect:
            case StartChild(command, key):
                await others.start_child(record, command, key, record.asker(command.id))
            case EndChild():
                await others.end_child(effect)
            case SendSignal(command, key):
                await others.signal(command, key, record.asker(command.id))
            case SendCancel(command, key):
                await others.cancel(command, key, record.asker(command.id))
            case SendJoin(command):
                await others.join(command.target, record.asker(command.id))
            case _:
                assert_never(effect)

    async def _dispatch(self, record: Record, effect: Dispatch) -> None:
        """Submit the activity's job; one that is there already is this command's own, and so is its large payload."""
        key = hashlib.sha256(effect.key.encode()).hexdigest()[:12]
        payload = await self._store.payloads.copied(effect.command.body, "payload", effect.key, key)
        own = payload is effect.command.body
        spec = job_of(record, effect.command if own else attrs.evolve(effect.command, body=payload), effect.key)
        event = Submitted(spec=spec, nonce=self._store.chance.nonce(), at=effect.command.at)
        try:
            await self._performer.apply(spec.activity, spec.id, event, Versioned() if event.at is None else None)
        except SubjectTaken:
            return
        metrics.submitted(spec.activity)

    async def _cancel_job(self, effect: CancelJob) -> None:
        now = self._store.connection.now()
        found = await self._store.queue.find_named(effect.activity, effect.key)
        unsubmitted = JobSpec(effect.key, effect.activity, submitted_at=now)
        event = CancelRequested(reason=effect.reason, now=now, delivery=found, unsubmitted=unsubmitted)
        await self._performer.apply(effect.activity, effect.key, event)


def _asker(record: Record, command: str, run: int) -> Asker:
    return Asker(record.id, record.name, record.life, run, command)
