"""`ScheduleHandle`: one schedule, by its name: ask how it is, pause, resume, run, backfill or delete it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable

from turnout.bounded import each
from turnout.client.away import outwaits
from turnout.client.handle import AnyHandle
from turnout.client.schedules.info import ScheduleInfo, schedule_info
from turnout.client.workflows.handle import AnyWorkflowHandle
from turnout.core.failure import one_line
from turnout.core.schedule import CAUGHT_UP_MOST, Job, Run, ScheduleRecord, run_id
from turnout.errors import InvalidValue, ScheduleNotFound
from turnout.store.perform import Store
from turnout.store.records import Conflict
from turnout.store.scheduled_runs import ScheduledRuns

RunHandle = AnyHandle | AnyWorkflowHandle
_AT_ONCE = 16


class ScheduleHandle:
    """One schedule, by its name. Made by `Client.add_schedule` and `Client.schedule`; holds no state of it.

    schedule = client.schedule("nightly")
    print((await schedule.info()).next)
    """

    def __init__(self, name: str, store: Store, runs: ScheduledRuns, of_run: Callable[[Job, str], RunHandle]) -> None:
        self.name = name
        self._store = store
        self._runs = runs
        self._of_run = of_run

    def __repr__(self) -> str:
        return f"<ScheduleHandle {self.name}>"

    @outwaits
    async def info(self) -> ScheduleInfo:
        """The schedule as it stands. ScheduleNotFound when there is none."""
        return await info_of(self._store, self._runs, (await self._load())[0])

    @outwaits
    async def pause(self, note: str = "") -> None:
        """Fire no more until `resume`. The note is kept, and shown. Runs that have begun go on."""
        if not isinstance(note, str):
            raise InvalidValue(f"note must be text, not {note!r}")
        now = self._store.connection.now()
        await self._change(lambda record: record.pause(one_line(note), now))

    @outwaits
    async def resume(self) -> None:
        """Fire again; what was missed meanwhile goes by the schedule's `catch_up`."""
        now = self._store.connection.now()
        await self._change(lambda record: record.resume(now))
        await self._store.schedules.wake(self.name)

    @outwaits
    async def trigger(self) -> RunHandle:
        """Run it now, also while it is paused, whatever else runs, and leave the plan alone. The run's handle."""
        record, _ = await self._load()
        now = self._store.connection.now()
        begun = f"{run_id(self.name, now)}-{self._store.chance.nonce(3)}"
        await self._runs.begin(record, begun)
        await self._note([Run(now, begun)])
        return self._of_run(record.job, begun)

    @outwaits
    async def backfill(self, start: dt.datetime, end: dt.datetime) -> list[RunHandle]:
        """Run each tick of the plan from `start` to `end`, which lie in the past; their handles, the oldest first.

        A tick whose run is there already, as long as its record is kept, is not run again: its handle stands for it.
        At most 1,000 ticks, all at once: what limits the activity limits them.
        """
        record, _ = await self._load()
        ids = {record.run_id(tick): tick for tick in self._backfilled(record, start, end)}
        begun = await each(lambda name: self._runs.begin(record, name), list(ids), _AT_ONCE)
        await self._note([Run(ids[name], name) for name, new in zip(ids, begun, strict=True) if new])
        return [self._of_run(record.job, name) for name in ids]

    @outwaits
    async def delete(self) -> None:
        """Remove the schedule, and its ticks. Runs that have begun go on."""
        while True:
            _, revision = await self._load()
            try:
                await self._store.schedules.delete(self.name, revision)
            except Conflict:
                continue
            return

    def _backfilled(self, record: ScheduleRecord, start: dt.datetime, end: dt.datetime) -> list[float]:
        for name, value in (("start", start), ("end", end)):
            if not isinstance(value, dt.datetime) or value.utcoffset() is None:
                raise InvalidValue(f"{name} must be a datetime with a time zone, not {value!r}")
        if end < start:
            raise InvalidValue(f"end must not be earlier than start: {end} is earlier than {start}")
        if end.timestamp() > self._store.connection.now():
            raise InvalidValue(f"end must not be in the future, as {end} is: what is to come runs at its time")
        after = math.nextafter(start.timestamp(), -math.inf)
        found = []
        for tick in record.schedule.ticks(record.created_at, after, end.timestamp(), earlier=True):
            found.append(tick)
            if len(found) > CAUGHT_UP_MOST:
                raise InvalidValue(f"a backfill takes at most {CAUGHT_UP_MOST:,} ticks: ask for a shorter time")
        return found

    async def _note(self, runs: list[Run]) -> None:
        if runs:
            await self._change(lambda record: record.with_runs(*runs))

    async def _load(self) -> tuple[ScheduleRecord, int]:
        kept = await self._store.schedules.load(self.name)
        if kept.record is None:
            raise ScheduleNotFound(f"there is no schedule {self.name} in namespace {self._store.names.ns}")
        return kept.record, kept.revision

    async def _change(self, change: Callable[[ScheduleRecord], ScheduleRecord]) -> None:
        while True:
            record, revision = await self._load()
            changed = change(record)
            if changed == record:
                return
            try:
                await self._store.schedules.save(changed, revision)
            except Conflict:
                continue
            return


async def info_of(store: Store, runs: ScheduledRuns, record: ScheduleRecord) -> ScheduleInfo:
    """The schedule as users see it, and how its recent runs stand."""
    ids = [run.id for run in record.recent if not run.skipped]
    found = await each(lambda name: runs.stands(record.job, name), ids, _AT_ONCE)
    return schedule_info(record, store.connection.now(), dict(zip(ids, found, strict=True)))
