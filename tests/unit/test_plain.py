"""Values as JSON has them."""

from __future__ import annotations

import datetime as dt
import enum
import json
from typing import Any

import attrs
import pytest

from turnout.core.plain import Plain, plain, utc


class Colour(enum.Enum):
    red = "red"


@attrs.frozen
class Inner:
    seen_at: float
    colour: Colour = Colour.red


@attrs.frozen
class Outer(Plain):
    inner: Inner
    more: dict[int, Any]
    none: None = None
    share: float = 0.5


def test_an_object_is_its_fields_all_the_way_down() -> None:
    """Objects, mappings, lists, enums and instants, whoever tells them as unix seconds included."""
    when = dt.datetime(2026, 1, 31, 13, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    told = Outer(Inner(1.5), {1: (when, [Inner(0.0)])}).to_dict()
    assert json.loads(json.dumps(told)) == {
        "inner": {"seen_at": "1970-01-01T00:00:01.500000Z", "colour": "red"},
        "more": {"1": ["2026-01-31T12:00:00Z", [{"seen_at": "1970-01-01T00:00:00Z", "colour": "red"}]]},
        "none": None,
        "share": 0.5,
    }
    assert plain([1.5]) == [1.5]


@pytest.mark.parametrize(("seconds", "year"), [(0.0, 1970), (1e300, 9999), (-1e300, 1), (1e15, 9999), (-1e15, 1)])
def test_an_instant_that_cannot_be_is_the_nearest(seconds: float, year: int) -> None:
    """One record that says nonsense must not end a listing."""
    assert utc(seconds).year == year
    assert plain(utc(seconds)).startswith(f"{year:04}-")
