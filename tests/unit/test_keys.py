"""The set of hashes that a listing remembers jobs by."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from turnout.client.keys import Keys


@given(st.lists(st.integers(0, 5_000), max_size=50), st.integers(0, 3_000))
def test_it_is_a_set(numbers: list[int], more: int) -> None:
    """It holds what was added, says what is new, and counts each once, however far it has to grow."""
    keys, known = Keys(), set[bytes]()
    added = [b"job-%d" % number for number in (*numbers, *range(0, 2 * more, 2), *numbers)]
    for key in added:
        assert keys.add(key) is (key not in known)
        known.add(key)
        assert key in keys
    assert len(keys) == len(known)
    asked = [b"job-%d" % number for number in (*numbers, *range(0, 5_001, 7))]
    assert [key in keys for key in asked] == [key in known for key in asked]


def test_it_is_small() -> None:
    """A hundred thousand keys take less than 4 MB."""
    keys = Keys()
    for number in range(100_000):
        keys.add(b"activity.job-%d" % number)
    assert len(keys) == 100_000
    assert keys.size_bytes < 4_000_000
