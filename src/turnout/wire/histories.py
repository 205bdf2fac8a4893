"""How a history is spelt: a record as the JSON of a message and one header, an input as the message of an inbox.

As everywhere in turnout.wire: fields at their default are left out, unknown ones are ignored, `v` names the version.
What every record and every input has is written by hand, since a replay reads very many; the rest is cattrs' work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

from turnout import fastjson
from turnout.core.evolve import built
from turnout.core.failure import ErrorInfo
from turnout.core.retry import RetryPolicy
from turnout.core.spec import NO_BODY, NO_OPTIONS, Asker, Body, SubmitOptions, valid_name
from turnout.core.workflows.values import (
    COUNTED,
    NO_SUMMARY,
    Answer,
    ChildOptions,
    Command,
    CommandKind,
    Ending,
    EndKind,
    Failure,
    Fork,
    Input,
    InputKind,
    Record,
    Shared,
    Start,
    Summary,
    Wait,
)
from turnout.errors import InvalidValue
from turnout.wire.converter import converter as _converter
from turnout.wire.converter import register
from turnout.wire.entries import PLAIN, RECORD_KINDS, STATES, VERSION, guarded, summary_of, versioned
from turnout.wire.messages import MSG_ID, PAYLOAD, parse_body, traceparent_of
from turnout.wire.records import dump_record, load_record

LIFE = "Turnout-Life"
RUN = "Turnout-Run"
COMMAND = "Turnout-Command"
INPUT_ID = "Turnout-Id"
TRACEPARENT = "traceparent"
OFFLOADED = "Turnout-Offloaded"
"""The header of a record whose body is in the object store: the body's name and size."""

T = TypeVar("T")

register(ChildOptions, Failure, Wait, Summary, Answer, Shared, Fork)


# --- bodies, inputs, commands ----------------------------------------------------------------------------------------


def _body_to_json(body: Body) -> Any:
    """Inline text is a string by itself: most bodies are."""
    return body.text if body.ref is None else {"ref": body.ref, "size": body.size}


def _body(raw: Any) -> Body:
    if isinstance(raw, str):
        return Body(text=raw, size=len(raw) if raw.isascii() else len(raw.encode()))
    return NO_BODY if raw is None else Body(ref=raw["ref"], size=raw["size"])


def _ending_to_json(ending: Ending) -> dict[str, Any]:
    raw: dict[str, Any] = {"kind": ending.kind}
    if ending.result is not None:
        raw["result"] = _body_to_json(ending.result)
    if ending.error is not None:
        raw["error"] = _converter.unstructure(ending.error)
    if ending.reason is not None:
        raw["reason"] = ending.reason
    if ending.job is not None:
        raw["job"] = fastjson.loads(dump_record(ending.job))
    return raw


def _ending(raw: Mapping[str, Any]) -> Ending:
    result, error, job = raw.get("result"), raw.get("error"), raw.get("job")
    return Ending(
        _END_KINDS[raw["kind"]],
        None if result is None else _body(result),
        None if error is None else _converter.structure(error, ErrorInfo),
        raw.get("reason"),
        None if job is None else load_record(fastjson.dumps(job)),
    )


def _input_to_json(given: Input) -> dict[str, Any]:
    raw: dict[str, Any] = {"kind": given.kind, "at": given.at}
    if given.seq:
        raw["seq"] = given.seq
    if given.what:
        raw["what"] = given.what
    if given.id:
        raw["id"] = given.id
    if given.run:
        raw["run"] = given.run
    if given.body is not NO_BODY and given.body != NO_BODY:
        raw["body"] = _body_to_json(given.body)
    if given.ending is not None:
        raw["ending"] = _ending_to_json(given.ending)
    if given.asker is not None:
        raw["asker"] = _converter.unstructure(given.asker)
    if given.traceparent:
        raw["traceparent"] = given.traceparent
    return raw


_INPUT_KINDS = {kind.value: kind for kind in InputKind}
_COMMAND_KINDS = {kind.value: kind for kind in CommandKind}
_END_KINDS = {kind.value: kind for kind in EndKind}


