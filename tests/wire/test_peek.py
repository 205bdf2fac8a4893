"""What a record's first bytes tell of it."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.values import changed, job_record
from tests.wire.examples import GOLDEN, RECORDS
from turnout import wire
from turnout.core.record import JobState
from turnout.core.spec import Body

FILES = sorted(GOLDEN.glob("*/record_*"))
tricky = st.text(st.sampled_from('"\\{}:,aé\n')) | st.sampled_from(
    ['"state":"faulted"', '","activity":"x","state":"faulted"', '{"v":1,"id":"a","activity":"b","state":"faulted"']
)


@pytest.mark.parametrize("name", RECORDS)
def test_it_tells_what_the_record_says(name: str) -> None:
    """Of every record that today's code writes, its state, generation and age are told without parsing it.

    Of one without an age, which no job has, only the state.
    """
    record = RECORDS[name]
    data = wire.dump_record(record)
    assert wire.state_of(data) is record.state
    told = (record.state, record.generation, record.spec.submitted_at)
    assert wire.peek(data) == (told if record.spec.submitted_at else None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_it_is_right_about_any_version_or_silent(path: Path) -> None:
    """Of what other versions have written it says the truth, or that the record has to be parsed."""
    data = path.read_bytes()
    record = wire.load_record(data)
    compact = json.dumps(json.loads(data), separators=(",", ":")).encode()
    for each in (data, compact):
        assert wire.state_of(each) in (None, record.state)
        assert wire.peek(each) in (None, (record.state, record.generation, record.spec.submitted_at))


@given(
    state=st.sampled_from(JobState),
    submitted_at=st.floats(0.001, 1e12),
    generation=st.integers(1, 10**6),
    labels=st.dictionaries(tricky, tricky, max_size=3),
    text=tricky,
)
def test_nothing_of_the_user_is_taken_for_it(
    state: JobState, submitted_at: float, generation: int, labels: dict[str, str], text: str
) -> None:
    """Payloads, headers, labels and reasons may look like a record's beginning: they are not it."""
    record = job_record(
        "id-1", "act_1", state, generation=generation, submitted_at=submitted_at, payload=Body(text), headers=labels
    )
    record = changed(record, options=attrs.evolve(record.spec.options, labels=labels), reason=text)
    data = wire.dump_record(record)
    assert wire.state_of(data) is state
    assert wire.peek(data) == (state, generation, submitted_at)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b'{"v":2,"id":"a","activity":"b","state":"running","submitted_at":1.5}',
        b'{"v":1,"id":"a","activity":"b","state":"napping","submitted_at":1.5}',
        b'{"v":1,"id":"a","activity":"b","state":"running","submitted_at":1.5,"payl',
    ],
    ids=repr,
)
def test_it_is_silent_about_what_is_no_record(data: bytes) -> None:
    """What is cut off, of another version or nothing at all has to be parsed, to be told what is wrong."""
    assert wire.state_of(data) is None
    assert wire.peek(data) is None


@pytest.mark.parametrize("name", RECORDS)
def test_a_completed_jobs_result_is_told(name: str) -> None:
    """Its text, if it lies in the record and is all there is of it; of any other record nothing is told."""
    record = RECORDS[name]
    told = wire.result_text(wire.dump_record(record))
    result = record.result
    inline = record.state is JobState.completed and result is not None and result.ref is None
    assert told == (result.text if inline and result is not None else None)
    for other in (Body(text="[1]", size=3), Body(ref="o", size=3), None):
        for state in JobState:
            data = wire.dump_record(attrs.evolve(record, state=state, result=other))
            there = state is JobState.completed and other is not None and other.ref is None
            assert wire.result_text(data) == ("[1]" if there else None)


@pytest.mark.parametrize(
    "result",
    ["null", "[]", '"text"', "{}", '{"text":7}', '{"text":""}', '{"text":"1","ref":"o"}', "[" * 100_000, '{"text":"1'],
    ids=lambda result: result[:24],
)
def test_an_odd_result_is_left_to_those_who_parse_the_record(result: str) -> None:
    """Whatever stands where the result should be, nothing is told of it, and nothing is raised."""
    data = f'{{"v":1,"id":"a","activity":"b","state":"completed","submitted_at":1.5,"result":{result}}}'.encode()
    assert wire.result_text(data) is None
