"""What goes over a NATS connection, as values: received messages, answers of JetStream, and the bytes of a publish.

Pure functions. Everything the server would punish by closing the connection (a payload with headers over max_payload, a
control line over 4 KiB, a newline in a header) is refused here, before a byte is written.
"""

from __future__ import annotations

import base64
import functools
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from turnout import fastjson
from turnout.core.struct import struct
from turnout.errors import (
    InvalidValue,
    OutcomeUnknown,
    PayloadTooLarge,
    ServerUnavailable,
    ServerUnsuitable,
    StorageRefused,
    TurnoutError,
)

MAX_CONTROL_LINE_BYTES = 4096  # the server's default max_control_line; a longer line costs the connection
_PUBLISH_SUBJECT = re.compile(r"[^\s\x00-\x1f\x7f.*>]+(?:\.[^\s\x00-\x1f\x7f.*>]+)*")
_SUBSCRIBE_SUBJECT = re.compile(r"(?:[^\s\x00-\x1f\x7f.*>]+|\*)(?:\.(?:[^\s\x00-\x1f\x7f.*>]+|\*))*(?:\.>)?|>")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DIRECT_HEADERS = (
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
    "Nats-UpTo-Sequence",
)


EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
"""Whose last sequence is expected, with wildcards, where it is not the message's own subject."""
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
"""The header of every compare-and-set: the sequence that the subject's last message must have, 0 for none."""

KV_OPERATION = "KV-Operation"
"""The header of a key's marker: `DEL` says that the value was deleted."""


class Disconnected(ServerUnavailable):
    """The connection is down. What was in flight has an unknown outcome: it may have been stored."""


def level_of(error: TurnoutError, usual: int) -> int:
    """How loudly to log what an error of a connection has kept somebody from: that it is down it has said itself."""
    return logging.DEBUG if isinstance(error, Disconnected) else usual


class WrongLoop(TurnoutError):
    """A connection was used on another event loop than the one that opened it. Nothing was sent."""


class NoResponders(TurnoutError):
    """Nobody listens on the subject: the stream or the service behind it does not exist, or is away."""


class RequestTimeout(OutcomeUnknown):
    """No answer came in time, though the connection was up. The request may have been carried out."""


class ApiError(TurnoutError):
    """JetStream refused. `code` is like an HTTP status, `err_code` says exactly what, `description` is its text."""

    def __init__(self, code: int, err_code: int, description: str, subject: str = "") -> None:
        where = f" ({subject})" if subject else ""
        super().__init__(f"JetStream refused: {description}{where}")
        self.code = code
        self.err_code = err_code
        self.description = description


class WrongLastSequence(ApiError):
    """The subject or stream has moved on: its last sequence is not the expected one. `last` is it, where told."""

    @property
    def last(self) -> int | None:
        found = re.search(r"wrong last sequence: (\d+)", self.description)
        return int(found[1]) if found else None


class StoreRefused(ApiError, StorageRefused):
    """A limit of the stream or the account is reached, or the disk is full; free space or raise the limit."""

    def __init__(self, code: int, err_code: int, description: str, subject: str = "") -> None:
        super().__init__(code, err_code, description, subject)
        self.args = (f"{self.args[0]}; {_MAKE_ROOM}",)


_MAKE_ROOM = (
    "delete ended jobs (turnout job delete), jobs that nobody has begun (the same with --unbegun) or dead letters"
    " (turnout fault drop), or raise the limit of the stream, the account or the server: turnout doctor shows what is"
    " full"
)


_WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
_STORAGE = frozenset({10002, 10023, 10028, 10047, 10077})
_MESSAGE_TOO_LARGE = 10054
_JETSTREAM_OFF = frozenset({10035, 10039, 10076})


@struct
class Message:
    """One message as it arrived, `block` its headers, which are parsed when somebody asks for them."""

    subject: str
    reply: str
    data: bytes
    block: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        """Parsed anew for each who asks."""
        return parse_headers(self.block)[2]

    @property
    def status(self) -> int | None:
        """What one of the server's own notices says (404, 409, 503 ...), None for a message."""
        return None if not self.block or self.block.startswith(b"NATS/1.0\r\n") else parse_headers(self.block)[0]

    @property
    def description(self) -> str:
        """The words of the server's notice."""
        return parse_headers(self.block)[1]