def _input(raw: Mapping[str, Any]) -> Input:
    get = raw.get
    ending, asker, body = get("ending"), get("asker"), get("body")
    return Input(
        _INPUT_KINDS[raw["kind"]],
        raw["at"],
        get("seq", 0),
        get("what", ""),
        get("id", ""),
        "",
        get("run", 0),
        NO_BODY if body is None else _body(body),
        None if ending is None else _ending(ending),
        None if asker is None else _converter.structure(asker, Asker),
        get("traceparent", ""),
    )


def _command_to_json(command: Command) -> dict[str, Any]:
    raw: dict[str, Any] = {"id": command.id, "kind": command.kind}
    for name in ("name", "target", "about", "code"):
        if value := getattr(command, name):
            raw[name] = value
    if command.body is not NO_BODY and command.body != NO_BODY:
        raw["body"] = _body_to_json(command.body)
    if command.at is not None:
        raw["at"] = command.at
    if command.job is not None:
        raw["job"] = {} if command.job is NO_OPTIONS else _converter.unstructure(command.job)
    if command.child is not None:
        raw["child"] = _converter.unstructure(command.child)
    if command.since:
        raw["since"] = command.since
    if command.wake:
        raw["wake"] = command.wake
    return raw


def _command(raw: Mapping[str, Any]) -> Command:
    get = raw.get
    body, job, child = get("body"), get("job"), get("child")
    return Command(
        raw["id"],
        _COMMAND_KINDS[raw["kind"]],
        get("name", ""),
        NO_BODY if body is None else _body(body),
        get("at"),
        get("target", ""),
        get("about", ""),
        None if job is None else _converter.structure(job, SubmitOptions) if job else NO_OPTIONS,
        None if child is None else _converter.structure(child, ChildOptions),
        get("code", ""),
        get("since", 0.0),
        get("wake", 0),
    )


_START_PLAIN = (
    *("at", "wake", "due_at", "parent_close", "labels", "timeout", "retention", "headers", "trace_id", "seen"),
    *("attempt", "details", "schedule"),
)
_START_DEFAULTS = Start()


def _start_to_json(start: Start) -> dict[str, Any]:
    plain = {name: getattr(start, name) for name in _START_PLAIN}
    raw = {name: value for name, value in plain.items() if value != getattr(_START_DEFAULTS, name)}
    raw["payload"] = _body_to_json(start.payload)
    for name in ("parent", "retry", "failure", "fork"):
        if (value := getattr(start, name)) is not None:
            raw[name] = _converter.unstructure(value)
    if start.carried:
        raw["carried"] = [_input_to_json(each) for each in start.carried]
    if start.answers:
        raw["answers"] = [_converter.unstructure(each) for each in start.answers]
    return raw


def _start(raw: Mapping[str, Any]) -> Start:
    parent, retry, failure, fork = raw.get("parent"), raw.get("retry"), raw.get("failure"), raw.get("fork")
    return Start(
        payload=_body(raw.get("payload")),
        parent=None if parent is None else _converter.structure(parent, Asker),
        retry=None if retry is None else _converter.structure(retry, RetryPolicy),
        failure=None if failure is None else _converter.structure(failure, Failure),
        fork=None if fork is None else _converter.structure(fork, Fork),
        carried=tuple(_input(each) for each in raw.get("carried", ())),
        answers=tuple(_converter.structure(each, Answer) for each in raw.get("answers", ())),
        **{name: raw[name] for name in _START_PLAIN if name in raw},
    )


# --- records ---------------------------------------------------------------------------------------------------------


_RECORD_PLAIN = (
    *("id", "name", "number", "life", "run", "nonce", "at", "node", "build", "upto", "reason", "gc_at"),
    *("behind", "carries_out", "left", "unreceived"),
)


def dump_history_record(record: Record) -> bytes:
    """The record as the history keeps it."""
    return fastjson.dumps(_record_to_json(record))


