"""The spelling of histories: what is written is read again, whatever it holds, and a newer version is refused."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from turnout import RetryPolicy, UnreadableRecord
from turnout.core.failure import ErrorInfo
from turnout.core.record import JobRecord, JobState
from turnout.core.spec import Asker, Body, JobSpec, SubmitOptions
from turnout.core.workflows.values import (
    Answer,
    AnswerState,
    ChildOptions,
    Command,
    CommandKind,
    Ending,
    EndKind,
    Failure,
    Input,
    InputKind,
    Record,
    RecordKind,
    Start,
    Summary,
    Wait,
    WaitKind,
    WorkflowState,
)
from turnout.wire import entries, histories

ASKER = Asker("p", "parent", "life", 2, "0-1")
ERROR = ErrorInfo("ValueError", "no", "Traceback ...")
JOB = JobRecord(JobSpec("k", "charge"), JobState.faulted, error=ERROR, reason="failed")
SIGNAL = Input(InputKind.signal, 12.5, 7, "add", "id-1", body=Body(text='{"a":1}', size=7))
FULL = Record(
    id="o-17",
    name="order",
    kind=RecordKind.task,
    number=4,
    life="7f3a",
    run=2,
    nonce="n",
    state=WorkflowState.faulted,
    at=100.25,
    node="a-1",
    build="b",
    upto=9,
    behind=6,
    inputs=(
        SIGNAL,
        Input(InputKind.done, 13.0, 8, "0-0", run=2, ending=Ending(EndKind.completed, Body(ref="x", size=9))),
        Input(InputKind.done, 13.0, 9, "0-1", run=2, ending=Ending(EndKind.faulted, None, ERROR, "failed", JOB)),
        Input(InputKind.joining, 14.0, 10, asker=ASKER),
    ),
    commands=(
        Command("0-2", CommandKind.timer, at=200.5, code="a.py:3 f", since=100.25),
        Command("0-3", CommandKind.activity, "charge", Body(text="{}", size=2), job=SubmitOptions(timeout=3.0)),
        Command("0-4", CommandKind.child, "order", Body(ref="y", size=5), target="c", child=ChildOptions("join")),
        Command("0-5", CommandKind.withdraw, "charge", target="0-3", about="activity"),
    ),
    answers=(Answer("u", AnswerState.completed, Body(text="1", size=1)), Answer("v", AnswerState.failed, error=ERROR)),
    patches=("p1",),
    withdrawn=(Command("timeout", CommandKind.timer),),
    joined=(ASKER,),
    start=Start(
        payload=Body(text="{}", size=2),
        at=1.0,
        wake=3,
        due_at=5.0,
        parent=ASKER,
        parent_close="abandon",
        labels={"a": "b"},
        timeout=9.0,
        retry=RetryPolicy(max_attempts=2),
        retention=60.0,
        headers={"traceparent": "00-"},
        trace_id="t",
        carried=(SIGNAL,),
        seen={"id-1": 12.5},
        answers=(Answer("u", AnswerState.rejected, error=ERROR),),
        attempt=2,
        failure=Failure(ERROR, ("builtins.ValueError",), "failed"),
        details="d",
    ),
    result=Body(text="null", size=4),
    failure=Failure(ERROR, (), "failed"),
    reason="failed",
    gc_at=900.0,
    carries_out=11,
    left=2,
    unreceived=1,
    summary=Summary(
        started_at=1.0,
        finished_at=100.25,
        labels={"a": "b"},
        waits=(Wait(WaitKind.signal, "go", since=2.0, code="a.py:4 f"),),
        waiting=1,
        events=20,
        parent="p",
        trace_id="t",
        cancel_request="why",
    ),
)


def test_a_record_comes_back_whole() -> None:
    """Every field of a record, of its inputs, commands, answers and of a start survives."""
    assert histories.load_history_record(histories.dump_history_record(FULL)) == FULL


@pytest.mark.parametrize("start", [None, Start(payload=Body(text="{}", size=2))])
def test_a_record_for_a_replay_lacks_what_a_listing_shows(start: Start | None) -> None:
    """Of its summary the size alone is read, unless it begins a run; all else is there."""
    record = attrs.evolve(FULL, start=start, summary=attrs.evolve(FULL.summary, size=7))
    read = histories.load_history_record(histories.dump_history_record(record), of_run=True)
    assert read == (record if start is not None else attrs.evolve(record, summary=Summary(size=7)))


def test_the_header_tells_what_a_listing_shows() -> None:
    """The entry has state, name, life, run, number, upto and the summary."""
    entry = entries.load_entry(histories.dump_with_entry(FULL)[1])
    assert (entry.name, entry.state, entry.life, entry.run, entry.number) == ("order", "faulted", "7f3a", 2, 4)
    assert (entry.upto, entry.carries_out, entry.begins, entry.summary) == (9, 11, True, FULL.summary)


def test_a_glance_at_the_header_tells_what_a_listing_chooses_by() -> None:
    """It is the same as of the whole entry, and as careful with what somebody else has written."""
    text, summary = histories.dump_with_entry(FULL)[1], FULL.summary
    glance = entries.glance_at(text)
    assert (glance.name, glance.kind, glance.number, glance.life) == (FULL.name, FULL.kind, FULL.number, FULL.life)
    assert (glance.state, glance.started_at) == (FULL.state, summary.started_at)
    assert (glance.parent, glance.schedule, glance.labels) == (summary.parent, summary.schedule, summary.labels)
    raw = json.loads(text)
    bare = entries.glance_at(json.dumps({key: raw[key] for key in ("v", "kind", "state")}))
    assert (bare.started_at, bare.labels) == (0.0, {})
    strangers: list[Any] = [{**raw, "v": entries.VERSION + 1}, {**raw, "state": "lost"}, {**raw, "summary": 7}, []]
    for bad in strangers:
        with pytest.raises(UnreadableRecord):
            entries.glance_at(json.dumps(bad))


def test_a_newer_version_is_refused() -> None:
    """What a later turnout has written is no record to this one, and no damage either."""
    raw = json.loads(histories.dump_history_record(FULL))
    with pytest.raises(UnreadableRecord, match="upgrade"):
        histories.load_history_record(json.dumps({**raw, "v": entries.VERSION + 1}).encode())
    with pytest.raises(UnreadableRecord):
        histories.load_history_record(b"[]")


def test_unknown_fields_are_ignored() -> None:
    """A field that a later turnout has added does not keep this one from reading."""
    raw = json.loads(histories.dump_history_record(FULL))
    assert histories.load_history_record(json.dumps({**raw, "novel": 1}).encode()) == FULL


def test_a_bare_signal_counts_by_its_message_id() -> None:
    """A bare message has no life and counts by its Nats-Msg-Id; one of ours has an id of its own."""
    bare = histories.parse_input("signal", "add", 5, 1.0, b"{}", {"Nats-Msg-Id": "m"})
    assert bare is not None
    assert (bare.id, bare.life, bare.what, bare.seq) == ("m", "", "add", 5)
    ours = histories.parse_input(
        "signal", "add", 5, 1.0, b"{}", {"Nats-Msg-Id": "m", **histories.input_headers(life="l", input_id="i")}
    )
    assert ours is not None
    assert (ours.id, ours.life) == ("i", "l")


def test_an_ending_travels() -> None:
    """What a job tells its workflow is what the workflow reads, and a stranger's text is no ending."""
    ending = Ending(EndKind.faulted, None, ERROR, "failed", JOB)
    headers = histories.input_headers(life="l", run=2, command="0.1-3")
    given = histories.parse_input("done", "0_1-3", 5, 1.0, histories.dump_ending(ending), headers)
    assert given == Input(InputKind.done, 1.0, 5, "0.1-3", life="l", run=2, ending=ending)
    assert histories.parse_input("done", "x", 5, 1.0, b"hello", {}) is None
    assert histories.parse_input("nonsense", "", 5, 1.0, b"", {}) is None


@pytest.mark.parametrize("sent", ["update", "signal", "cancel"])
def test_an_input_keeps_whose_span_it_came_from(sent: str) -> None:
    """Its traceparent is read from the message if it is one, and comes back from the record; answers have none."""
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    headers = histories.input_headers(life="7f3a", input_id="u") | {histories.TRACEPARENT: parent}
    given = histories.parse_input(sent, "pay", 11, 15.0, b"{}", headers)
    assert given is not None
    assert given.traceparent == parent
    kept = histories.load_history_record(histories.dump_history_record(attrs.evolve(FULL, inputs=(given, SIGNAL))))
    assert [each.traceparent for each in kept.inputs] == [parent, ""]
    for kind, text in (("timer", parent), (sent, "nonsense"), (sent, parent.upper())):
        other = histories.parse_input(kind, "pay", 11, 15.0, b"{}", headers | {histories.TRACEPARENT: text})
        assert other is not None
        assert other.traceparent == ""
