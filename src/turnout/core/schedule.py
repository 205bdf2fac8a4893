"""Schedules: when an activity or a workflow is to run again and again, and what becomes of each tick.

Pure. A tick is an instant of the plan in unix seconds, and is due `jitter` later at most. `advance` decides about all
ticks that are due: which begin a run, which are skipped, which wait for the run before. Everything up to `cursor` is
dealt with; so what was missed is known from the record alone, whoever reads it.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import math
import re
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import attrs

from turnout.core import cron as cron_expressions
from turnout.core.evolve import evolve
from turnout.core.plain import Plain
from turnout.core.retry import seconds
from turnout.core.spec import NO_OPTIONS, SubmitOptions
from turnout.core.struct import struct
from turnout.errors import InvalidValue

Overlap = Literal["skip", "queue", "allow", "cancel"]
CatchUp = Literal["one", "none", "all"]

LATE_S = 3.0
"""A tick that nobody could fire for so long is missed; before that it is late, and runs."""

CAUGHT_UP_MOST = 1000
"""How many missed ticks run when all are to be caught up, and how many a backfill may have."""

RECENT = 10
NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_YEAR_2000 = datetime(2000, 1, 1, tzinfo=UTC).timestamp()


def schedule_name(value: object) -> str:
    """`value` if it may be a schedule's name: with a time behind it, it becomes the id of a run."""
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    raise InvalidValue(f"a schedule's name must match [A-Za-z0-9_-]{{1,40}}, not {value!r}")


def _every(value: float | timedelta | None) -> float | None:
    return None if value is None else seconds(value, "every", least=1.0)


def _jitter(value: float | timedelta) -> float:
    return seconds(value, "jitter")


