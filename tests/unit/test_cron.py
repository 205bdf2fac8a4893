"""Cron expressions: what they take, what they refuse, and that clock changes neither lose nor double a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from turnout import InvalidValue
from turnout.core.cron import parse

ZONES = ("UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns")


def times(text: str, zone: str, after: str, count: int) -> list[str]:
    """The next local times, without their year."""
    known, found = ZoneInfo(zone), []
    instant: float | None = datetime.fromisoformat(after).replace(tzinfo=known).timestamp()
    for _ in range(count):
        assert instant is not None
        instant = parse(text).next_instant(known, instant)
        assert instant is not None
        found.append(datetime.fromtimestamp(instant, known).strftime("%m-%dT%H:%M:%S%z"))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5 4 * * *", ["01-01T04:05:00", "01-02T04:05:00"]),
        ("30 5 4 * * *", ["01-01T04:05:30", "01-02T04:05:30"]),
        ("*/20 * * * * *", ["01-01T00:00:20", "01-01T00:00:40"]),
        ("0 12 * feb-mar sun", ["02-01T12:00:00", "02-08T12:00:00"]),
        ("0 0 * * 7", ["01-04T00:00:00", "01-11T00:00:00"]),
        ("0 0 * * fri-7", ["01-02T00:00:00", "01-03T00:00:00"]),
        ("0 0 * * 6-sun", ["01-03T00:00:00", "01-04T00:00:00"]),
        ("0 0 L * *", ["01-31T00:00:00", "02-28T00:00:00"]),
        ("0 0 15,L * *", ["01-15T00:00:00", "01-31T00:00:00"]),
        ("0 0 * * 5L", ["01-30T00:00:00", "02-27T00:00:00"]),
        ("0 0 * * friL", ["01-30T00:00:00", "02-27T00:00:00"]),
        ("0 0 * * 1#2", ["01-12T00:00:00", "02-09T00:00:00"]),
        ("0 0 * * mon#1,wed#1", ["01-05T00:00:00", "01-07T00:00:00"]),
        ("0 0 13 * fri", ["01-02T00:00:00", "01-09T00:00:00"]),
        ("0 8-10/2 * * *", ["01-01T08:00:00", "01-01T10:00:00"]),
        ("0 22/1 * * *", ["01-01T22:00:00", "01-01T23:00:00"]),
        ("@daily", ["01-02T00:00:00", "01-03T00:00:00"]),
        ("@hourly", ["01-01T01:00:00", "01-01T02:00:00"]),
        ("@weekly", ["01-04T00:00:00", "01-11T00:00:00"]),
        ("@monthly", ["02-01T00:00:00", "03-01T00:00:00"]),
        ("@YEARLY", ["01-01T00:00:00", "01-01T00:00:00"]),
    ],
)
def test_an_expression_means_these_times(text: str, expected: list[str]) -> None:
    """Five fields or six, names, steps, ranges, 7 as Sunday, L and #, nicknames."""
    assert times(text, "UTC", "2026-01-01", 2) == [f"{time}+0000" for time in expected]


