"""Header blocks and instants as they go over the wire."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Mapping

_CRLF = b"\r\n"


def block_of(headers: Mapping[str, str], status: str = "") -> bytes:
    """The block of these headers, or of a notice with this status; b"" when there is nothing to say."""
    if not headers and not status:
        return b""
    first = f"NATS/1.0 {status}" if status else "NATS/1.0"
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers.items()), "\r\n"]).encode()


def with_headers(block: bytes, added: str) -> bytes:
    """The block with more header lines, each of which ends in CRLF, behind its own."""
    return (block[:-2] if block else b"NATS/1.0\r\n") + added.encode() + _CRLF


@functools.lru_cache(maxsize=64)
def rfc3339(time_ns: int) -> str:
    """The instant as the server writes it.

    >>> rfc3339(1_000_000_002)
    '1970-01-01T00:00:01.000000002Z'
    """
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()[:19]}.{nanoseconds:09d}Z"


def instant(text: str) -> float:
    """Unix seconds of an RFC 3339 instant."""
    return dt.datetime.fromisoformat(text).timestamp()
