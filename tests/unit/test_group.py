"""The record of a group: who its members are, how each has ended, and whether another job follows."""

from __future__ import annotations

import random

import pytest

from turnout.core.group import (
    ID_CHARS_MOST,
    MEMBERS_MOST,
    Ends,
    FollowUp,
    GroupRecord,
    MemberKind,
    Roster,
    member_id,
    then_id,
    valid_group_id,
)
from turnout.core.record import JobState
from turnout.errors import InvalidValue

DONE, WRONG = JobState.completed, JobState.faulted


def test_an_id_leaves_room_for_the_numbers_of_the_members() -> None:
    """Fifty-eight characters at most, and those of any id."""
    assert valid_group_id("g" * ID_CHARS_MOST) == "g" * ID_CHARS_MOST
    with pytest.raises(InvalidValue, match="at most 58 characters, not 59"):
        valid_group_id("g" * (ID_CHARS_MOST + 1))
    with pytest.raises(InvalidValue, match="must match"):
        valid_group_id("a group")
    assert (member_id("batch-7", 0), then_id("batch-7")) == ("batch-7-0", "batch-7-then")
    assert len(member_id("g" * ID_CHARS_MOST, MEMBERS_MOST - 1)) == 64


@pytest.mark.parametrize("total", [1, 4, 5, 1_001])
def test_ends_come_back_from_their_text(total: int) -> None:
    """However many there are, and whichever are left."""
    states = [None, DONE, WRONG, JobState.cancelled]
    ends = [states[random.Random(number).randrange(4)] for number in range(total)]
    given = {number: state for number, state in enumerate(ends) if state is not None}
    back = Ends.of(Ends.none(total).with_ends(given).text, total)
    assert [back.of_member(number) for number in range(total)] == ends
    assert back.left == ends.count(None)
    assert back.counts() == {state: ends.count(state) for state in (DONE, WRONG, JobState.cancelled)}
    assert back.open(0, total) == [number for number, state in enumerate(ends) if state is None]


def test_what_a_text_does_not_speak_of_has_not_ended() -> None:
    """A record without a text has no ends."""
    assert Ends.of("", 3).open(0, 9) == [0, 1, 2]
    assert Ends.of("", 3).open(1, 1) == [1]


def test_the_first_end_of_a_member_stays() -> None:
    """A job that is retried by hand has ended for its group."""
    record = GroupRecord("g", 2).with_ends({0: WRONG}).with_ends({0: DONE, 1: DONE})
    assert [record.seen.of_member(number) for number in (0, 1)] == [WRONG, DONE]


def test_members_of_one_kind_need_not_say_which() -> None:
    """Where there are several kinds each says its own."""
    add, send = MemberKind("add"), MemberKind("send")
    assert Roster((add,), ("1", "2")).kind(1) == add
    assert [Roster((add, send), ("1", "2"), (1, 0)).kind(number) for number in (0, 1)] == [send, add]


@pytest.mark.parametrize(
    ("on", "ends", "follows"),
    [
        ("ended", {0: DONE, 1: WRONG}, True),
        ("completed", {0: DONE, 1: WRONG}, False),
        ("completed", {0: DONE, 1: DONE}, True),
    ],
)
def test_a_job_follows_if_its_condition_holds(on: str, ends: dict[int, JobState], follows: bool) -> None:
    """After all ends, or when all have completed; none follows where none was asked for."""
    assert GroupRecord("g", 2, then=FollowUp("report", on=on)).with_ends(ends).follows is follows
    assert not GroupRecord("g", 2).with_ends(ends).follows
