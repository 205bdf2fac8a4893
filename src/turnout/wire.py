"""Bytes and headers on one side, core values on the other; the only place that knows how a record is spelt.

Every value is JSON that a person can read. Fields at their default are left out, fields that are not known are ignored,
and `v` names the version of the spelling: a reader takes every version up to its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import attrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn
from cattrs.preconf.json import make_converter

from turnout import fastjson
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.retry import RetryPolicy, seconds
from turnout.core.values import (
    BARE_ID,
    DEFAULT_RULES,
    FINAL,
    NAME,
    NO_BODY,
    NO_OPTIONS,
    Attempt,
    Body,
    Delivery,
    ErrorInfo,
    JobRecord,
    JobState,
    MessageRef,
    Outcome,
    Progress,
    Rules,
    SubmitOptions,
    Token,
)
from turnout.errors import InvalidValue, UnreadableRecord
from turnout.once import warn_once

logger = logging.getLogger("turnout.wire")

VERSION = 1

GENERATION = "Turnout-Generation"
OPTIONS = "Turnout-Options"
PAYLOAD = "Turnout-Payload"
SCHEDULED = "Turnout-Scheduled"
REPLACED = "Turnout-Replaced"
MSG_ID = "Nats-Msg-Id"

_TRACEPARENT = re.compile(
    r"(?:00(?=.{53}$)|(?!00|ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.{0,400})?"
)
"""W3C Trace Context: version 00 to the letter, and, as it asks for, the beginning of those to come."""

OPTIONS_CHARS = 256 * 1024
"""How long the options in a message may be: a record that holds them must fit in a message."""

_COUNT = re.compile("[0-9]{1,15}")

HEADERS_KEPT_BYTES = 16 * 1024
"""How much of a submitter's own headers a record keeps; it must fit into a message with all the rest."""

T = TypeVar("T")

_NO_HEADERS: dict[str, str] = {}

_converter = make_converter()
for _class in (
    RetryPolicy,
    Token,
    Body,
    Progress,
    ErrorInfo,
    Attempt,
    MessageRef,
    SubmitOptions,
    Rules,
    JobRecord,
    NodeInfo,
    ActivityInfo,
):
    _converter.register_unstructure_hook(
        _class, make_dict_unstructure_fn(_class, _converter, _cattrs_omit_if_default=True)
    )
    _converter.register_structure_hook(_class, make_dict_structure_fn(_class, _converter))


def _dump(value: object) -> bytes:
    return fastjson.dumps({"v": VERSION, **_converter.unstructure(value)})


def _load(data: bytes, cls: type[T]) -> T:
    try:
        raw = fastjson.loads(data)
        version = raw.pop("v")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnreadableRecord(f"not a {cls.__name__} of turnout: {data[:80]!r}") from error
    if not isinstance(version, int) or version > VERSION:
        raise UnreadableRecord(f"a {cls.__name__} of version {version}, this turnout reads up to {VERSION}: upgrade it")
    try:
        return _converter.structure(raw, cls)
    except Exception as error:  # cattrs raises groups of whatever the conversions raised
        raise UnreadableRecord(f"not a {cls.__name__} of turnout: {data[:80]!r}") from error


def dump_record(record: JobRecord) -> bytes:
    """The record as the registry keeps it."""
    return fastjson.dumps(_record_to_json(record))


def _record_to_json(record: JobRecord) -> dict[str, Any]:
    """What cattrs would make of it (a test compares them) in a third of its time: the shortest life writes two records.

    What readers tell from the first bytes comes first: `glimpse()`.
    """
    raw: dict[str, Any] = {"v": VERSION, "id": record.id, "activity": record.activity, "state": record.state}
    _add_submission(raw, record)
    _add_attempts(raw, record)
    _add_outcome(raw, record)
    return raw


def _add_submission(raw: dict[str, Any], record: JobRecord) -> None:
    if record.generation != 1:
        raw["generation"] = record.generation
    if record.submitted_at:
        raw["submitted_at"] = record.submitted_at
    if payload := _body_to_json(record.payload):
        raw["payload"] = payload
    if record.headers:
        raw["headers"] = record.headers
    if record.options is not NO_OPTIONS and (options := _converter.unstructure(record.options)):
        raw["options"] = options
    if record.rules is not DEFAULT_RULES and (rules := _converter.unstructure(record.rules)):
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
        raw["progress"] = _converter.unstructure(record.progress)
    if record.checkpoint is not None:
        raw["checkpoint"] = _body_to_json(record.checkpoint)
    if record.result is not None:
        raw["result"] = _body_to_json(record.result)
    if record.error is not None:
        raw["error"] = _converter.unstructure(record.error)
    if record.reason is not None:
        raw["reason"] = record.reason
    if record.trace_id:
        raw["trace_id"] = record.trace_id


