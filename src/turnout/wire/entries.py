"""What the header of each record tells: enough for a listing, and for readers who need no more of it than that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from turnout import fastjson
from turnout.core.struct import struct
from turnout.core.workflows.values import NO_SUMMARY, RecordKind, Summary, Wait, WorkflowState
from turnout.errors import UnreadableRecord

VERSION = 1
"""Of a history's records, and of their entries."""

ENTRY = "Turnout-Workflow"
"""The name of the header."""

T = TypeVar("T")

RECORD_KINDS = {kind.value: kind for kind in RecordKind}
STATES = {state.value: state for state in WorkflowState}


def guarded(load: Callable[[Any], T], raw: Any, what: str) -> T:
    """What `load` makes of it; UnreadableRecord for what no turnout up to this one has written."""
    try:
        return load(raw)
    except UnreadableRecord:
        raise
    except Exception as error:  # cattrs raises groups of whatever the conversions raised
        raise UnreadableRecord(f"not {what} of turnout: {str(raw)[:80]}") from error


@attrs.frozen(kw_only=True)
class Entry:
    """What the header of a record tells: who wrote it, how the workflow stands, what a listing shows of it."""

    name: str
    kind: RecordKind
    number: int
    life: str
    run: int
    state: WorkflowState
    nonce: str
    upto: int = 0
    at: float = 0.0
    node: str = ""
    build: str = ""
    carries_out: int = 0
    begins: bool = False
    summary: Summary = attrs.field(factory=Summary)


PLAIN = ("name", "number", "life", "run", "nonce", "upto", "at", "node", "build", "carries_out")


def state_of(entry: bytes) -> WorkflowState:
    """The state that an entry tells, all else left unread. UnreadableRecord as for `load_entry`."""
    return guarded(lambda raw: WorkflowState(fastjson.loads(raw)["state"]), entry, "a workflow's entry")


@struct
class Glance:
    """What a listing chooses workflows by, of an entry, and what an observer looks at: among very many it is quicker
    read than all of it."""

    name: str
    kind: RecordKind
    number: int
    life: str
    state: WorkflowState
    started_at: float
    parent: str
    schedule: str
    labels: Mapping[str, str]


def glance_at(entry: str | bytes) -> Glance:
    """So much of an entry, all else left unread. UnreadableRecord as for `load_entry`."""
    return guarded(_glance, entry, "a workflow's entry")


def _glance(text: str | bytes) -> Glance:
    raw = versioned(fastjson.loads(text), "a workflow's entry")
    of_summary = (raw.get("summary") or {}).get
    return Glance(
        str(raw.get("name", "")),
        RECORD_KINDS[raw["kind"]],
        raw.get("number", 0),
        raw.get("life", ""),
        STATES[raw["state"]],
        float(of_summary("started_at", 0.0)),
        str(of_summary("parent", "")),
        str(of_summary("schedule", "")),
        _labels(of_summary("labels")),
    )


def load_entry(text: str | bytes) -> Entry:
    """The entry in a record's header. UnreadableRecord when it is none, or a newer turnout's."""
    return guarded(_entry, text, "a workflow's entry")


def _entry(text: str | bytes) -> Entry:
    raw = versioned(fastjson.loads(text), "a workflow's entry")
    get = raw.get
    return Entry(
        name=get("name", ""),
        kind=RECORD_KINDS[raw["kind"]],
        number=get("number", 0),
        life=get("life", ""),
        run=get("run", 1),
        state=STATES[raw["state"]],
        nonce=get("nonce", ""),
        upto=get("upto", 0),
        at=get("at", 0.0),
        node=get("node", ""),
        build=get("build", ""),
        carries_out=get("carries_out", 0),
        begins=get("begins", False),
        summary=summary_of(get("summary")),
    )


def versioned(raw: Any, what: str) -> dict[str, Any]:
    """The fields of `what`, a record or a part of one. UnreadableRecord when it is a newer turnout's."""
    version = raw["v"]
    if not isinstance(version, int) or version > VERSION:
        raise UnreadableRecord(f"{what} of version {version}, this turnout reads up to {VERSION}: upgrade it")
    found: dict[str, Any] = raw
    return found


def summary_of(raw: Mapping[str, Any] | None) -> Summary:
    """A summary. Somebody else may have written it, and a listing shows it: each field is made what it has to be."""
    if not raw:
        return NO_SUMMARY
    get = raw.get
    finished_at, due_at, cancel_request = get("finished_at"), get("due_at"), get("cancel_request")
    return Summary(
        float(get("started_at", 0.0)),
        None if finished_at is None else float(finished_at),
        _labels(get("labels")),
        str(get("details", "")),
        tuple([_wait(each) for each in waits]) if (waits := get("waits")) else (),
        int(get("waiting", 0)),
        int(get("events", 0)),
        int(get("size", 0)),
        str(get("parent", "")),
        str(get("trace_id", "")),
        None if due_at is None else float(due_at),
        None if cancel_request is None else str(cancel_request),
        float(get("run_at", 0.0)),
        str(get("traceparent", "")),
        str(get("pin", "")),
        str(get("schedule", "")),
    )


def _labels(raw: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(name): str(value) for name, value in raw.items()} if raw else {}


def _wait(raw: Mapping[str, Any]) -> Wait:
    get = raw.get
    since, due_at, attempt = get("since"), get("due_at"), get("attempt")
    return Wait(
        str(raw["kind"]),
        str(get("name", "")),
        str(get("id", "")),
        None if since is None else float(since),
        None if due_at is None else float(due_at),
        str(get("code", "")),
        None if attempt is None else int(attempt),
    )
