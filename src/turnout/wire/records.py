"""A job's record as bytes and back, and what its first bytes tell those who read very many of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from turnout import fastjson
from turnout.core.record import DEFAULT_POLICY, FINAL, AttemptRecord, JobRecord, JobState, MessageRef, Outcome, Token
from turnout.core.spec import DEFAULT_PRIORITY, NO_OPTIONS, Body
from turnout.wire.converter import VERSION, converter, load


def dump_record(record: JobRecord, most: int | None = None) -> bytes:
    """The record as the registry keeps it. What JSON can't carry of it is written as near to it as JSON can, and where
    it would have more than `most` bytes it is `shortened`.

    A record that can't be written would be a job that never ends.
    """
    raw = _record_to_json(record)
    try:
        data = fastjson.dumps(raw)
    except (ValueError, TypeError):
        data = fastjson.dumps(_writable(raw))
    return data if most is None or len(data) <= most else dump_record(record.shortened)


_INT64 = 2**63 - 1


def _writable(value: Any) -> Any:
    """`value` with half surrogate pairs written out and integers within 64 bits."""
    match value:
        case str():
            return str(value).encode(errors="backslashreplace").decode()
        case int() if not isinstance(value, bool):
            return max(-_INT64, min(value, _INT64))
        case dict():
            return {_writable(key): _writable(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_writable(inner) for inner in value]
        case _:
            return value


def _record_to_json(record: JobRecord) -> dict[str, Any]:
    """What cattrs would make of it (a test compares them) in a third of its time: the shortest life writes two records.

    What readers tell from the first bytes comes first: `peek()`.
    """
    spec = record.spec
    raw: dict[str, Any] = {"v": VERSION, "id": spec.id, "activity": spec.activity, "state": record.state}
    _add_submission(raw, record)
    _add_attempts(raw, record)
    _add_outcome(raw, record)
    return raw


def _add_submission(raw: dict[str, Any], record: JobRecord) -> None:
    spec = record.spec
    if spec.generation != 1:
        raw["generation"] = spec.generation
    if spec.submitted_at:
        raw["submitted_at"] = spec.submitted_at
    if payload := _body_to_json(spec.payload):
        raw["payload"] = payload
    if spec.after:
        raw["after"] = spec.after
    if spec.nonce:
        raw["nonce"] = spec.nonce
    if spec.headers:
        raw["headers"] = spec.headers
    if spec.options is not NO_OPTIONS and (options := converter.unstructure(spec.options)):
        raw["options"] = options
    if record.rules is not DEFAULT_POLICY and (rules := converter.unstructure(record.rules)):
        raw["rules"] = rules
    if record.message is not None:
        raw["message"] = _message_to_json(record.message)


def _add_attempts(raw: dict[str, Any], record: JobRecord) -> None:
    if record.token is not None:
        raw["token"] = dump_token(record.token)
    if record.attempt:
        raw["attempt"] = record.attempt
    if record.failures:
        raw["failures"] = record.failures
    if record.losses:
        raw["losses"] = record.losses
    if record.aborts:
        raw["aborts"] = record.aborts
    if record.snoozes:
        raw["snoozes"] = record.snoozes
    if record.attempts:
        raw["attempts"] = [_attempt_to_json(attempt) for attempt in record.attempts]
    if record.started_at is not None:
        raw["started_at"] = record.started_at
    if record.finished_at is not None:
        raw["finished_at"] = record.finished_at
    if record.due_at is not None:
        raw["due_at"] = record.due_at
    if record.cancel_request is not None:
        raw["cancel_request"] = record.cancel_request


def _add_outcome(raw: dict[str, Any], record: JobRecord) -> None:
    if record.progress is not None:
        raw["progress"] = converter.unstructure(record.progress)
    if record.checkpoint is not None:
        raw["checkpoint"] = _body_to_json(record.checkpoint)
    if record.result is not None:
        raw["result"] = _body_to_json(record.result)
    if record.error is not None:
        raw["error"] = converter.unstructure(record.error)
    if record.reason is not None:
        raw["reason"] = record.reason
    if record.waits_for is not None:
        raw["waits_for"] = converter.unstructure(record.waits_for)
    if record.outside is not None:
        raw["outside"] = converter.unstructure(record.outside)
    if record.answer is not None:
        raw["answer"] = converter.unstructure(record.answer)
    if record.spec.trace_id:
        raw["trace_id"] = record.spec.trace_id


_RUNNING = Outcome.running


def _attempt_to_json(attempt: AttemptRecord) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "number": attempt.number,
        "generation": attempt.generation,
        "node": attempt.node,
        "started_at": attempt.started_at,
    }
    if attempt.outcome is not _RUNNING:
        raw["outcome"] = attempt.outcome
    if attempt.ended_at is not None:
        raw["ended_at"] = attempt.ended_at
    if attempt.error is not None:
        raw["error"] = converter.unstructure(attempt.error)
    if attempt.span_id:
        raw["span_id"] = attempt.span_id
    if attempt.due_at is not None:
        raw["due_at"] = attempt.due_at
    if attempt.alone:
        raw["alone"] = True
    return raw


def _body_to_json(body: Body) -> dict[str, Any]:
    raw: dict[str, Any] = {}
    if body.text is not None:
        raw["text"] = body.text
    if body.ref is not None:
        raw["ref"] = body.ref
    if body.size:
        raw["size"] = body.size
    return raw


def _message_to_json(message: MessageRef) -> dict[str, Any]:
    raw: dict[str, Any] = {"seq": message.seq, "time_ns": message.time_ns}
    if message.ack:
        raw["ack"] = message.ack
    if message.bare:
        raw["bare"] = True
    if message.priority != DEFAULT_PRIORITY:
        raw["priority"] = message.priority
    return raw


def load_record(data: bytes) -> JobRecord:
    """The record that `dump_record` wrote, in this version or an earlier one."""
    return load(data, JobRecord)


class Peek(NamedTuple):
    """What the first bytes of a record tell."""

    state: JobState
    generation: int
    submitted_at: float


_STATES = {state.encode(): state for state in JobState}
# Ids and names have no quotes in them, and a record begins with these: see `dump_record`.
_STATE = re.compile(rb'\{"v":%d,"id":"[^"]*+","activity":"[^"]*+","state":"([a-z]*+)"' % VERSION)
_AGE = re.compile(rb'(?:,"generation":([0-9]{1,15}))?,"submitted_at":([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)[,}]')


def state_of(data: bytes) -> JobState | None:
    """The record's state by its first bytes, in a fiftieth of the time; None: only `load_record` can tell."""
    found = _STATE.match(data)
    return _STATES.get(found[1]) if found is not None and data[-1:] == b"}" else None