def test_the_13th_or_a_friday() -> None:
    """Day and weekday together mean either of them."""
    found = times("0 0 13 * fri", "UTC", "2026-01-01", 3)
    assert found == ["01-02T00:00:00+0000", "01-09T00:00:00+0000", "01-13T00:00:00+0000"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("* * *", "3 fields"),
        ("* * * * * * *", "7 fields"),
        ("60 * * * *", "minute '60': it must be from 0 to 59"),
        ("0 24 * * *", "hour '24': it must be from 0 to 23"),
        ("0 0 0 * *", "day '0': it must be from 1 to 31"),
        ("0 0 * foo *", "or jan, feb"),
        ("0 0 * * 8", "weekday '8': it must be from 0 to 7, or sun, mon"),
        ("0 22-2 * * *", "write 22-23,0-2"),
        ("*/0 * * * *", "a step is a number from 1 on"),
        ("*/x * * * *", "a step is a number from 1 on"),
        ("0 0 * * fri#6", "from 1 to 5, as in fri#2"),
        ("0 0 * * L", "as in 5L for the last Friday"),
        ("0 0 , * *", "day ''"),
        ("@reboot", "there is no @reboot"),
        ("", "0 fields"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, says: str) -> None:
    """The error names the field and says what would be right."""
    with pytest.raises(InvalidValue) as refused:
        parse(text)
    assert says in str(refused.value)


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 4,6,9,11 *"])
def test_what_never_comes_has_no_next(text: str) -> None:
    """No month that is named has such a day."""
    assert parse(text).next_instant(ZoneInfo("UTC"), 0.0) is None


def test_the_rarest_day_is_found() -> None:
    """Five Mondays in a February, once in 28 years, or 40."""
    assert times("0 0 * 2 mon#5", "UTC", "2072-03-01", 1) == ["02-29T00:00:00+0000"]


@pytest.mark.parametrize(
    ("text", "zone", "after", "expected"),
    [
        # A time that is skipped fires once, at the first instant after the gap; several of them fire once together.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29T03:00:00+0200", "03-30T02:30:00+0200"]),
        ("*/20 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29T03:00:00+0200", "03-30T02:00:00+0200"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-04T02:30:00+1100", "10-05T02:15:00+1100"]),
        ("30 2 * * *", "America/St_Johns", "2026-03-07T12:00", ["03-08T03:00:00-0230", "03-09T02:30:00-0230"]),
        # One that comes twice fires at its first.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25T02:30:00+0200", "10-26T02:30:00+0100"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", ["04-05T01:45:00+1100", "04-06T01:45:00+1030"]),
        # Once its first has passed, its second is not one.
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T02:45", ["10-26T02:30:00+0100", "10-27T02:30:00+0100"]),
        # Wildcard hours fire each real hour.
        ("30 * * * *", "Europe/Berlin", "2026-10-25T02:00", ["10-25T02:30:00+0200", "10-25T02:30:00+0100"]),
        ("30 * * * *", "Europe/Berlin", "2026-03-29T01:00", ["03-29T01:30:00+0100", "03-29T03:30:00+0200"]),
        # A clock that goes back over midnight, and a day that an island has left out.
        ("59 23 * * *", "America/St_Johns", "2006-10-28T12:00", ["10-28T23:59:00-0230", "10-29T23:59:00-0330"]),
        ("0 9 30 12 *", "Pacific/Apia", "2011-12-28T00:00", ["12-31T00:00:00+1400", "12-30T09:00:00+1400"]),
    ],
)
def test_clock_changes(text: str, zone: str, after: str, expected: list[str]) -> None:
    """What is skipped fires right after the gap, what is doubled once, and each hour of a wildcard is a real one."""
    assert times(text, zone, after, 2) == expected


@given(
    zone=st.sampled_from(ZONES),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    begin=st.datetimes(datetime(1995, 1, 1), datetime(2035, 1, 1)),  # noqa: DTZ001 - its zone is the one that is drawn
)
@example("Australia/Lord_Howe", 2, 15, datetime(2026, 9, 25))  # noqa: DTZ001
@example("America/St_Johns", 0, 1, datetime(2006, 3, 25))  # noqa: DTZ001
def test_a_fixed_time_fires_once_a_day(zone: str, hour: int, minute: int, begin: datetime) -> None:
    """Over forty days: each local date has one tick, at its time, or where that is skipped right after the gap."""
    known = ZoneInfo(zone)
    cron = parse(f"{minute} {hour} * * *")
    instant, dates = begin.replace(hour=12, tzinfo=known).timestamp(), []
    for _ in range(40):
        found = cron.next_instant(known, instant)
        assert found is not None
        local = datetime.fromtimestamp(found, known)
        if (local.hour, local.minute) != (hour, minute):
            meant = local.replace(hour=hour, minute=minute)
            meant = meant if meant <= local else meant - timedelta(days=1)
            assert meant.astimezone(UTC).astimezone(known).replace(tzinfo=None) != meant.replace(tzinfo=None), "a gap"
            dates.append(meant.date())
        else:
            dates.append(local.date())
        instant = found
    assert dates == [dates[0] + timedelta(days=number) for number in range(40)]


@given(
    zone=st.sampled_from(ZONES),
    minute=st.sampled_from([0, 15, 30, 59]),
    begin=st.datetimes(datetime(1995, 1, 1), datetime(2035, 1, 1)),  # noqa: DTZ001 - its zone is the one that is drawn
)
def test_each_real_hour_of_a_wildcard(zone: str, minute: int, begin: datetime) -> None:
    """All instants with this minute, no other, and none is left out: compared with a walk over every minute."""
    known, cron = ZoneInfo(zone), parse(f"{minute} * * * *")
    first = int(begin.replace(tzinfo=UTC).timestamp()) // 60 * 60
    walked = [
        instant
        for instant in range(first + 60, first + 86_400, 60)
        if (local := datetime.fromtimestamp(instant, known)).minute == minute and local.second == 0
    ]
    found, instant = [], float(first)
    while True:
        following = cron.next_instant(known, instant)
        assert following is not None
        if following >= first + 86_400:
            break
        found.append(following)
        instant = following
    assert found == walked


@given(st.text(max_size=20))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    """Nothing but InvalidValue comes of text."""
    try:
        parse(text)
    except InvalidValue:
        return
