"""The spelling of records, entries and messages: what any version has written is read for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.wire.examples import ACTIVITY, GOLDEN, GROUP, MESSAGES, NODE, RECORDS, ROSTER, SCHEDULE, TOKEN, spelt
from turnout import UnreadableRecord, wire
from turnout.core.failure import ErrorInfo
from turnout.core.group import GroupRecord, Roster
from turnout.core.record import AttemptRecord, JobRecord, MessageRef, Outcome
from turnout.core.schedule import ScheduleRecord
from turnout.core.spec import JobSpec
from turnout.wire.converter import converter, load

VERSIONS = sorted(GOLDEN.iterdir())
FILES = [path for version in VERSIONS for path in sorted(version.iterdir())]
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")


def read(path: Path) -> Any:
    """What today's code makes of a file."""
    kind, _, name = path.stem.partition("_")
    data = path.read_bytes()
    match kind:
        case "record":
            return wire.load_record(data)
        case "node":
            return wire.load_node(data)
        case "activity":
            return wire.load_activity(data)
        case "schedule":
            return load(data, ScheduleRecord)
        case "group":
            return load(data, GroupRecord)
        case "roster":
            return load(data, Roster)
        case "token":
            return wire.load_token(json.loads(data))
        case "message":
            record = MESSAGES[name.replace("_", " ")]
            body = (record.spec.payload.text or "").encode()
            return wire.parse_delivery(record.activity, record.id, MessageRef(1, 1), body, json.loads(data))
        case _:
            raise AssertionError(path)


def expected(path: Path) -> Any:
    kind, _, name = path.stem.partition("_")
    others = {
        "node": NODE,
        "activity": ACTIVITY,
        "token": TOKEN,
        "schedule": SCHEDULE,
        "group": GROUP,
        "roster": ROSTER,
    }
    return others.get(kind) or RECORDS[name.replace("_", " ")]


@each_file
def test_what_any_version_has_written_is_read(path: Path) -> None:
    """Every golden file of every version says to today's code what it said to the one that wrote it."""
    found = read(path)
    if not path.stem.startswith("message"):
        assert found == expected(path)
        return
    record = MESSAGES[path.stem.partition("_")[2].replace("_", " ")]
    assert (found.generation, found.spec.options, found.problem) == (record.generation, record.spec.options, None)
    assert (found.spec.payload.text or None, found.spec.payload.ref) == (
        record.spec.payload.text,
        record.spec.payload.ref,
    )
    assert (found.scheduled, found.replaced) == (True, 2)
    assert found.spec.headers == record.spec.headers


def test_a_version_is_spelt_as_it_always_was() -> None:
    """Today's code spells the examples as the files of its version have them: another spelling is another version."""
    golden = {path.name: json.loads(path.read_text()) for path in (GOLDEN / f"v{wire.VERSION}").iterdir()}
    assert spelt() == golden


def test_every_field_is_in_an_example() -> None:
    """No field of a record goes untried: each has another value than its default in some file."""
    told = {name for record in RECORDS.values() for name in json.loads(wire.dump_record(record))}
    fields = {field.name for cls in (JobSpec, JobRecord) for field in attrs.fields(cls)} - {"spec"}
    assert fields - told == set()


@each_file
def test_unknown_fields_are_ignored(path: Path) -> None:
    """What a later version has added, at any depth, does not keep this one from reading the rest."""
    if path.stem.startswith("message"):
        headers = json.loads(path.read_text())
        headers["Turnout-From-The-Future"] = "1"
        if wire.OPTIONS in headers:
            headers[wire.OPTIONS] = json.dumps(_with_more(json.loads(headers[wire.OPTIONS])))
        name = path.stem.partition("_")[2].replace("_", " ")
        record = MESSAGES[name]
        found = wire.parse_delivery(record.activity, record.id, MessageRef(1, 1), b"{}", headers)
        assert (found.spec.options, found.problem) == (record.spec.options, None)
        return
    data = json.dumps(_with_more(json.loads(path.read_text()))).encode()
    match path.stem.partition("_")[0]:
        case "record":
            assert wire.load_record(data) == expected(path)
        case "node":
            assert wire.load_node(data) == NODE
        case "activity":
            assert wire.load_activity(data).name == ACTIVITY.name
        case "schedule":
            assert load(data, ScheduleRecord) == SCHEDULE
        case "group":
            assert load(data, GroupRecord) == GROUP
        case "roster":
            assert load(data, Roster) == ROSTER
        case "token":
            assert wire.load_token(json.loads(data)) == TOKEN
        case other:
            raise NotImplementedError(other)


def _with_more(value: Any, name: str = "") -> Any:
    """The JSON with a field nobody knows in every object but those whose keys are the user's."""
    if isinstance(value, list):
        return [_with_more(each) for each in value]
    if not isinstance(value, dict) or name in ("headers", "labels", "payload_schema", "result_schema"):
        return value
    return {**{key: _with_more(each, key) for key, each in value.items()}, "from_the_future": {"a": [1]}}


@pytest.mark.parametrize(
    "change",
    [{"v": wire.VERSION + 1}, {"v": "1"}, {"v": None}, {"state": "paused"}, {"attempt": "three"}, {"attempts": [1]}],
    ids=str,
)
def test_what_cannot_be_read_is_told(change: dict[str, Any]) -> None:
    """A newer version, or what no version writes, is one typed error that says so."""
    raw = {**json.loads(wire.dump_record(RECORDS["running"])), **change}
    with pytest.raises(UnreadableRecord) as caught:
        wire.load_record(json.dumps(raw).encode())
    if change.get("v") == wire.VERSION + 1:
        assert "upgrade" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[]", b"3", b"{}", b"\xff"], ids=repr)
def test_what_is_no_record_is_told(data: bytes) -> None:
    """Whatever lies in the bucket, reading it raises nothing else."""
    with pytest.raises(UnreadableRecord):
        wire.load_record(data)


@pytest.mark.parametrize("name", RECORDS)
def test_the_spelling_by_hand_is_that_of_the_converter(name: str) -> None:
    """A record is spelt by code of its own, for speed; no field is forgotten in it, and none spelt differently."""
    record = RECORDS[name]
    assert json.loads(wire.dump_record(record)) == {"v": wire.VERSION, **converter.unstructure(record)}
    for other in RECORDS.values():
        for field in attrs.fields(JobRecord):
            changed = attrs.evolve(record, **{field.name: getattr(other, field.name)})
            assert json.loads(wire.dump_record(changed)) == {"v": wire.VERSION, **converter.unstructure(changed)}


def test_no_field_of_an_attempt_or_a_message_is_left_out() -> None:
    """The encoder that is written by hand keeps every field: what has no default value comes back as it was."""
    attempt = AttemptRecord(
        number=3,
        generation=2,
        node="media-a1b2c3",
        started_at=1.5,
        outcome=Outcome.lost,
        ended_at=2.5,
        error=ErrorInfo("NodeLost", "gone", "a trace"),
        span_id="b7ad6b7169203331",
        due_at=0.5,
        alone=True,
    )
    message = MessageRef(seq=7, time_ns=8, ack="$JS.ACK.7", bare=True, priority=1)
    for value in (attempt, message):
        fields = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
        assert all(fields[field.name] != field.default for field in attrs.fields(type(value)))
    record = attrs.evolve(RECORDS["running"], attempts=(attempt,), message=message)
    assert wire.load_record(wire.dump_record(record)) == record