def peek(data: bytes) -> Peek | None:
    """What the record's first bytes tell, unparsed; None: only `load_record` can tell."""
    state = state_of(data)
    found = _STATE.match(data)
    age = _AGE.match(data, found.end()) if found is not None else None
    if state is None or age is None:
        return None
    return Peek(state, int(age[1] or 1), float(age[2]))


_PRIORITY = re.compile(rb'"priority":([1-9]|10)[,}]')
_MESSAGE = b'"message":{"seq":'


def priority_in(data: bytes) -> int:
    """The lane of a record's job, unparsed: within texts there are no such quotes. That of its message comes later."""
    message = data.find(_MESSAGE)
    found = _PRIORITY.search(data, 0, message if message >= 0 else len(data))
    return int(found[1]) if found is not None else DEFAULT_PRIORITY


def tells_end(data: bytes) -> bool:
    """Whether this may be the record of a job that has ended, told without reading all of it."""
    state = state_of(data)
    return state is None or state in FINAL  # None: who reads it will say what is wrong with it


def result_text(data: bytes) -> str | None:
    """The result in the record of a completed job, in a fifth of the time; None: only `load_record` can tell.

    What else the record says is not looked at.
    """
    if state_of(data) is not JobState.completed:
        return None
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        result = fastjson.loads(data)["result"]
        text = result["text"]
        if isinstance(text, str) and text and "ref" not in result:
            return text
    return None


def dump_token(token: Token) -> dict[str, Any]:
    """A token as records and the control subject carry it."""
    return {"node": token.node, "generation": token.generation, "attempt": token.attempt, "nonce": token.nonce}


def load_token(raw: Mapping[str, Any]) -> Token:
    return Token(str(raw["node"]), int(raw["generation"]), int(raw["attempt"]), str(raw["nonce"]))
