"""Times, tables and JSON as they are printed."""

from __future__ import annotations

import datetime as dt
import json

import attrs
import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnout import JobState
from turnout.cli import output
from turnout.cli.catalog import example
from turnout.cli.options import Duration
from turnout.core.plain import plain
from turnout.core.workflows.values import WorkflowState


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0123, "12ms"),
        (3.21, "3.2s"),
        (59.6, "60s"),
        (200, "3m20s"),
        (18_120, "5h02m"),
        (273_600, "3d04h"),
        (-1, "0s"),
    ],
)
def test_durations_are_for_people(seconds: float, shown: str) -> None:
    """A time span has two units at most."""
    assert output.duration(seconds) == shown


def test_instants_are_relative() -> None:
    """What was is ago, what will be is in."""
    assert output.ago(100.0, 225.0) == "2m ago"
    assert output.ago(105.0, 100.0) == "in 5s"
    assert output.ago(dt.datetime.fromtimestamp(0, dt.UTC), 3 * 86400) == "3d ago"


def test_instants_are_shown_in_utc() -> None:
    """Whatever zone an instant is given in."""
    moment = dt.datetime(2026, 1, 31, 13, 0, 0, 250_000, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    assert output.instant(moment) == "2026-01-31 12:00:00Z"
    assert output.instant(moment, milliseconds=True) == "2026-01-31 12:00:00.250Z"
    assert output.at(moment, moment.timestamp() + 60) == "2026-01-31 12:00:00Z (1m ago)"
    assert output.age(moment, moment.timestamp() + 60) == "1m"


def test_what_is_many_is_told_briefly() -> None:
    """One is told in the singular; of many names the first ones are listed, of labels all by their keys."""
    assert [output.several(count, "job") for count in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]
    assert output.listed(["a", "b"], 2) == "a, b"
    assert output.listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert output.labels({"b": "2", "a": "x\ny"}) == "a=x y b=2"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("500ms", 0.5), ("2m", 120), ("1h30m", 5400), ("7d", 604_800), ("0", 0)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Numbers are seconds; units may be combined."""
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "1x", "1h x", "-1", "1e3", "٣"])
def test_other_durations_are_refused(text: str) -> None:
    """What is no duration is a usage error."""
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


@attrs.frozen
class Thing:
    at: dt.datetime
    seen_at: float
    state: JobState
    parts: tuple[int, ...]


def test_plain_is_json() -> None:
    """Objects become objects, instants RFC 3339 in UTC, enums their names."""
    instant = dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    thing = Thing(instant, 0.5, JobState.queued, (1, 2))
    assert plain([thing]) == [
        {"at": "2026-01-31T10:00:00Z", "seen_at": "1970-01-01T00:00:00.500000Z", "state": "queued", "parts": [1, 2]}
    ]


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50)
@given(ANY_JSON)
def test_any_json_is_printed_as_it_is(value: object) -> None:
    """What dumps prints reads back as the same value."""
    assert json.loads(output.dumps(value)) == value


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    """Whatever the text, what is shown has no control characters, and at most the width."""
    shown = output.one_line(text, 40)
    assert len(shown) <= 40
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)


def test_tables_are_aligned() -> None:
    """Every column begins where its header does."""
    lines = output.table(["id", "what"], [["a", "x"], ["longer", "y\nz"]])
    assert lines == ["ID      WHAT", "a       x", "longer  y z"]


def test_an_example_fits_its_schema() -> None:
    """The sample that is shown has what is required, nested models too."""
    schema = {
        "type": "object",
        "required": ["path", "count", "box", "kind", "tags"],
        "properties": {
            "path": {"type": "string"},
            "count": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "box": {"$ref": "#/$defs/Box"},
            "kind": {"enum": ["big", "small"]},
            "tags": {"type": "array"},
            "more": {"type": "string"},
        },
        "$defs": {"Box": {"type": "object", "required": ["w"], "properties": {"w": {"type": "number"}}}},
    }
    assert example(schema) == {"path": "...", "count": 1, "box": {"w": 1.5}, "kind": "big", "tags": []}


def test_what_does_not_merely_wait_has_a_colour() -> None:
    """A state of a job or of a workflow that somebody looks for stands out in a list."""
    plain_ones = {JobState.queued, JobState.scheduled}
    assert {state for state in (*JobState, *WorkflowState) if not output.style_of(state)} == plain_ones