def dump_with_entry(record: Record) -> tuple[bytes, str]:
    """The record as the history keeps it, and its entry, which is a part of that."""
    raw = _record_to_json(record)
    entry = {name: raw[name] for name in ("v", "kind", "state", *PLAIN) if name in raw}
    if record.start is not None:
        entry["begins"] = True
    return fastjson.dumps(raw), fastjson.dumps(entry | {"summary": raw["summary"]}).decode()


def _record_to_json(record: Record) -> dict[str, Any]:
    raw: dict[str, Any] = {"v": VERSION, "kind": record.kind, "state": record.state}
    raw |= {name: value for name in _RECORD_PLAIN if (value := getattr(record, name))}
    if record.inputs:
        raw["inputs"] = [_input_to_json(each) for each in record.inputs]
    if record.commands:
        raw["commands"] = [_command_to_json(each) for each in record.commands]
    if record.withdrawn:
        raw["withdrawn"] = [_command_to_json(each) for each in record.withdrawn]
    if record.patches:
        raw["patches"] = list(record.patches)
    for name in ("answers", "joined"):
        if values := getattr(record, name):
            raw[name] = [_converter.unstructure(each) for each in values]
    if record.start is not None:
        raw["start"] = _start_to_json(record.start)
    if record.result is not None:
        raw["result"] = _body_to_json(record.result)
    if record.failure is not None:
        raw["failure"] = _converter.unstructure(record.failure)
    return raw | {"summary": _converter.unstructure(record.summary)}


_REFERENCE = re.compile(rb'"ref": ?"([A-Za-z0-9._-]+)"')


def references(data: bytes | Record) -> list[str]:
    """The names of the objects that a record, or a message, refers to."""
    raw = dump_history_record(data) if isinstance(data, Record) else data
    return [found.decode() for found in _REFERENCE.findall(raw)]


def load_history_record(data: bytes, *, of_run: bool = False) -> Record:
    """The record that `dump_history_record` wrote, in this version or an earlier one.

    `of_run`: it is wanted for what its run took and asked for. Of its summary only the size is read then, unless it
    begins a run: what a listing shows of a record that others lie behind is no more to anybody.
    """
    return guarded(lambda raw: _record(raw, of_run), data, "a workflow's record")


_RECORD_DEFAULTS: dict[str, Any] = {
    each.name: None if each.default is attrs.NOTHING else each.default for each in attrs.fields(Record)
} | {"name": "", "number": 0, "life": "", "run": 1, "nonce": "", "at": 0.0}
_RECORD_FIELDS = {"v", *_RECORD_DEFAULTS}


def _record(data: bytes, of_run: bool) -> Record:
    raw = versioned(fastjson.loads(data), "a workflow's record")
    if not raw.keys() <= _RECORD_FIELDS:
        raw = {name: value for name, value in raw.items() if name in _RECORD_FIELDS}
    del raw["v"]
    get = raw.get
    raw["id"], raw["kind"], raw["state"] = raw["id"], RECORD_KINDS[raw["kind"]], STATES[raw["state"]]
    if (start := get("start")) is not None:
        raw["start"] = _start(start)
    summary = get("summary")
    raw["summary"] = _size_alone(summary) if of_run and start is None else summary_of(summary)
    if inputs := get("inputs"):
        raw["inputs"] = tuple([_input(each) for each in inputs])
    if commands := get("commands"):
        raw["commands"] = tuple([_command(each) for each in commands])
    if raw.keys() & _RECORD_SELDOM:
        _seldom(raw)
    return built(Record, _RECORD_DEFAULTS | raw)


def _seldom(raw: dict[str, Any]) -> None:
    """What few records have."""
    get = raw.get
    raw["answers"] = tuple([_converter.structure(each, Answer) for each in get("answers", ())])
    raw["patches"] = tuple(get("patches", ()))
    raw["withdrawn"] = tuple([_command(each) for each in get("withdrawn", ())])
    raw["joined"] = tuple([_converter.structure(each, Asker) for each in get("joined", ())])
    result, failure = get("result"), get("failure")
    raw["result"] = None if result is None else _body(result)
    raw["failure"] = None if failure is None else _converter.structure(failure, Failure)


