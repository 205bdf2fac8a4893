"""What becomes of each tick, from a schedule's record alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout import InvalidValue, Schedule
from turnout.core.evolve import evolve
from turnout.core.schedule import Advance, Due, Job, ScheduleRecord, advance, oldest_due, schedule_name

BEGIN = 1_800_000_000.0
NOBODY: dict[str, Any] = {"active": False}


def kept(schedule: Schedule, **changes: Any) -> ScheduleRecord:
    record = ScheduleRecord("s", schedule, Job("activity", "report"), created_at=BEGIN, cursor=BEGIN)
    return evolve(record, **changes)


def ticks(*seconds: float) -> tuple[float, ...]:
    return tuple(BEGIN + each for each in seconds)


def reasons(turn: Advance) -> dict[float, str]:
    return {run.due_at - BEGIN: run.skipped for run in turn.record.recent}


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({}, "cron or every"),
        ({"cron": "0 3 * * *", "every": 5}, "cron or every"),
        ({"cron": "0 0 30 2 *"}, "never fires"),
        ({"cron": "0 3 * *"}, "4 fields"),
        ({"cron": 5}, "cron must be text"),
        ({"every": 0.5}, "every must be at least 1 s"),
        ({"every": timedelta(milliseconds=1)}, "every must be at least 1 s"),
        ({"every": "5"}, "every must be seconds or a timedelta"),
        ({"every": 5, "timezone": "Europe/Berln"}, "did you mean 'Europe/Berlin'?"),
        ({"every": 5, "timezone": "../etc/passwd"}, "there is no '../etc/passwd'"),
        ({"every": 5, "timezone": ""}, "there is no ''"),
        ({"every": 5, "jitter": -1}, "jitter must be at least 0 s"),
        ({"every": 5, "overlap": "never"}, 'overlap must be one of "skip", "queue", "allow", "cancel"'),
        ({"every": 5, "catch_up": "two"}, 'catch_up must be one of "one", "none", "all"'),
        ({"every": 5, "start": datetime(2026, 1, 1)}, "start must be a datetime with a time zone"),  # noqa: DTZ001
        (
            {"every": 5, "start": datetime(2026, 1, 1, tzinfo=UTC), "end": datetime(2026, 1, 1, tzinfo=UTC)},
            "end must be later than start",
        ),
        (
            {
                "cron": "0 3 * * *",
                "start": datetime(2026, 1, 1, 4, tzinfo=UTC),
                "end": datetime(2026, 1, 2, tzinfo=UTC),
            },
            "never fires between its start, 2026-01-01 04:00:00+00:00, and its end",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(given_: dict[str, Any], says: str) -> None:
    """A ValueError where the schedule is written, which says what would be right."""
    with pytest.raises(InvalidValue) as refused:
        Schedule(**given_)
    assert says in str(refused.value)


def test_every_counts_from_its_start_or_from_the_creation() -> None:
    """The start is the first tick; without one that comes an interval after the creation."""
    start = datetime.fromtimestamp(BEGIN + 7, UTC)
    assert list(Schedule(every=10, start=start).ticks(BEGIN, BEGIN, BEGIN + 30)) == [*ticks(7, 17, 27)]
    assert list(Schedule(every=10).ticks(BEGIN, BEGIN, BEGIN + 30)) == [*ticks(10, 20, 30)]
    assert Schedule(every=10).next_tick(BEGIN, BEGIN + 10) == BEGIN + 20


def test_nothing_fires_after_the_end() -> None:
    """The end itself may be a tick; behind it there is none."""
    end = datetime.fromtimestamp(BEGIN + 20, UTC)
    assert list(Schedule(every=10, end=end).ticks(BEGIN, BEGIN, BEGIN + 99)) == [*ticks(10, 20)]
    assert kept(Schedule(every=10, end=end), cursor=BEGIN + 20).next_tick is None


@pytest.mark.parametrize("after", [253402300799.0, 1e12, 1e308])
def test_no_cron_fires_after_the_calendar(after: float) -> None:
    """Neither by a start at its end, nor by what somebody has written into the record."""
    assert Schedule(cron="0 3 * * *", timezone="Asia/Tokyo").next_tick(0, after) is None
    assert Schedule(cron="0 3 * * *", start=datetime.max.replace(tzinfo=UTC)).next_tick(0, 0) is None


def test_a_tick_begins_a_run_once() -> None:
    """What is dealt with is known from the record: the same moment again begins nothing."""
    turn = advance(kept(Schedule(every=10)), BEGIN + 10, **NOBODY)
    assert turn.starts == ticks(10)
    assert turn.record.previous == turn.record.run_id(BEGIN + 10)
    assert advance(turn.record, BEGIN + 10, **NOBODY).starts == ()


@pytest.mark.parametrize(
    ("catch_up", "starts"),
    [("none", ticks(100)), ("one", ticks(90, 100)), ("all", ticks(10, 20, 30, 40, 50, 60, 70, 80, 90, 100))],
)
def test_what_was_missed_goes_by_catch_up(catch_up: Any, starts: tuple[float, ...]) -> None:
    """The last, none or all of them; a tick that is only late runs whatever is to be caught up."""
    schedule = Schedule(every=10, catch_up=catch_up, overlap="allow")
    assert advance(kept(schedule), BEGIN + 102, **NOBODY).starts == starts


def test_a_tick_is_missed_after_three_seconds() -> None:
    """Up to then it is late."""
    schedule = Schedule(every=10, catch_up="none")
    assert advance(kept(schedule), BEGIN + 13, **NOBODY).starts == ticks(10)
    late = advance(kept(schedule), BEGIN + 13.1, **NOBODY)
    assert (late.starts, late.missed) == ((), 1)
    assert reasons(late) == {10: "missed: nobody could fire it in time"}


def test_two_that_are_late_are_not_missed() -> None:
    """Neither is three seconds late, so both run whatever is to be caught up."""
    turn = advance(kept(Schedule(every=1, catch_up="none", overlap="allow")), BEGIN + 2.5, **NOBODY)
    assert (turn.starts, turn.missed) == (ticks(1, 2), 0)


def test_all_are_a_thousand_at_most() -> None:
    """After a month of downtime the last thousand are caught up, and that is found out quickly."""
    turn = advance(kept(Schedule(every=60, catch_up="all", overlap="allow")), BEGIN + 30 * 86_400, **NOBODY)
    assert len(turn.starts) == 1000 + 1
    assert turn.record.cursor == BEGIN + 30 * 86_400


def test_all_run_one_after_the_other_where_they_must_not_overlap() -> None:
    """The first begins, the others wait for its end, each for the one before."""
    schedule = Schedule(every=10, catch_up="all")
    turn = advance(kept(schedule), BEGIN + 36, **NOBODY)
    assert (turn.starts, turn.record.backlog) == (ticks(10), ticks(20, 30))
    later = advance(turn.record, BEGIN + 37, active=True)
    assert later.starts == ()
    assert advance(later.record, BEGIN + 38, **NOBODY).starts == ticks(20)


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_those_that_are_merely_late_wait_with_those_that_were_missed(overlap: Any) -> None:
    """What is to be caught up keeps none from running that has come due with it; one that comes alone is skipped."""
    schedule = Schedule(every=1, catch_up="all", overlap=overlap)
    turn = advance(kept(schedule), BEGIN + 5.5, **NOBODY)
    assert (turn.starts, turn.record.backlog, turn.skipped) == (ticks(1), ticks(2, 3, 4, 5), 0)
    late = advance(kept(schedule), BEGIN + 2.5, **NOBODY)
    assert (late.starts, late.record.backlog, late.skipped) == (ticks(1), ticks(2), 0)
    alone = advance(turn.record, BEGIN + 6.0, active=True)
    assert (alone.record.backlog, alone.skipped) == (ticks(2, 3, 4, 5), 1)


def test_skip() -> None:
    """A tick that finds the run before still going on is skipped, and says so."""
    record = kept(Schedule(every=10), previous="s-0")
    turn = advance(record, BEGIN + 10, active=True)
    assert (turn.starts, turn.skipped) == ((), 1)
    assert reasons(turn) == {10: "s-0 goes on still"}
    assert advance(turn.record, BEGIN + 20, **NOBODY).starts == ticks(20)


def test_queue() -> None:
    """One tick waits at most, and begins as soon as the run before has ended."""
    record = kept(Schedule(every=10, overlap="queue"), previous="s-0")
    turn = advance(record, BEGIN + 10, active=True)
    assert (turn.starts, turn.record.backlog) == ((), ticks(10))
    turn = advance(turn.record, BEGIN + 20, active=True)
    assert reasons(turn) == {20: "another tick waits already"}
    turn = advance(turn.record, BEGIN + 25, **NOBODY)
    assert (turn.starts, turn.record.backlog) == (ticks(10), ())


def test_allow() -> None:
    """Runs may overlap."""
    assert advance(kept(Schedule(every=10, overlap="allow")), BEGIN + 10, active=True).starts == ticks(10)


def test_cancel() -> None:
    """The old run is cancelled, the new one begins when it has ended; a later tick takes its place meanwhile."""
    record = kept(Schedule(every=10, overlap="cancel"), previous="s-0")
    turn = advance(record, BEGIN + 10, active=True)
    assert (turn.cancel, turn.starts, turn.record.backlog) == ("s-0", (), ticks(10))
    turn = advance(turn.record, BEGIN + 20, active=True)
    assert (turn.cancel, turn.record.backlog) == ("s-0", ticks(20))
    assert reasons(turn) == {10: "a later tick came before it could begin"}
    assert advance(turn.record, BEGIN + 21, **NOBODY).starts == ticks(20)


def test_of_those_that_were_caught_up_together_the_last_begins() -> None:
    """None of them has begun when a later one takes its place: there is nobody to be cancelled."""
    record = kept(Schedule(every=10, overlap="cancel", catch_up="all"))
    turn = advance(record, BEGIN + 32, **NOBODY)
    assert (turn.cancel, turn.starts, turn.skipped) == ("", ticks(30), 2)
    assert reasons(turn)[10] == reasons(turn)[20] == "a later tick came before it could begin"


def test_what_is_far_in_the_past_is_missed_however_long_the_jitter() -> None:
    """Of very many ticks within one jitter none may be sure to be late; those before them are."""
    schedule = Schedule(every=1, jitter=10_000, catch_up="none")
    record = kept(schedule)
    turn = advance(record, BEGIN + 30_000, **NOBODY)
    assert turn.missed + len(turn.starts) > 0
    late = [run for run in turn.record.recent if run.skipped]
    assert all(record.due_at(run.due_at) < BEGIN + 30_000 - 3 for run in late)


def test_a_pause_keeps_what_is_due_for_later() -> None:
    """Nothing begins meanwhile, and nothing is taken for dealt with."""
    record = kept(Schedule(every=10), paused=True)
    assert advance(record, BEGIN + 60, **NOBODY) == Advance(record)


def test_what_a_pause_has_missed_is_not_what_nobody_could_fire() -> None:
    """It is told apart, and counted apart: an alarm that workers are away does not ring for a person's pause."""
    record = kept(Schedule(every=10, catch_up="none"))
    resumed = record.pause("", BEGIN + 25).pause("because", BEGIN + 35).resume(BEGIN + 55).resume(BEGIN + 99)
    assert (resumed.paused, resumed.note) == (False, "")
    turn = advance(resumed, BEGIN + 75, **NOBODY)
    away, held = "missed: nobody could fire it in time", "missed: the schedule was paused"
    assert reasons(turn) == {10: away, 20: away, 30: held, 40: held, 50: held, 60: away, 70: away}
    assert (turn.missed, turn.skipped, turn.starts) == (4, 0, ())