@struct
class PubAck:
    """The stream has stored the message under `seq`; `duplicate`: it knew its Nats-Msg-Id and stored nothing."""

    stream: str
    seq: int
    duplicate: bool = False


@struct
class StoredMessage:
    """A message as the stream keeps it; `time_ns` is when it was stored, in unix nanoseconds of the server."""

    subject: str
    seq: int
    time_ns: int
    data: bytes
    headers: dict[str, str]

    @property
    def marker(self) -> bool:
        """In a bucket: it stands for a value that was deleted, or has expired."""
        return not self.data or KV_OPERATION in self.headers or "Nats-Marker-Reason" in self.headers


def header(headers: Mapping[str, str], name: str) -> str | None:
    """Look `name` up in any case: NATS keeps the case that the publisher used.

    >>> header({"TraceParent": "00-..."}, "traceparent")
    '00-...'
    """
    if name in headers:
        return headers[name]
    lower = name.lower()
    return next((value for key, value in headers.items() if key.lower() == lower), None)


def parse_headers(raw: bytes | None) -> tuple[int | None, str, dict[str, str]]:
    """Split a header block into status, description and headers; of a repeated name the last one counts.

    The last one, because the server appends its own after the publisher's, and only its own can be trusted.
    """
    if not raw:
        return None, "", {}
    first, *lines = raw.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    code, _, description = first[len("NATS/1.0") :].strip().partition(" ")
    return (int(code) if code.isdecimal() else None), description, headers


def header_in(block: bytes, name: bytes) -> bytes | None:
    """One header of a block, of a repeated one the last, all others left unread; in the case it is given in.

    >>> header_in(b"NATS/1.0\\r\\na: b\\r\\n\\r\\n", b"a")
    b'b'
    """
    found = line_in(block, b"\r\n%s:" % name)
    return None if found is None else found.strip()


def line_in(block: bytes, begin: bytes) -> bytes | None:
    """What stands behind the last `begin` in a header block, as far as its line goes; whatever bytes the block has."""
    at = block.rfind(begin)
    return None if at < 0 else block[at + len(begin) :].partition(b"\r")[0]


