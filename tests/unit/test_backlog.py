"""Whose turn it is among those that wait, as whoever deals the turns knows it."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from turnout.supervisor.backlog import Backlog

MOST = 8


def starts(keys: list[str], bare: set[int]) -> list[int]:
    """In which order these jobs start, which wait one behind the other: one after the other, as it is dealt, and in the
    order in which they came where that is fair."""
    backlog = Backlog(2)
    for subject in (0, 1):
        for seq, key in enumerate(keys, 1):
            if (seq in bare) == bool(subject):
                backlog.add(subject, seq, key)
    order: list[int] = []
    left = dict.fromkeys(range(1, len(keys) + 1))
    while left:
        if backlog.fair(MOST):
            seq = next(iter(left))
            backlog.handed(seq)
        else:
            dealt = backlog.next()
            assert dealt is not None
            seq = dealt
        del left[seq]
        order.append(seq)
    return order


@given(
    st.lists(st.sampled_from("aaaaaabbcde"), max_size=80),
    st.sets(st.integers(min_value=1, max_value=80)),
)
def test_each_key_that_waits_starts_within_thrice_its_share(keys: list[str], bare: set[int]) -> None:
    """Every job starts once, those of one key and subject in order; and nobody waits for long while others start."""
    order = starts(keys, bare)
    assert sorted(order) == list(range(1, len(keys) + 1))
    count, waited = len(set(keys)), Counter[str]()
    left = Counter(keys)
    for seq in order:
        key = keys[seq - 1]
        left[key] -= 1
        waited[key] = 0
        for other in left:
            if other != key and left[other]:
                waited[other] += 1
                assert waited[other] <= 3 * count, (order, other)


def test_the_few_of_one_key_start_in_turn_with_the_many_of_another() -> None:
    """However many those are, and wherever they lie."""
    order = starts(["big"] * 5000 + ["few"] * 10, set())
    assert [seq > 5000 for seq in order[:20]] == [False, True] * 10


def test_where_each_key_has_about_its_share_nothing_is_dealt() -> None:
    """They start as they came, and cost what others cost."""
    backlog, rounds, shuffled = Backlog(1), 200, Random(1)
    for seq, key in enumerate((key for _ in range(rounds) for key in shuffled.sample(range(20), 20)), 1):
        backlog.add(0, seq, str(key))
    for handed in range(0, 20 * rounds, 3):
        backlog.handed(handed)
        assert backlog.fair(MOST)


def test_what_is_remembered_goes_with_the_jobs() -> None:
    """Of what was handed to somebody nothing is left, nor of keys that have no jobs any more."""
    backlog = Backlog(1)
    for seq in range(1, 20_001):
        backlog.add(0, seq, str(seq // 2))
    for _ in range(5000):
        backlog.next()
    backlog.handed(20_000)
    backlog.forget_handed()
    assert (len(backlog), backlog.keys) == (0, 0)
    assert backlog.next() is None
