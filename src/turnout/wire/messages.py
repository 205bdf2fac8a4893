"""The messages of the work stream: headers and bytes on one side, a `Delivery` on the other; the names of bare jobs."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping

import attrs

from turnout import fastjson
from turnout.core.failure import ErrorInfo
from turnout.core.record import Delivery, MessageRef
from turnout.core.retry import seconds
from turnout.core.routing import checked_properties, parse_properties
from turnout.core.spec import (
    BARE_ID,
    DEFAULT_PRIORITY,
    NO_BODY,
    NO_OPTIONS,
    PRIORITIES,
    Body,
    JobSpec,
    SubmitOptions,
    check_submission,
    checked_labels,
    is_name,
)
from turnout.errors import InvalidValue
from turnout.once import warn_once
from turnout.wire.converter import converter

logger = logging.getLogger("turnout.wire")

GENERATION = "Turnout-Generation"
OPTIONS = "Turnout-Options"
PAYLOAD = "Turnout-Payload"
REQUIRES = "Turnout-Requires"
SCHEDULED = "Turnout-Scheduled"
REPLACED = "Turnout-Replaced"
NONCE = "Turnout-Nonce"
MSG_ID = "Nats-Msg-Id"

PRIORITY = "Turnout-Priority"
"""What priority a bare job has: its subject does not tell."""

_TRACEPARENT = re.compile(
    r"(?:00(?=.{53}$)|(?!00|ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.{0,400})?"
)
"""W3C Trace Context: version 00, word for word, and, as it asks for, the beginning of those to come."""

OPTIONS_CHARS = 256 * 1024
"""How long the options in a message may be: a record that holds them must fit in a message."""

_COUNT = re.compile("[0-9]{1,15}")
_INTEGERS = 2**63
_NONCE_CHARS = 100
_NONCE = re.compile(f"[0-9A-Za-z_-]{{1,{_NONCE_CHARS}}}")

HEADERS_KEPT_BYTES = 16 * 1024
"""How much of a submitter's own headers a record keeps; it must fit into a message with all the rest."""

_NO_HEADERS: dict[str, str] = {}


def user_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The submitter's own headers, as many as are kept: what the server and turnout put there is left out."""
    if not headers:
        return {}
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
    warning = "a job's own headers are too large, %d bytes are kept; the job goes on without %.200s"
    warn_once(logger, "headers", warning, HEADERS_KEPT_BYTES, dropped)
    return kept


def message_headers(
    spec: JobSpec, nonce: str, *, replaced: int = 0, scheduled: bool = False, routed: bool = False
) -> dict[str, str]:
    """The headers of a message that carries this job. `nonce` names the call that publishes it (P3). Its lane says what
    priority it has, unless it is `routed`."""
    headers = user_headers(spec.headers)
    headers[MSG_ID] = f"{spec.id}.{spec.generation}.{nonce}"
    if spec.generation != 1:
        headers[GENERATION] = f"{spec.generation} {spec.after}".rstrip()
    if spec.nonce:
        headers[NONCE] = spec.nonce
    if replaced:
        headers[REPLACED] = str(replaced)
    if scheduled:
        headers[SCHEDULED] = "1"
    if spec.payload.ref is not None:
        headers[PAYLOAD] = f"{spec.payload.ref} {spec.payload.size}"
    options = spec.options if routed else spec.options.prioritized(DEFAULT_PRIORITY)
    if options is not NO_OPTIONS and options != NO_OPTIONS:
        headers[OPTIONS] = fastjson.dumps(converter.unstructure(options)).decode()
    return headers


_SPELT_OUT = 16 * 1024
"""How much of a body that is no UTF-8 is spelt out, in bytes."""

_PLAIN = frozenset({MSG_ID, "Nats-Expected-Last-Subject-Sequence"})
"""The headers of the plainest submission: nothing of them becomes part of a job."""


def bare_id(seq: int, time_ns: int, headers: Mapping[str, str]) -> str:
    """The id of a job whose subject names none (P8): its `Nats-Msg-Id` if that may be an id, else one of its own."""
    chosen = headers.get(MSG_ID, "")
    if is_name(chosen) and not BARE_ID.fullmatch(chosen):
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


def traceparent_of(value: object) -> str:
    """A traceparent as W3C Trace Context has it; "" for what is none."""
    text = value.strip() if isinstance(value, str) else ""
    return text if _TRACEPARENT.fullmatch(text) else ""


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
    after = nonce = ""
    generation, replaced, options, payload = 1, 0, NO_OPTIONS, NO_BODY
    plain = headers.keys() <= _PLAIN
    if not plain:
        try:
            number, _, after = headers.get(GENERATION, "1").strip().partition(" ")
            generation = max(1, _count(number, GENERATION))
            replaced = _count(headers.get(REPLACED, "0"), REPLACED)
            options = _required(_parse_options(headers.get(OPTIONS)), headers.get(REQUIRES))
            payload = _own(_parse_ref(headers.get(PAYLOAD)), name)
            nonce = headers.get(NONCE, "")
        except (ValueError, TypeError) as error:
            problem = ErrorInfo("InvalidHeaders", str(error))
    if job_id is None:
        message = attrs.evolve(message, bare=True)
        options = options.prioritized(bare_priority(headers))
    elif not message.bare and (options.priority or DEFAULT_PRIORITY) != message.priority:
        options = options.prioritized(message.priority)  # its lane says it
    if payload.ref is None:
        try:
            payload = Body(text=data.decode(), size=len(data))
        except UnicodeDecodeError as error:
            payload = Body(text=_spelt_out(data, error.start), size=len(data))
            problem = ErrorInfo("InvalidPayload", f"the payload is not UTF-8: {error}")
    spec = JobSpec(
        id=name,
        activity=activity,
        generation=generation,
        after=after[:_NONCE_CHARS],
        submitted_at=message.time,
        payload=payload,
        headers=_NO_HEADERS if plain else user_headers(headers),
        options=options,
        trace_id=trace_id_of(_NO_HEADERS if plain else headers, activity, name),
        nonce=nonce if nonce and _NONCE.fullmatch(nonce) else "",
    )
    return Delivery(
        spec,
        message,
        scheduled=not plain and SCHEDULED in headers,
        replaced=replaced,
        problem=problem,
    )