def _aware(_instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidValue(f"{attribute.name} must be a datetime with a time zone, not {value!r}")


def _choice(choices: tuple[str, ...]) -> Any:
    def check(_instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in choices:
            listed = ", ".join(f'"{each}"' for each in choices)
            raise InvalidValue(f"{attribute.name} must be one of {listed}, not {value!r}")

    return check


def _timezone(_instance: Any, _attribute: Any, value: object) -> None:
    zone_of(value)


def zone_of(name: object) -> zoneinfo.ZoneInfo:
    """The time zone of this name; InvalidValue names the nearest one when there is none."""
    try:
        if isinstance(name, str) and name:
            return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        pass
    near = difflib.get_close_matches(str(name), zoneinfo.available_timezones(), 1)
    hint = f"did you mean {near[0]!r}?" if near else "it takes names such as 'Europe/Berlin', and 'UTC'"
    raise InvalidValue(f"timezone: there is no {name!r}; {hint}")


@attrs.frozen(kw_only=True)
class Schedule(Plain):
    """When something is to run, again and again: `cron` or `every`, one of them.

    `cron`: 5 fields, or 6 with seconds first, in `timezone`. `every`: seconds (1 and up) or a timedelta, in real time
    from `start`, else from the schedule's creation. `start` and `end`: aware datetimes, no tick before or after.
    `overlap`: what a tick does while the run before goes on: "skip" it, "queue" it (one waits at most), "allow" both,
    "cancel" the old one. `catch_up` after a downtime or a pause: the last missed tick ("one"), "none", or "all" (1,000
    at most). `jitter`: each run begins up to so many seconds later.

    >>> Schedule(cron="0 3 * * *", timezone="Europe/Berlin").cron
    '0 3 * * *'
    """

    cron: str | None = None
    every: float | None = attrs.field(default=None, converter=_every)
    timezone: str = attrs.field(default="UTC", validator=_timezone)
    start: datetime | None = attrs.field(default=None, validator=_aware)
    end: datetime | None = attrs.field(default=None, validator=_aware)
    overlap: Overlap = attrs.field(default="skip", validator=_choice(get_args(Overlap)))
    catch_up: CatchUp = attrs.field(default="one", validator=_choice(get_args(CatchUp)))
    jitter: float = attrs.field(default=0.0, converter=_jitter)

    def __attrs_post_init__(self) -> None:
        if (self.cron is None) == (self.every is None):
            raise InvalidValue("a schedule takes cron or every, one of them: Schedule(cron='0 3 * * *')")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise InvalidValue(f"end must be later than start, {self.end} is not later than {self.start}")
        if self.cron is None:
            return
        if not isinstance(self.cron, str):
            raise InvalidValue(f"cron must be text such as '0 3 * * *', not {self.cron!r}")
        if _next_of_cron(self.cron, "UTC", _YEAR_2000) is None:
            raise InvalidValue(
                f"cron {self.cron!r} never fires: no month that it names has such a day (L is a month's last day)"
            )
        if self.start is not None and self.end is not None and self.next_tick(0.0, -math.inf) is None:
            raise InvalidValue(
                f"cron {self.cron!r} never fires between its start, {self.start}, and its end, {self.end}:"
                f" its times are those of {self.timezone}"
            )

    def next_tick(self, created_at: float, after: float, *, earlier: bool = False) -> float | None:
        """The first tick later than `after`; None when there is none any more. `earlier`: also before the creation."""
        if self.start is not None:
            after = max(after, math.nextafter(self.start.timestamp(), -math.inf))
        if self.every is not None:
            tick: float | None = self._next_of_every(created_at, after, earlier=earlier)
        else:
            assert self.cron is not None
            tick = _next_of_cron(self.cron, self.timezone, after)
        if tick is None or (self.end is not None and tick > self.end.timestamp()):
            return None
        return tick

    def _next_of_every(self, created_at: float, after: float, *, earlier: bool) -> float:
        assert self.every is not None
        # What is not given a start begins with a whole second: ticks are then what people read in ids.
        anchor, first = (self.start.timestamp(), 0) if self.start is not None else (float(math.ceil(created_at)), 1)
        number = math.floor((after - anchor) / self.every) + 1
        tick = anchor + (number if earlier else max(first, number)) * self.every
        return tick if tick > after else tick + self.every

    def ticks(self, created_at: float, after: float, until: float, *, earlier: bool = False) -> Iterator[float]:
        """The ticks later than `after`, up to `until`."""
        tick = self.next_tick(created_at, after, earlier=earlier)
        while tick is not None and tick <= until:
            yield tick
            tick = self.next_tick(created_at, tick, earlier=earlier)

    def last_ticks(self, created_at: float, after: float, until: float, most: int) -> list[float]:
        """The last `most` ticks later than `after`, up to `until`: found without going through all before them."""
        window = 64.0
        while True:
            begin = max(after, until - window)
            found = list(self.ticks(created_at, begin, until))
            if len(found) >= most or begin <= after:
                return found[-most:]
            window *= 4


@functools.lru_cache(maxsize=4096)
def _next_of_cron(cron: str, timezone: str, after: float) -> int | None:
    """The next tick, which several steps of one turn ask for, and many schedules of one plan."""
    expression, zone = cron_expressions.parse(cron), zone_of(timezone)
    try:
        return expression.next_instant(zone, after)
    except (OverflowError, ValueError):
        return None  # the calendar ends with the year 9999


@struct
class Run:
    """A tick that was dealt with: the run's id, or why there is none."""

    due_at: float
    id: str
    skipped: str = ""


@struct
class Job:
    """What a run of a schedule is: a job of an activity, or a workflow. `payload` is JSON; `retention` a workflow's."""

    kind: str
    name: str
    payload: str = "{}"
    options: SubmitOptions = NO_OPTIONS
    retention: float | None = None

    @property
    def is_workflow(self) -> bool:
        return self.kind == "workflow"


@struct(slots=False)
class ScheduleRecord:
    """All that is known of a schedule. `cursor`: every tick up to there is dealt with. `previous`: the run that
    the last tick has begun. `backlog`: ticks that wait for its end. `headers`: those of whoever added it, for traces.
    `paused_at`, `resumed_at`: the last pause, whose ticks nobody was to fire.
    """

    name: str
    schedule: Schedule
    job: Job
    created_at: float
    cursor: float
    paused: bool = False
    note: str = ""
    previous: str = ""
    backlog: tuple[float, ...] = ()
    recent: tuple[Run, ...] = ()
    headers: dict[str, str] = attrs.field(factory=dict)
    paused_at: float = 0.0
    resumed_at: float = 0.0

    def pause(self, note: str, now: float) -> ScheduleRecord:
        """Paused from now on, or with another note."""
        return evolve(self, paused=True, note=note, paused_at=self.paused_at if self.paused else now)

    def resume(self, now: float) -> ScheduleRecord:
        return evolve(self, paused=False, note="", resumed_at=now) if self.paused else self

    def was_paused(self, tick: float) -> bool:
        """Whether nobody was to fire this tick: the schedule was paused when it was due."""
        return self.paused_at <= self.due_at(tick) <= self.resumed_at

    @property
    def next_tick(self) -> float | None:
        """The first tick that is not dealt with."""
        return self.schedule.next_tick(self.created_at, self.cursor)

    def due_at(self, tick: float) -> float:
        """When a tick's run is to begin: the jitter follows from name and tick, so that everybody agrees on it."""
        if not self.schedule.jitter:
            return tick
        digest = hashlib.sha256(f"{self.name}/{tick}".encode()).digest()
        return tick + self.schedule.jitter * int.from_bytes(digest[:6], "big") / 2**48

    def run_id(self, tick: float) -> str:
        return run_id(self.name, tick)

    def with_runs(self, *runs: Run) -> ScheduleRecord:
        """With these among the recent ones, of which the last by their time are kept, each id once."""
        known = {run.id: run for run in (*self.recent, *runs)}
        recent = sorted(known.values(), key=lambda run: run.due_at)
        return evolve(self, recent=tuple(recent[-RECENT:]))


def run_id(name: str, tick: float) -> str:
    """The id of the run of a tick.

    >>> run_id("nightly", 1767322800)
    'nightly-20260102T030000Z'
    """
    return f"{name}-{datetime.fromtimestamp(math.floor(tick), UTC):%Y%m%dT%H%M%SZ}"


@struct
class Advance:
    """What is to be done about a schedule: cancel a run, begin the runs of some ticks, then save the record.

    `missed` and `skipped` count what does not run: what nobody could fire, and what another run has kept from it.
    """

    record: ScheduleRecord
    starts: tuple[float, ...] = ()
    cancel: str = ""
    missed: int = 0
    skipped: int = 0


@struct
class Due:
    """The first tick that is due and not dealt with, and whether it is missed."""

    tick: float
    missed: bool


def oldest_due(record: ScheduleRecord, now: float) -> Due | None:
    """What is due first; None when nothing is."""
    tick = record.next_tick
    if tick is None or record.paused or record.due_at(tick) > now:
        return None
    return Due(tick, now - record.due_at(tick) > LATE_S)


def advance(record: ScheduleRecord, now: float, *, active: bool, begun: bool = False) -> Advance:
    """Deal with all that is due. `active`: the previous run goes on. `begun`: the run of the oldest tick that is due is
    there already, by somebody who died before he could write that down."""
    if record.paused:
        return Advance(record)
    turn = _Turn(record, active)
    turn.begin_waiting()
    until = _last_due(record, now)
    if until is None:
        return turn.result()
    late_from = record.cursor
    missed_until = _last_missed(record, now, until)
    if begun and (first := record.next_tick) is not None:
        turn.begin(first)
        late_from = first
    if missed_until is not None:
        if missed_until > late_from:
            _catch_up(turn, late_from, missed_until)
        late_from = max(late_from, missed_until)
    together = record.schedule.catch_up == "all" and until != record.next_tick
    for tick in record.schedule.ticks(record.created_at, late_from, until):
        turn.take(tick, in_turn=together)
    turn.record = evolve(turn.record, cursor=until)
    return turn.result()


def _last_due(record: ScheduleRecord, now: float) -> float | None:
    """The last of the ticks that are due one after the other; with a jitter the order is that of the ticks."""
    first = record.next_tick
    if first is None or record.due_at(first) > now:
        return None
    second = record.schedule.next_tick(record.created_at, first)
    if second is None or record.due_at(second) > now:
        return first  # as it nearly always is
    found = record.schedule.last_ticks(record.created_at, record.cursor, now, 1)
    if not found or not record.schedule.jitter:
        return found[0] if found else None
    # Those that are far in the past are due whatever their jitter is.
    sure = now - record.schedule.jitter
    last = next(iter(record.schedule.last_ticks(record.created_at, record.cursor, sure, 1)), None)
    for tick in record.schedule.ticks(record.created_at, max(record.cursor, sure), now):
        if record.due_at(tick) > now:
            break
        last = tick
    return last


def _last_missed(record: ScheduleRecord, now: float, until: float) -> float | None:
    """The last of the ticks up to `until` that are too late to be fired as a matter of course."""
    if until == record.next_tick:
        return until if now - record.due_at(until) > LATE_S else None
    limit = min(until, now - LATE_S)
    for tick in reversed(record.schedule.last_ticks(record.created_at, record.cursor, limit, 64)):
        if now - record.due_at(tick) > LATE_S:
            return tick
    sure = min(until, now - LATE_S - record.schedule.jitter - 1e-6)
    return next(iter(record.schedule.last_ticks(record.created_at, record.cursor, sure, 1)), None)


def _catch_up(turn: _Turn, after: float, until: float) -> None:
    """The ticks later than `after`, up to `until`, were missed."""
    schedule, created_at = turn.record.schedule, turn.record.created_at
    most = {"none": 0, "one": 1, "all": CAUGHT_UP_MOST}[schedule.catch_up]
    last = schedule.last_ticks(created_at, after, until, most + RECENT)
    begins = last[len(last) - most :] if most < len(last) else last
    gone = last[: len(last) - len(begins)]
    for tick in gone:
        turn.miss(tick)
    for tick in begins:
        turn.take(tick, in_turn=schedule.catch_up == "all")


class _Turn:
    """What has come together so far."""

    def __init__(self, record: ScheduleRecord, active: bool) -> None:
        self.record = record
        self._active = active
        self._starts: list[float] = []
        self._cancel = ""
        self._missed = 0
        self._skipped = 0

    def result(self) -> Advance:
        return Advance(self.record, tuple(self._starts), self._cancel, self._missed, self._skipped)

    def begin_waiting(self) -> None:
        """Begin what waits for the end of the previous run, if that has come."""
        while self.record.backlog and (not self._active or self.record.schedule.overlap == "allow"):
            first, *rest = self.record.backlog
            self.record = evolve(self.record, backlog=tuple(rest))
            self.begin(first)

    def take(self, tick: float, *, in_turn: bool = False) -> None:
        """A tick that is to run, unless the previous run keeps it from that. `in_turn`: it waits however many do."""
        backlog, overlap = self.record.backlog, self.record.schedule.overlap
        if overlap == "allow" or not (self._active or backlog):
            self.begin(tick)
        elif overlap == "cancel":
            for waiting in backlog:
                self.skip(waiting, "a later tick came before it could begin")
            if not self._starts:
                self._cancel = self.record.previous
                self.record = evolve(self.record, backlog=(tick,))
            else:  # what was to begin in this very turn has not begun: the later tick takes its place
                self.skip(self._starts.pop(), "a later tick came before it could begin")
                self.begin(tick)
        elif in_turn or (overlap == "queue" and not backlog):
            self.record = evolve(self.record, backlog=(*backlog, tick))
        elif overlap == "queue":
            self.skip(tick, "another tick waits already")
        else:
            self.skip(tick, f"{self.record.previous} goes on still")

    def begin(self, tick: float) -> None:
        begun = self.record.run_id(tick)
        self._starts.append(tick)
        self._active = True
        self.record = evolve(self.record, previous=begun).with_runs(Run(tick, begun))

    def skip(self, tick: float, why: str) -> None:
        self._skipped += 1
        self.record = self.record.with_runs(Run(tick, self.record.run_id(tick), why))

    def miss(self, tick: float) -> None:
        why = "missed: the schedule was paused"
        if not self.record.was_paused(tick):
            self._missed += 1
            why = "missed: nobody could fire it in time"
        self.record = self.record.with_runs(Run(tick, self.record.run_id(tick), why))