def test_a_run_that_somebody_has_begun_and_not_written_down_counts() -> None:
    """However late that is noticed, and whatever is to be caught up."""
    turn = advance(kept(Schedule(every=10, catch_up="none")), BEGIN + 18, active=False, begun=True)
    assert turn.starts == ticks(10)
    assert reasons(turn) == {10: ""}


def test_the_oldest_that_is_due_may_be_missed() -> None:
    """Nothing is due before its time, after the end, or in a pause."""
    record = kept(Schedule(every=10))
    assert oldest_due(record, BEGIN + 9) is None
    assert oldest_due(record, BEGIN + 12) == Due(BEGIN + 10, missed=False)
    assert oldest_due(record, BEGIN + 14) == Due(BEGIN + 10, missed=True)
    assert oldest_due(kept(Schedule(every=10), paused=True), BEGIN + 14) is None
    end = datetime.fromtimestamp(BEGIN + 5, UTC)
    assert oldest_due(kept(Schedule(every=10, end=end)), BEGIN + 14) is None


def test_a_name_leaves_room_for_the_time_of_a_run() -> None:
    """Forty characters of those that any id may have; what it begins is an activity's job or a workflow."""
    assert schedule_name("nightly-2") == "nightly-2"
    for bad in ("", "a b", "x" * 41, None):
        with pytest.raises(InvalidValue, match="a schedule's name must match"):
            schedule_name(bad)
    assert [Job(kind, "report").is_workflow for kind in ("activity", "workflow")] == [False, True]


