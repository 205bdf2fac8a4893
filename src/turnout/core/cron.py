"""Cron expressions: what they say, and the next instant that one means in a time zone.

Five fields (minute, hour, day of the month, month, day of the week) or six, with seconds first. Where both days are
given, either will do. An expression with fixed hours fires once a day for each of its times: one that a clock change
skips fires at the first instant after the gap, one that comes twice at its first. Where the hour is `*` or `*/n` each
real hour counts.

Pure: time zones come from the standard library's tables, and instants are unix seconds.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from turnout.core.struct import struct
from turnout.errors import InvalidValue

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_WEEKDAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}

_DAY = 86_400
_HORIZON = 41 * 366 * _DAY
"""Whatever fires at all does so within 40 years: the rarest is a fifth weekday of February, over 2100."""
_CHUNK = 400 * _DAY
_LAST = -1
_NTH = re.compile(r"([a-z0-9]+)#([1-5])")
_LAST_WEEKDAY = re.compile(r"l([0-7])|([0-7]|[a-z]{3})l")


@struct
class Cron:
    """A parsed expression; weekdays count from Sunday as 0, and `nth` has pairs of a weekday and its number in the
    month, -1 for the last one."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    last_day: bool
    months: frozenset[int]
    weekdays: frozenset[int]
    nth: frozenset[tuple[int, int]]
    any_day: bool
    any_weekday: bool
    any_hour: bool

    def next_instant(self, zone: ZoneInfo, after: float) -> int | None:
        """The first instant later than `after`; None when there is none in the next 40 years."""
        first = math.floor(after) + 1
        covered: datetime | None = None
        for stretch in _stretches(zone, first, first + _HORIZON):
            low, high = stretch.local(stretch.start), stretch.local(stretch.end)
            begin = max(low, stretch.local(first))
            if not self.any_hour and covered is not None:
                skipped = stretch.start >= first and covered < low
                if skipped and self._first_match(covered, low) is not None:
                    return stretch.start
                begin = max(begin, covered)
            found = self._first_match(begin, high)
            if found is not None:
                return stretch.instant(found)
            covered = high if covered is None else max(covered, high)
        return None

    def _first_match(self, begin: datetime, stop: datetime) -> datetime | None:
        """The first local time from `begin` on, and before `stop`, that the expression means."""
        day, earliest = begin.date(), (begin.hour, begin.minute, begin.second)
        last = stop.date()
        while day <= last:
            if day.month not in self.months:
                day, earliest = _next_month(day), (0, 0, 0)
                continue
            time = self._first_time(*earliest) if self._means_day(day) else None
            if time is not None:
                found = datetime(day.year, day.month, day.day, *time)  # noqa: DTZ001 - local times have no zone here
                return found if found < stop else None
            day, earliest = day + timedelta(days=1), (0, 0, 0)
        return None

    def _first_time(self, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        for h in self.hours:
            if h > hour:
                return h, self.minutes[0], self.seconds[0]
            for m in self.minutes if h == hour else ():
                if m > minute:
                    return h, m, self.seconds[0]
                for s in self.seconds if m == minute else ():
                    if s >= second:
                        return h, m, s
        return None

    def _means_day(self, day: date) -> bool:
        if self.any_day and self.any_weekday:
            return True
        by_day = not self.any_day and (day.day in self.days or (self.last_day and _is_last(day)))
        by_weekday = not self.any_weekday and self._means_weekday(day)
        return by_day or by_weekday

    def _means_weekday(self, day: date) -> bool:
        weekday = day.isoweekday() % 7
        if weekday in self.weekdays or (weekday, (day.day - 1) // 7 + 1) in self.nth:
            return True
        return (weekday, _LAST) in self.nth and (day + timedelta(days=7)).month != day.month


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> Cron:
    """The expression of this text; InvalidValue says what is wrong with it, and what would be right."""
    fields = _NICKNAMES.get(text.strip().lower(), text).split()
    if len(fields) == 1 and fields[0].startswith("@"):
        raise InvalidValue(f"cron {text!r}: there is no {fields[0]}; there are {', '.join(_NICKNAMES)}, and every=")
    if len(fields) not in (5, 6):
        raise InvalidValue(
            f"cron {text!r} has {len(fields)} fields; it takes 5 (minute hour day month weekday), or 6, seconds first"
        )
    second, minute, hour, day, month, weekday = fields if len(fields) == 6 else ["0", *fields]
    last_day, days = _days(text, day)
    nth, weekdays = _weekdays(text, weekday)
    return Cron(
        seconds=_numbers(_Field(text, "second", 0, 59), second),
        minutes=_numbers(_Field(text, "minute", 0, 59), minute),
        hours=_numbers(_Field(text, "hour", 0, 23), hour),
        days=days,
        last_day=last_day,
        months=frozenset(_numbers(_Field(text, "month", 1, 12, _MONTHS), month)),
        weekdays=weekdays,
        nth=nth,
        any_day=day in ("*", "?"),
        any_weekday=weekday in ("*", "?"),
        any_hour=hour.startswith("*"),
    )


_NO_NAMES: dict[str, int] = {}


@struct
class _Field:
    text: str
    name: str
    least: int
    most: int
    names: dict[str, int] = _NO_NAMES

    def wrong(self, part: str, why: str) -> InvalidValue:
        return InvalidValue(f"cron {self.text!r}, {self.name} {part!r}: {why}")

    def number(self, word: str, part: str) -> int:
        known = self.names.get(word.lower())
        if known is not None:
            return known
        if not word.isdecimal() or not self.least <= int(word) <= self.most:
            names = f", or {', '.join(self.names)}" if self.names else ""
            raise self.wrong(part, f"it must be from {self.least} to {self.most}{names}")
        return int(word)


def _numbers(field: _Field, given: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in given.split(","):
        span, slash, step_text = part.partition("/")
        if slash and (not step_text.isdecimal() or int(step_text) < 1):
            raise field.wrong(part, "a step is a number from 1 on, as in */5")
        low, high = _span(field, span, part, stepped=bool(slash))
        found.update(range(low, high + 1, int(step_text) if slash else 1))
    return tuple(sorted(found))


def _span(field: _Field, span: str, part: str, *, stepped: bool) -> tuple[int, int]:
    if span == "*":
        return field.least, field.most
    first, dash, last = span.partition("-")
    low = field.number(first, part)
    if not dash:
        return low, field.most if stepped else low
    high = field.number(last, part)
    if field.names is _WEEKDAYS and high == 0:
        high = 7
    if high < low:
        raise field.wrong(part, f"the range runs backwards: write {first}-{field.most},{field.least}-{last}")
    return low, high


def _days(text: str, given: str) -> tuple[bool, frozenset[int]]:
    field = _Field(text, "day", 1, 31)
    parts = ["*" if part == "?" else part for part in given.split(",")]
    rest = [part for part in parts if part.lower() != "l"]
    return len(rest) < len(parts), frozenset(_numbers(field, ",".join(rest)) if rest else ())


def _weekdays(text: str, given: str) -> tuple[frozenset[tuple[int, int]], frozenset[int]]:
    field = _Field(text, "weekday", 0, 7, _WEEKDAYS)
    nth: set[tuple[int, int]] = set()
    rest: list[str] = []
    for part in given.split(","):
        numbered, last = _NTH.fullmatch(part.lower()), _LAST_WEEKDAY.fullmatch(part.lower())
        if numbered is not None:
            nth.add((field.number(numbered[1], part) % 7, int(numbered[2])))
        elif last is not None:
            nth.add((field.number(last[1] or last[2], part) % 7, _LAST))
        elif "#" in part:
            raise field.wrong(part, "it takes a weekday and its number in the month from 1 to 5, as in fri#2")
        elif part.lower() == "l":
            raise field.wrong(part, "it takes the weekday whose last one is meant, as in 5L for the last Friday")
        else:
            rest.append("*" if part == "?" else part)
    plain = _numbers(field, ",".join(rest)) if rest else ()
    return frozenset(nth), frozenset(number % 7 for number in plain)


def _is_last(day: date) -> bool:
    return (day + timedelta(days=1)).month != day.month


def _next_month(day: date) -> date:
    return date(day.year + 1, 1, 1) if day.month == 12 else date(day.year, day.month + 1, 1)


# --- time zones -------------------------------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local times have no zone here


@struct
class _Stretch:
    """A time in which a zone's clocks differ from UTC by `offset` seconds."""

    start: int
    end: int
    offset: int

    def local(self, instant: int) -> datetime:
        return _EPOCH + timedelta(seconds=instant + self.offset)

    def instant(self, local: datetime) -> int:
        return round((local - _EPOCH).total_seconds()) - self.offset


def _stretches(zone: ZoneInfo, begin: int, last: int) -> Iterator[_Stretch]:
    """The stretches from two days before `begin`, for no clock is changed by more than a day, to those that begin at
    `last`, in order."""
    start, length = begin - 2 * _DAY, 3 * _DAY
    while start <= last:
        offset = _offset(zone, start)
        end = _change(zone, start, start + length, offset)
        yield _Stretch(start, end, offset)
        start, length = end, min(length * 4, _CHUNK)


def _change(zone: ZoneInfo, start: int, stop: int, offset: int) -> int:
    """When the offset changes first, `stop` if it doesn't before."""
    known = start
    while known < stop:
        later = min(known + _DAY, stop)
        if _offset(zone, later) != offset:
            while later - known > 1:
                middle = (known + later) // 2
                if _offset(zone, middle) == offset:
                    known = middle
                else:
                    later = middle
            return later
        known = later
    return stop


def _offset(zone: ZoneInfo, instant: int) -> int:
    offset = datetime.fromtimestamp(instant, UTC).astimezone(zone).utcoffset()
    return round(offset.total_seconds()) if offset is not None else 0
