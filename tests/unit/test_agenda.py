"""The agenda: nothing early, nothing forgotten, and little memory for very many."""

from __future__ import annotations

import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.supervisor.agenda import Agenda


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 2**60)), max_size=50), st.integers(1, 7))
def test_everything_comes_once_and_never_early(entries: list[tuple[float, int]], most: int) -> None:
    """Whatever is added comes out once, within a grain of its instant and not before, at most so many at a time."""
    agenda = Agenda(grain_s=5.0)
    for at, seq in entries:
        agenda.add(at, seq, now=0.0)
    left = list(entries)
    for now in sorted(at for at, _ in entries):
        while got := agenda.due(now + 5.0, most):
            assert len(got) <= most
            for seq in got:
                early = [entry for entry in left if entry[1] == seq and entry[0] <= now + 5.0]
                assert early
                left.remove(early[0])
        assert not [at for at, _ in left if at <= now]
    assert len(agenda) == len(left) == 0


def test_an_instant_that_never_comes_is_no_trouble() -> None:
    """What is due at no time at all is kept for ten years."""
    agenda = Agenda(grain_s=1.0)
    for at in (math.inf, 1e300):
        agenda.add(at, 1, now=0.0)
    assert not agenda.due(9 * 365 * 86_400.0, 10)
    assert len(agenda.due(11 * 366 * 86_400.0, 10)) == 2


@pytest.mark.long
def test_a_million_that_wait_take_sixteen_megabytes_at_most() -> None:
    """A supervisor shares the memory of a worker."""
    tracemalloc.start()
    agenda = Agenda(grain_s=1.0)
    for number in range(200_000):
        agenda.add(1e6 + number % 3600, number, now=1e6)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / len(agenda) < 16