def _attempt_to_json(attempt: Attempt) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "number": attempt.number,
        "generation": attempt.generation,
        "node": attempt.node,
        "started_at": attempt.started_at,
    }
    if attempt.outcome is not Outcome.running:
        raw["outcome"] = attempt.outcome
    if attempt.ended_at is not None:
        raw["ended_at"] = attempt.ended_at
    if attempt.error is not None:
        raw["error"] = _converter.unstructure(attempt.error)
    if attempt.span_id:
        raw["span_id"] = attempt.span_id
    if attempt.due_at is not None:
        raw["due_at"] = attempt.due_at
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
    return raw


def load_record(data: bytes) -> JobRecord:
    """The record that `dump_record` wrote, in this version or an earlier one."""
    return _load(data, JobRecord)


class Glimpse(NamedTuple):
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


def glimpse(data: bytes) -> Glimpse | None:
    """What the record's first bytes tell, unparsed; None: only `load_record` can tell."""
    state = state_of(data)
    found = _STATE.match(data)
    age = _AGE.match(data, found.end()) if found is not None else None
    if state is None or age is None:
        return None
    return Glimpse(state, int(age[1] or 1), float(age[2]))


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


def dump_node(node: NodeInfo) -> bytes:
    return _dump(node)


def load_node(data: bytes) -> NodeInfo:
    return _load(data, NodeInfo)


def dump_activity(activity: ActivityInfo) -> bytes:
    return _dump(activity)


def load_activity(data: bytes) -> ActivityInfo:
    return _load(data, ActivityInfo)


def dump_token(token: Token) -> dict[str, Any]:
    """A token as records and the control subject carry it."""
    return {"node": token.node, "generation": token.generation, "attempt": token.attempt, "nonce": token.nonce}


def load_token(raw: Mapping[str, Any]) -> Token:
    return Token(str(raw["node"]), int(raw["generation"]), int(raw["attempt"]), str(raw["nonce"]))


def dump_retry(policy: RetryPolicy) -> dict[str, Any]:
    """The policy as an activity's entry shows it."""
    raw: dict[str, Any] = _converter.unstructure(policy)
    return raw


# --- messages --------------------------------------------------------------------------------------------------------


def user_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The submitter's own headers, as many as are kept: what the server and turnout put there is left out."""
    own = {k: v for k, v in headers.items() if not k.lower().startswith(("nats-", "turnout-"))}
    if sum(len(k) + len(v) for k, v in own.items()) <= HEADERS_KEPT_BYTES:
        return own
    # The trace comes first, then the short ones: a record that can't be stored would be a job that never ends.
    kept: dict[str, str] = {}
    room = HEADERS_KEPT_BYTES
    for key, value in sorted(own.items(), key=lambda item: (item[0].lower() != "traceparent", len(item[1]))):
        room -= len(key) + len(value)
        if room < 0:
            break
        kept[key] = value
    dropped = ", ".join(sorted(own.keys() - kept.keys()))
    told = "a job's own headers are too large, %d bytes are kept; the job goes on without %.200s"
    warn_once(logger, "headers", told, HEADERS_KEPT_BYTES, dropped)
    return kept


def message_headers(record: JobRecord, nonce: str, *, replaced: int = 0, scheduled: bool = False) -> dict[str, str]:
    """The headers of a message that carries this job. `nonce` names the call that publishes it (P3)."""
    headers = user_headers(record.headers)
    headers[MSG_ID] = f"{record.id}.{record.generation}.{nonce}"
    if record.generation != 1:
        headers[GENERATION] = str(record.generation)
    if replaced:
        headers[REPLACED] = str(replaced)
    if scheduled:
        headers[SCHEDULED] = "1"
    if record.payload.ref is not None:
        headers[PAYLOAD] = f"{record.payload.ref} {record.payload.size}"
    if record.options != NO_OPTIONS:
        headers[OPTIONS] = fastjson.dumps(_converter.unstructure(record.options)).decode()
    return headers