def bare_priority(headers: Mapping[str, str]) -> int:
    """What a bare message's header says; what is no priority counts as the default one."""
    said = headers.get(PRIORITY, "").strip()
    return int(said) if said in _PRIORITIES else DEFAULT_PRIORITY


_PRIORITIES = frozenset(map(str, PRIORITIES))


def _parse_options(text: str | None) -> SubmitOptions:
    if text is None:
        return NO_OPTIONS
    if len(text) > OPTIONS_CHARS:
        raise InvalidValue(f"header {OPTIONS} is {len(text):,} characters long; at most {OPTIONS_CHARS:,} are accepted")
    try:
        options = converter.structure(fastjson.loads(text), SubmitOptions)
    except Exception as error:  # cattrs raises groups of whatever the conversions raised
        raise InvalidValue(f"header {OPTIONS} is not the JSON of a submission's options: {text[:200]}") from error
    try:
        for name in ("timeout", "expires_in", "start_within"):
            value = getattr(options, name)
            if value is not None:
                seconds(value, name)
        check_submission(options.timeout, options.retry)
        checked_labels(options.labels)
        checked_properties(options.requires, "requires")
        # What can be read but not written, half of a surrogate pair say, would be a job that can never end.
        for number in _numbers(options):
            if abs(number) >= _INTEGERS:
                raise InvalidValue(f"{number!r:.40} is more than any record can carry")
        fastjson.dumps(converter.unstructure(options)).decode()
    except (ValueError, TypeError) as error:
        raise InvalidValue(f"header {OPTIONS}: {ascii(str(error))[1:-1]:.400}") from None
    return options


def _required(options: SubmitOptions, text: str | None) -> SubmitOptions:
    """With what a bare message requires of its node, as `nats pub -H` can say it: `region=east, gpu=a100`."""
    if text is None:
        return options
    said = parse_properties(text.split(","), f"header {REQUIRES}")
    return attrs.evolve(options, requires={**said, **options.requires})


def _numbers(options: SubmitOptions) -> list[float]:
    """All numbers that are not checked elsewhere."""
    parent = [options.parent.run] if options.parent is not None else []
    retry = [options.retry.factor, options.retry.jitter] if options.retry is not None else []
    return [*parent, *retry]


def _count(text: str, name: str) -> int:
    """A number that a record can carry: JSON's integers have 64 bits where they have any bound."""
    if not _COUNT.fullmatch(text.strip()):
        raise InvalidValue(f"header {name} must be a number, not {text[:200]!r}")
    return int(text)


_OBJECT = re.compile("(?:[0-9]+-)?[0-9a-f]+")
"""What follows the owner and the kind in an object's name."""


def _own(payload: Body, job_id: str) -> Body:
    """A job's claim check names an object that was made for it: no other job's is read by it, or deleted with it."""
    prefix = f"{job_id}-payload-"
    if payload.ref is None or (payload.ref.startswith(prefix) and _OBJECT.fullmatch(payload.ref, len(prefix))):
        return payload
    raise InvalidValue(f"header {PAYLOAD} names {payload.ref!a:.200}, which is no payload of job {job_id}")


def _parse_ref(text: str | None) -> Body:
    if text is None:
        return NO_BODY
    name, _, size = text.partition(" ")
    if not name or not _COUNT.fullmatch(size):
        raise InvalidValue(f"header {PAYLOAD} must be an object's name and size, not {text[:200]!r}")
    return Body(ref=name, size=int(size))


def parse_body(data: bytes, headers: Mapping[str, str]) -> Body:
    """The body that a message carries, or that its header says is in the object store; no UTF-8 is spelt out."""
    body = _parse_ref(headers.get(PAYLOAD))
    if body.ref is not None:
        return body
    try:
        return Body(text=data.decode(), size=len(data))
    except UnicodeDecodeError as error:
        return Body(text=_spelt_out(data, error.start), size=len(data))


def _spelt_out(data: bytes, begin: int) -> str:
    """A body that is no UTF-8 from `begin` on, for people to look at: from there bytes are spelt out, as in `\\xff`.

    That takes 0.2 us for each, on the event loop: so no more than so many are, and a sign stands for the others.
    """
    end = begin + _SPELT_OUT
    spelt = data[begin:end].decode(errors="backslashreplace")
    return data[:begin].decode() + spelt + data[end:].decode(errors="replace")