@given(jitter=st.floats(0.1, 100), tick=st.integers(0, 10**9))
def test_the_jitter_is_the_same_for_everybody(jitter: float, tick: int) -> None:
    """It follows from the name and the tick, and is never longer than what was asked for."""
    one, other = (kept(Schedule(every=1, jitter=jitter)) for _ in range(2))
    assert one.due_at(tick) == other.due_at(tick)
    assert tick <= one.due_at(tick) <= tick + jitter


@given(st.lists(st.floats(0.1, 400), min_size=1, max_size=12), st.sampled_from([0.0, 5.0, 40.0]))
def test_every_tick_is_dealt_with_once(pauses: list[float], jitter: float) -> None:
    """Whenever somebody looks: all ticks begin in order, none twice, when all are caught up and may overlap."""
    record, now = kept(Schedule(every=10, catch_up="all", overlap="allow", jitter=jitter)), BEGIN
    begun: list[float] = []
    for pause in pauses:
        now += pause
        turn = advance(record, now, **NOBODY)
        record = turn.record
        begun += turn.starts
    assert begun == list(record.schedule.ticks(BEGIN, BEGIN, record.cursor))
    following = record.next_tick
    assert following is not None
    assert record.due_at(following) > now


def test_the_last_ten_runs_are_kept() -> None:
    """The newest of them, each once."""
    turn = advance(kept(Schedule(every=10, overlap="allow", catch_up="all")), BEGIN + 300, **NOBODY)
    assert [run.due_at - BEGIN for run in turn.record.recent] == [10.0 * number for number in range(21, 31)]