_RECORD_SELDOM = frozenset({"answers", "patches", "withdrawn", "joined", "result", "failure"})


def _size_alone(raw: Mapping[str, Any] | None) -> Summary:
    return Summary(labels=_NO_LABELS, size=int(raw.get("size", 0))) if raw else NO_SUMMARY


_NO_LABELS: dict[str, str] = {}


# --- what lies in an inbox -------------------------------------------------------------------------------------------


def dump_ending(ending: Ending) -> bytes:
    """The body of a `done` or `started`."""
    return fastjson.dumps({"v": VERSION, **_ending_to_json(ending)})


def dump_asker(asker: Asker) -> bytes:
    """The body of a `join`."""
    return fastjson.dumps({"v": VERSION, **_converter.unstructure(asker)})


def input_headers(*, life: str = "", run: int = 0, command: str = "", input_id: str = "") -> dict[str, str]:
    """The headers of an input of ours: whose it is, and what it is counted by."""
    headers = {LIFE: life, RUN: str(run) if run else "", COMMAND: command, INPUT_ID: input_id}
    return {name: value for name, value in headers.items() if value}


def parse_input(kind: str, what: str, seq: int, at: float, data: bytes, headers: Mapping[str, str]) -> Input | None:
    """The input that a message of an inbox is; None for one of no kind that there is, or whose content is no such.

    A bare signal or update counts by its `Nats-Msg-Id`; messages of ours have an id of their own. What answers a
    workflow names its life, which a stranger does not know.
    """
    found = _INPUT_KINDS.get(kind)
    if found is None or found in (InputKind.begin, InputKind.tried):
        return None
    life, run = headers.get(LIFE, ""), headers.get(RUN, "")
    if found in _ANSWERS and not life:
        return None
    own = headers.get(INPUT_ID) or ("" if life else headers.get(MSG_ID, ""))
    ending = asker = None
    body = NO_BODY
    try:
        if found in (InputKind.done, InputKind.started):
            ending = _ending(versioned(fastjson.loads(data), "an ending"))
        elif found is InputKind.joining:
            asker = _checked(_converter.structure(versioned(fastjson.loads(data), "a join"), Asker))
        else:
            body = parse_body(data, headers)
    except Exception:  # whatever a stranger's message does to its parser: it is none of ours
        return None
    return Input(
        kind=found,
        at=at,
        seq=seq,
        what=headers.get(COMMAND, what),
        id=own if found in COUNTED else "",
        life=life,
        run=int(run) if _RUN.fullmatch(run) else 0,
        body=body,
        ending=ending,
        asker=asker,
        traceparent=traceparent_of(headers.get(TRACEPARENT)) if found in COUNTED else "",
    )


_ANSWERS = frozenset({InputKind.done, InputKind.started, InputKind.timer, InputKind.gc})

_RUN = re.compile("[0-9]{1,18}")
"""A run's number, as far as a record can carry one."""

_TOKEN = re.compile("[!-~]{1,1000}")
"""What goes into a header as it is."""


def _checked(asker: Asker) -> Asker:
    """An asker that can be told: its inbox has a subject, and what it is told by a header. InvalidValue."""
    valid_name(asker.name, "name")
    valid_name(asker.id, "id")
    if not (_TOKEN.fullmatch(asker.life) and _TOKEN.fullmatch(asker.command) and _RUN.fullmatch(str(asker.run))):
        raise InvalidValue("an asker is a run of a workflow, and a command of it")
    return asker


def body_headers(body: Body) -> dict[str, str]:
    """The header that says where the body of a message is, if it is not the message's own."""
    return {} if body.ref is None else {PAYLOAD: f"{body.ref} {body.size}"}


def parse_offloaded(headers: Mapping[str, str]) -> Body | None:
    """Where the body of this record is, if it is not the message's own."""
    text = headers.get(OFFLOADED)
    if text is None:
        return None
    name, _, size = text.partition(" ")
    if not name or not size.isdigit():
        raise InvalidValue(f"header {OFFLOADED} must be an object's name and size, not {text[:200]!r}")
    return Body(ref=name, size=int(size))
