"""Reading many messages at once, from any replica of a stream: `$JS.API.DIRECT.GET`.

The server ends a batch early when it has sent 64 MiB of it, and that is no error. So a batch is asked for in rounds of
a bounded size, which also bounds what waits in memory, and the next round begins after the last message.

`direct_get` gives messages one by one, parsed. `page_of` is for those who read very many (walk.py): a whole answer at
once, of which only the place of each message is read.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from itertools import filterfalse
from typing import Any, NamedTuple

import attrs

from turnout.nats.messages import (
    ApiError,
    Message,
    StoredMessage,
    line_in,
    parse_headers,
    received,
    stored_by_direct_get,
    unix_ns,
)
from turnout.nats.requests import Answers, no_responders

ROUND_BYTES = 8 * 1024 * 1024

Ask = Callable[[str, Mapping[str, Any]], AsyncGenerator[Message]]
"""(subject, body) -> the answers, which end only when the reader closes them."""


async def direct_get(ask: Ask, stream: str, body: Mapping[str, Any]) -> AsyncIterator[StoredMessage]:
    """The messages that `body` asks for. Each subject of a `multi_last` comes once, even if it moves meanwhile."""
    subject = f"$JS.API.DIRECT.GET.{stream}"
    many, wanted = "batch" in body or "multi_last" in body, body.get("batch")
    rest = {"max_bytes": ROUND_BYTES, **body} if many else dict(body)
    count, seen = 0, set[str]()
    while True:
        last_seq = pending = 0
        async with aclosing(ask(subject, rest)) as answers:
            async for message in answers:
                if message.status is not None:
                    pending = _pending(message, subject)
                    break
                stored = stored_by_direct_get(message)
                count, last_seq = count + 1, stored.seq
                if stored.subject in seen:
                    continue
                if "multi_last" in body:
                    seen.add(stored.subject)
                yield stored
                if not many:
                    return
        if not pending or not last_seq or (wanted is not None and count >= wanted):
            return
        rest["seq"] = last_seq + 1
        rest.pop("start_time", None)
        if wanted is not None:
            rest["batch"] = wanted - count


def found_in(answer: Message, subject: str) -> StoredMessage | None:
    """The message in the answer to a direct read of one, None if there is none; whatever status its publisher wrote."""
    if _SEQUENCE in answer.block:
        return stored_by_direct_get(answer)
    _pending(answer, subject)
    return None


def _pending(end: Message, subject: str) -> int:
    """How many messages the server has beyond the end of this round; raises if it is not just the end."""
    if end.status in (204, 404):
        return int(end.headers.get("Nats-Num-Pending", 0))
    if end.status == 503:
        raise no_responders(subject)
    raise ApiError(end.status or 500, 0, end.description, subject)


# --- whole pages, unparsed -------------------------------------------------------------------------------------------


@attrs.define
class Raw:
    """A stored message as it came, for whoever reads many and parses few. `block` are its headers, unparsed.

    Not to be changed, and yet not frozen: that would take three times as long, for each of very many.
    """

    seq: int
    subject: bytes
    data: bytes
    block: bytes

    @property
    def time_ns(self) -> int:
        """When it was stored, in unix nanoseconds of the server."""
        return unix_ns((line_in(self.block, _TIME) or b"").decode())

    def parsed(self) -> StoredMessage:
        return stored_by_direct_get(Message("", "", self.data, self.block))


class Page(NamedTuple):
    """The messages of one direct read, in the order of the stream; `more`: how many others are behind them."""

    messages: list[Raw]
    more: int


_TIME = b"\r\nNats-Time-Stamp: "
_SUBJECT = b"\r\nNats-Subject: "
_SEQUENCE = b"\r\nNats-Sequence: "
_PLACE = re.compile(rb"\r\nNats-Subject: ([^\r]*)\r\nNats-Sequence: (\d+)\r\nNats-Time-Stamp: ")


Skip = Callable[[tuple[bytes, bytes]], bool]
"""(the data and the headers of a message, unparsed) -> whether its reader can do without it."""


def page_of(answers: Answers, subject: str, skip: Skip | None = None) -> Page:
    """The page in the answers to a direct read; raises what the server says is wrong. 12 us of CPU for a record.

    The messages that `skip` says are left out, but for the last one, which tells how far the page reaches.
    """
    _, last = answers[-1]
    end = received(b"", b"", b"", last)
    found = answers[:-1]
    if skip is not None:
        found[:-1] = filterfalse(skip, found[:-1])
    return Page([_raw(data, block) for data, block in found], _pending(end, subject))


def subject_in(block: bytes) -> bytes:
    """The subject of a stored message, as its headers tell."""
    return line_in(block, _SUBJECT) or b""


def raw_of(message: Message) -> Raw:
    """The message in the answer to a direct read of one."""
    return _raw(message.data, message.block)


def _raw(data: bytes, block: bytes) -> Raw:
    # The server's own headers come last: what a publisher may have written under their names lies before.
    found = _PLACE.match(block, block.rfind(_SUBJECT))
    if found is None:
        _, _, headers = parse_headers(block)
        return Raw(int(headers["Nats-Sequence"]), headers["Nats-Subject"].encode(), data, block)
    return Raw(int(found[2]), found[1], data, block)
