"""The schedules: every supervisor takes ticks, the acting one sees to it that there are any.

A tick is handed to one supervisor, whichever lives, and to the next one a second later if that one is silent. Whoever
has it reads the record, begins what is due, writes down what became of it, arms the next tick, and acknowledges. Each
step may be done twice: a run is known by its id, the record is written by compare-and-set, a tick is armed on a subject
of its own. So it does not matter which of them is the last that somebody did before he died.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from turnout.bounded import each
from turnout.core.schedule import ScheduleRecord, advance, oldest_due
from turnout.crashpoints import reach
from turnout.errors import TurnoutError
from turnout.nats.connection import Disconnected, Message
from turnout.nats.messages import level_of
from turnout.nats.pull import Puller, Room, Source
from turnout.nats.stream import ACK, delivery_of, nak
from turnout.once import log_rarely
from turnout.store.consumers import TICKS
from turnout.store.perform import Performer, Store
from turnout.store.records import Conflict
from turnout.store.scheduled_runs import ScheduledRuns
from turnout.store.topology import Topology
from turnout.supervisor.apply import chunks
from turnout.telemetry import metrics

logger = logging.getLogger("turnout.supervisor")

_AT_ONCE = 64
_CHUNK = 256
_AGAIN_S = (0.25, 2.0)
_START_AGAIN_S = 2.0

_NEAR_S = 120.0
"""So early a lost tick is armed again: several rounds of the duty before its time."""

_ASKED_S = 1.0
"""How long a request for ticks stands. What dies with its machine is handed ticks for so long, and holds them up."""


class Ticks:
    """Deals with the ticks that this supervisor is handed, until cancelled."""

    def __init__(self, store: Store, performer: Performer) -> None:
        self._store = store
        self._runs = ScheduledRuns(store, performer)
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = Room(_AT_ONCE)

    async def run(self) -> None:
        """Take ticks. Trouble with the connection is outwaited."""
        topology = Topology(self._store.connection, self._store.names)

        async def ensure(_update: bool) -> None:
            await topology.ensure_tick_consumer()

        source = Source(stream=self._store.names.work, consumer=TICKS, ensure=ensure)
        self._puller = Puller(self._store.connection, source, self._room, self._take, expires_s=_ASKED_S)
        try:
            while True:
                try:
                    await self._start()
                    await self._puller.run()
                except Exception:  # nobody else takes the ticks of this process: whatever it meets, it must go on
                    logger.exception("taking ticks of schedules has stumbled, it begins anew")
                    await asyncio.sleep(_START_AGAIN_S)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _start(self) -> None:
        while True:
            try:
                await self._puller.start()
                return
            except TurnoutError as error:
                level = level_of(error, logging.WARNING)
                log_rarely(logger, level, "ticks", "ticks of schedules can't be taken yet: %s", error)
                await asyncio.sleep(_START_AGAIN_S)

    def _take(self, message: Message) -> None:
        self._room.take()
        self._keep(self._deal(message))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="tick")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deal(self, message: Message) -> None:
        """Whatever goes wrong, the tick comes again."""
        again_s: float | None = _AGAIN_S[1]
        name = self._store.names.schedule_of(message.subject)
        try:
            again_s = await self._advance(name, message) if name is not None else None
        except TurnoutError as error:
            level = level_of(error, logging.WARNING)
            log_rarely(logger, level, f"tick {name}", "schedule %s can't be looked after now: %s", name, error)
        except Exception:  # whatever this schedule does to its reader, there are others
            logger.exception("the supervisor has stumbled over schedule %s, it goes on", name)
        finally:
            self._room.give()
            self._puller.freed()
        reach("schedule.armed")
        try:
            body = ACK if again_s is None else nak(again_s)
            self._store.connection.send(message.reply, body)
        except Disconnected:
            pass  # it is handed over again

    async def _advance(self, name: str, message: Message) -> float | None:
        """Deal with what is due; in how many seconds to look again, None when the next tick does that."""
        number, _, stored_ns = delivery_of(message.reply) or (1, 0, 0)
        again = number > 1
        while True:
            kept = await self._store.schedules.load(name)
            record = kept.record
            if record is None:
                return None
            # The server has brought it: by its clock it is due, however ours was measured.
            now = max(self._store.connection.now(), stored_ns / 1e9)
            try:
                saved = await self._step(record, kept.revision, now, again=again)
            except Conflict:
                again = True
                continue
            if saved.paused or not saved.backlog:
                return None
            # Something waits for a run's end: one message of the schedule comes again and again until it has begun.
            if not message.subject.endswith(".now"):
                await self._store.schedules.wake(name)
                return None
            return min(_AGAIN_S[0] * (1 + number / 20), _AGAIN_S[1])

    async def _step(self, record: ScheduleRecord, revision: int, now: float, *, again: bool) -> ScheduleRecord:
        """The record as it is then, with its next tick armed. `again`: somebody may have been here before."""
        due = oldest_due(record, now)
        if record.paused or (due is None and not record.backlog):
            await self._store.schedules.arm(record)
            return record
        active = await self._runs.going_on(record.job, record.previous)
        fresh = due is not None and not again and not due.missed
        begun = (
            due is not None and not fresh and await self._runs.stands(record.job, record.run_id(due.tick)) is not None
        )
        turn = advance(record, now, active=active, begun=begun)
        if turn.record == record:
            await self._store.schedules.arm(record)
            return record
        if turn.cancel:
            await self._runs.cancel(record.job, turn.cancel, f"schedule {record.name}: the next run is due")
        for tick in turn.starts:
            # It has begun whatever becomes of the record, which somebody else may write at the same time.
            metrics.advanced(record.job.name, fired=await self._runs.begin(record, record.run_id(tick), fresh=fresh))
            reach("schedule.begun")
        saved = await self._store.schedules.save(turn.record, revision)
        reach("schedule.saved")
        await self._store.schedules.arm(turn.record)
        metrics.advanced(record.job.name, missed=turn.missed, skipped=turn.skipped)
        assert saved.record is not None
        return saved.record


class Rearming:
    """Arms the ticks of all schedules again that are near: most are armed, and then nothing happens.

    A duty of the acting supervisor.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def look(self) -> None:
        """Errors are those of the connection."""
        near = self._store.connection.now() + _NEAR_S
        records = [record async for record in self._store.schedules.scan()]
        for some in chunks(records, _CHUNK):
            await each(lambda record: self._arm(record, near), some, _AT_ONCE)

    async def _arm(self, record: ScheduleRecord, near: float) -> None:
        try:
            if not _to_look_at(record, near):
                return
            await self._store.schedules.arm(record)
            if record.backlog:
                await self._store.schedules.wake(record.name)
        except TurnoutError:
            raise
        except Exception:  # whatever this schedule does to its reader, there are others
            logger.exception("the supervisor has stumbled over schedule %s, it goes on", record.name)


def _to_look_at(record: ScheduleRecord, near: float) -> bool:
    """Whether something of the schedule is due by then."""
    tick = record.next_tick
    return not record.paused and (bool(record.backlog) or (tick is not None and tick <= near))