def received(subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> Message:
    """A message as it came. The server carries subjects of any bytes: what is not UTF-8 is shown by replacements."""
    return Message(subject.decode("utf-8", "replace"), reply.decode("utf-8", "replace"), data, block or b"")


@functools.lru_cache(maxsize=256)
def _is_header_name(name: str) -> bool:
    return _HEADER_NAME.fullmatch(name) is not None


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """The header block on the wire; the mapping is only read. `InvalidValue` for what cannot be carried."""
    lines = ["NATS/1.0"]
    for name, value in headers.items():
        if not _is_header_name(name):
            raise InvalidValue(f"header name {name!r}: only A-Z, a-z, 0-9 and -_.!#$%&'*+^`|~ are allowed")
        if "\r" in value or "\n" in value:
            raise InvalidValue(f"header {name}: the value must be one line, not {value!r}")
        lines.append(f"{name}: {value}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode()


def _is_plain(subject: str) -> bool:
    """Whether it is of the kind that nearly all are, seen in a fifth of the time that the pattern needs."""
    return (
        subject.isascii()
        and subject.isprintable()
        and " " not in subject
        and "*" not in subject
        and ">" not in subject
        and ".." not in subject
        and subject[:1] != "."
        and subject[-1:] not in ("", ".")
    )


def check_subject(subject: str) -> None:
    """`InvalidValue` for what cannot be published to, or replied to."""
    if not _is_plain(subject) and not _PUBLISH_SUBJECT.fullmatch(subject):
        raise InvalidValue(f"subject {subject[:80]!r}: dot-separated tokens without spaces or wildcards are needed")


def encode_publish(
    subject: str, data: bytes, headers: Mapping[str, str] | None, reply: str, max_payload: int
) -> tuple[bytes, bytes, bytes]:
    """The bytes of one publish. `InvalidValue` or `PayloadTooLarge` for what would cost the connection."""
    check_subject(subject)
    total = len(data)
    if headers:
        block = encode_headers(headers)
        size = len(block)
        total += size
        control = f"HPUB {subject} {reply} {size} {total}\r\n".encode()
        line = control + block
    else:
        control = line = f"PUB {subject} {reply} {total}\r\n".encode()
    if total > max_payload:
        raise PayloadTooLarge(
            f"a message of {total} bytes with its headers is over the server's max_payload of {max_payload}"
        )
    if len(control) > MAX_CONTROL_LINE_BYTES:
        raise InvalidValue(f"subject {subject[:40]}...: with the reply subject over {MAX_CONTROL_LINE_BYTES} bytes")
    return line, data, b"\r\n"


def encode_subscribe(subject: str, queue: str, sid: int) -> bytes:
    if not _SUBSCRIBE_SUBJECT.fullmatch(subject) or (queue and not _PUBLISH_SUBJECT.fullmatch(queue)):
        raise InvalidValue(f"cannot subscribe to {subject[:80]!r} (queue {queue[:80]!r}): malformed")
    line = f"SUB {subject} {queue} {sid}\r\n".encode()
    if len(line) > MAX_CONTROL_LINE_BYTES:
        raise InvalidValue(f"subject {subject[:40]}...: over {MAX_CONTROL_LINE_BYTES} bytes")
    return line


def api_error(error: Mapping[str, Any], subject: str = "") -> TurnoutError:
    """The typed error for the `error` object of a JetStream answer."""
    code, err_code = int(error.get("code", 500)), int(error.get("err_code", 0))
    description = str(error.get("description", "unknown error"))
    if err_code in _WRONG_LAST_SEQUENCE:
        return WrongLastSequence(code, err_code, description, subject)
    if err_code in _STORAGE:
        return StoreRefused(code, err_code, description, subject)
    if err_code == _MESSAGE_TOO_LARGE:
        return PayloadTooLarge(f"the stream's max_msg_size is less than this message ({subject}): {description}")
    if err_code in _JETSTREAM_OFF:
        return ServerUnsuitable(f"JetStream is off for this server or account ({description}): switch it on")
    return ApiError(code, err_code, description, subject)


def api_answer(data: bytes, subject: str) -> dict[str, Any]:
    """The JSON object of a JetStream answer, or its error raised."""
    answer = fastjson.loads(data)
    if "error" in answer:
        raise api_error(answer["error"], subject)
    return dict(answer)


def pub_ack(data: bytes, subject: str) -> PubAck:
    """The answer to a JetStream publish. Something that is no stream may answer too: that is an `ApiError`."""
    try:
        answer = fastjson.loads(data)
        if "error" not in answer:
            return PubAck(answer["stream"], answer["seq"], answer.get("duplicate", False))
        error = answer["error"]
    except (ValueError, TypeError, KeyError):
        raise ApiError(500, 0, f"the answer to a publish is no acknowledgement: {data[:80]!r}", subject) from None
    raise api_error(error, subject)


def unix_ns(timestamp: str) -> int:
    """Exact unix nanoseconds of an RFC 3339 instant.

    >>> unix_ns("1970-01-01T00:00:01.000000002Z")
    1000000002
    """
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", timestamp)
    if found is None:
        raise InvalidValue(f"not an RFC 3339 instant: {timestamp!r}")
    whole, fraction, zone = found.groups()
    instant = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone)).astimezone(UTC)
    seconds = round((instant - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))


def stored_by_api(answer: Mapping[str, Any]) -> StoredMessage:
    """The message in an answer of STREAM.MSG.GET."""
    message = answer["message"]
    raw = base64.b64decode(message["hdrs"]) if message.get("hdrs") else None
    data = base64.b64decode(message["data"]) if message.get("data") else b""
    _, _, headers = parse_headers(raw)
    return StoredMessage(message["subject"], message["seq"], unix_ns(message["time"]), data, headers)


def stored_by_direct_get(message: Message) -> StoredMessage:
    """The message in one answer of DIRECT.GET, with the headers removed that the server added to say where it was."""
    headers = message.headers
    own = {name: value for name, value in headers.items() if name not in _DIRECT_HEADERS}
    return StoredMessage(
        headers["Nats-Subject"], int(headers["Nats-Sequence"]), unix_ns(headers["Nats-Time-Stamp"]), message.data, own
    )


def version_of(text: str) -> tuple[int, int, int]:
    """A server's version as numbers, zeros for what is none.

    >>> version_of("2.12.1-preview.1")
    (2, 12, 1)
    """
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else (0, 0, 0)