_PLAIN = frozenset({MSG_ID, "Nats-Expected-Last-Subject-Sequence"})
"""The headers of the plainest submission: nothing of them becomes part of a job."""


def bare_id(seq: int, time_ns: int, headers: Mapping[str, str]) -> str:
    """The id of a job whose subject names none (P8): its `Nats-Msg-Id` if that may be an id, else one of its own."""
    chosen = headers.get(MSG_ID, "")
    if NAME.fullmatch(chosen) and not BARE_ID.fullmatch(chosen):
        return chosen
    return f"{seq}-{_base36(time_ns)}"


def parse_bare_id(job_id: str) -> tuple[int, int] | None:
    """The sequence and the timestamp (ns) in an id that was made for a bare job, None for any other id."""
    if not BARE_ID.fullmatch(job_id):
        return None
    seq, _, stamp = job_id.partition("-")
    return int(seq), int(stamp, 36)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return digits or "0"


def trace_id_of(headers: Mapping[str, str], activity: str, job_id: str) -> str:
    """The job's trace: its submitter's, else one that derives from its identity, so that all nodes agree."""
    for name, value in headers.items():
        if name.lower() == "traceparent":
            found = _TRACEPARENT.fullmatch(value.strip())
            if found is not None:
                return found[1]
    return hashlib.sha256(f"{activity}/{job_id}".encode()).hexdigest()[:32]


def parse_delivery(
    activity: str,
    job_id: str | None,
    message: MessageRef,
    data: bytes,
    headers: Mapping[str, str],
) -> Delivery:
    """The job that a message of the work stream carries. `job_id` is the one in its subject, None on the bare subject.

    Never raises: what is wrong with the message becomes its `problem`, and faults the job when it would start.
    """
    name = job_id if job_id is not None else bare_id(message.seq, message.time_ns, headers)
    problem = None
    generation, replaced, options, payload = 1, 0, NO_OPTIONS, NO_BODY
    plain = headers.keys() <= _PLAIN
    if not plain:
        try:
            generation = max(1, _count(headers.get(GENERATION, "1"), GENERATION))
            replaced = _count(headers.get(REPLACED, "0"), REPLACED)
            options = _parse_options(headers.get(OPTIONS))
            payload = _parse_ref(headers.get(PAYLOAD))
        except (ValueError, TypeError) as error:
            problem = ErrorInfo("InvalidHeaders", str(error))
    if payload.ref is None:
        try:
            payload = Body(text=data.decode(), size=len(data))
        except UnicodeDecodeError as error:
            payload = Body(text=data.decode(errors="backslashreplace"), size=len(data))
            problem = ErrorInfo("InvalidPayload", f"the payload is not UTF-8: {error}")
    return Delivery(
        id=name,
        activity=activity,
        message=message if job_id is not None else attrs.evolve(message, bare=True),
        generation=generation,
        payload=payload,
        headers=_NO_HEADERS if plain else user_headers(headers),
        options=options,
        scheduled=not plain and SCHEDULED in headers,
        replaced=replaced,
        trace_id=trace_id_of(_NO_HEADERS if plain else headers, activity, name),
        problem=problem,
    )


def _parse_options(text: str | None) -> SubmitOptions:
    if text is None:
        return NO_OPTIONS
    if len(text) > OPTIONS_CHARS:
        raise InvalidValue(f"header {OPTIONS} is {len(text):,} characters long; at most {OPTIONS_CHARS:,} are accepted")
    try:
        options = _converter.structure(fastjson.loads(text), SubmitOptions)
    except Exception as error:  # cattrs raises groups of whatever the conversions raised
        raise InvalidValue(f"header {OPTIONS} is not the JSON of a submission's options: {text[:200]}") from error
    for name, value in (("timeout", options.timeout), ("expires_in", options.expires_in)):
        if value is not None:
            seconds(value, f"header {OPTIONS}: {name}")
    return options


def _count(text: str, name: str) -> int:
    """A number that a record can carry: JSON's integers have 64 bits where they have any bound."""
    if not _COUNT.fullmatch(text.strip()):
        raise InvalidValue(f"header {name} must be a number, not {text[:200]!r}")
    return int(text)


def _parse_ref(text: str | None) -> Body:
    if text is None:
        return NO_BODY
    name, _, size = text.partition(" ")
    if not name or not size.isdigit():
        raise InvalidValue(f"header {PAYLOAD} must be an object's name and size, not {text[:200]!r}")
    return Body(ref=name, size=int(size))
