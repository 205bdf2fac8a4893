"""Walking a stream of any size in little memory: page after page from its beginning, or window after window from its
end. The next page is asked for before the last one is given out, so that the server reads while the caller works; but
for those who are in no hurry.

What is written during a walk lies behind the end that the stream had: a walk forwards sees it, one backwards tells by
its `top` where to look for it. Reads come from any replica and may be a moment old.
"""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import attrs

from turnout.nats.connection import Connection
from turnout.nats.direct import Page, Raw, Skip, page_of, raw_of
from turnout.nats.requests import Answers

PAGE = 2048
"""How many messages a page has at most: of the records of quick jobs that is 2 MB, and 20 ms of reading."""

_READ = 4 * PAGE
"""How many are asked for at once by whoever reads all of them, page after page: fewer reads, each of which costs the
server its count of what is left."""

SMALL_PAGE = 512
"""For whoever is in no hurry, and shares the memory of a worker. A smaller one would cost the server more: it counts
what is left for each page, which takes it 5 ms."""

WINDOW = 1024
"""About how many messages the first window of a walk backwards has; those after it grow up to a page."""

PAGE_BYTES = 8 * 1024 * 1024
_FEW = 256
_SUBJECTS = 1024  # the server's own limit for one read of last values
_STEP = 16  # by how much a window may be wider than the one before it
_LEAST_BATCH = 32
_IN_FLIGHT = 256
"""How many messages are asked for one by one at once."""
_END = 2**63
_REST = 4.0
"""Whoever is in no hurry rests for so many times as long as a page took."""


async def forward(connection: Connection, stream: str, subject: str, seq: int = 1) -> AsyncGenerator[list[Raw]]:
    """The messages on `subject` (wildcards allowed) from `seq` on, page after page, until there are no more."""
    ahead = _ask(connection, stream, subject, seq, _READ)
    try:
        while True:
            read = await _page(ahead, stream)
            if read.messages and read.more:
                ahead = _ask(connection, stream, subject, read.messages[-1].seq + 1, _READ)
            for begin in range(0, len(read.messages), PAGE):
                yield read.messages[begin : begin + PAGE]
                await asyncio.sleep(0)  # others on this loop have their turn
            if not read.messages or not read.more:
                return
    finally:
        ahead.cancel()


async def unhurried(
    connection: Connection, stream: str, subject: str, seq: int = 1, *, rest: float = _REST, skip: Skip | None = None
) -> AsyncGenerator[list[Raw]]:
    """`forward`, for whoever looks after things beside the work: small pages, nothing read ahead, and after each page a
    rest of so many times as long as it took: four fifths of the server's time and of this process's, or more, are left
    to others. A page is emptied when the next one is asked for, and has at least its last message, whatever is to be
    skipped."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        messages, more = await _page(_ask(connection, stream, subject, seq, SMALL_PAGE), stream, skip)
        if messages:
            seq = messages[-1].seq + 1
            yield messages
        if not messages or not more:
            return
        messages.clear()
        await asyncio.sleep(rest * (loop.time() - began))


async def some(
    connection: Connection, stream: str, subject: str, seq: int, count: int, *, skip: Skip | None = None
) -> Page:
    """At most `count` messages on `subject`, the first ones from `seq` on, and how many others are behind them. The
    last one is there, also if it is to be skipped."""
    return await _page(_ask(connection, stream, subject, seq, count), stream, skip)


async def few(connection: Connection, stream: str, subject: str) -> AsyncGenerator[list[Raw]]:
    """All messages on `subject` (wildcards allowed), piece after piece, where others have very many in this stream.

    The first one is read alone, and tells how many there are; then as many are asked for and no more. The server has
    an index of the first one, but whoever asks for one that is not there has it look through all that lies behind.
    """
    page = await some(connection, stream, subject, 1, 1)
    yield page.messages
    begin, left = 1, 1 + page.more  # from the beginning once more: only there the server has its count at hand
    while page.messages and page.more:
        last = page.messages[-1].seq
        page = await some(connection, stream, subject, begin, min(left, _FEW))
        yield [raw for raw in page.messages if raw.seq > last]
        if page.messages:
            begin, left = page.messages[-1].seq + 1, page.more


async def stored_since(connection: Connection, stream: str, subject: str, instant: float) -> int:
    """How many messages on `subject` (wildcards allowed) were stored at this instant (unix seconds) or later."""
    begin = datetime.datetime.fromtimestamp(instant, datetime.UTC).isoformat()
    body = {"start_time": begin, "next_by_subj": subject, "batch": 1, "max_bytes": PAGE_BYTES}
    page = await _page(connection.ask_page(_verb(stream), body), stream)
    return len(page.messages) + page.more


async def at_sequences(connection: Connection, stream: str, seqs: Iterable[int]) -> list[Raw]:
    """The messages at these places of a stream that are there still, in no order."""
    wanted = list(seqs)
    found: list[Raw] = []
    for begin in range(0, len(wanted), _IN_FLIGHT):
        some = wanted[begin : begin + _IN_FLIGHT]
        asked = [connection.request_nowait(_verb(stream), b'{"seq":%d}' % seq) for seq in some]
        try:
            for answer in asked:
                message = await answer
                if message.status is None:
                    found.append(raw_of(message))
        finally:
            for answer in asked:
                answer.cancel()
    return found


async def newest_of(connection: Connection, stream: str, subjects: Iterable[str]) -> dict[bytes, Raw]:
    """The newest message of each of the subjects that has one."""
    wanted = list(subjects)
    found: dict[bytes, Raw] = {}
    for begin in range(0, len(wanted), _SUBJECTS):
        body: dict[str, Any] = {"multi_last": wanted[begin : begin + _SUBJECTS], "batch": _SUBJECTS}
        while True:
            page = await _page(connection.ask_page(_verb(stream), {**body, "max_bytes": PAGE_BYTES}), stream)
            found |= {raw.subject: raw for raw in page.messages}
            if not page.messages or not page.more:
                break
            body["seq"] = page.messages[-1].seq + 1
    return found


@attrs.frozen
class _Asked:
    """A window of sequences, from `low` to below `high`, whose first page is on its way."""

    low: int
    high: int
    width: int
    answers: asyncio.Future[Answers]


class Backward:
    """A walk from the end of a stream to its beginning.

    Nothing reads backwards: a window of sequences is read forwards. Sequences have gaps (a bucket keeps the last value
    of a key only, and a subject may be rare), so the width of a window follows from how full the one before it was.
    """

    def __init__(self, connection: Connection, stream: str, subject: str) -> None:
        self.top = 0
        """With the first window: up to which sequence the walk goes. What is written later lies above it."""
        self._connection = connection
        self._stream = stream
        self.subject = subject
        self._size = WINDOW
        self._density = 1.0
        self._widest = 0

    async def windows(self) -> AsyncGenerator[list[Raw]]:
        """The windows, the newest first, each in the order of the stream. Some may be empty.

        The first one reaches to the end of the stream as it is when it is read: a small stream is seen as it is at one
        moment. Nothing is read ahead of it: whoever wants the newest few asks for no more.
        """
        state = (await self._connection.api(f"STREAM.INFO.{self._stream}"))["state"]
        first, last = int(state["first_seq"]), int(state["last_seq"])
        self._density = max(1, int(state["messages"])) / max(1, last - first + 1)
        below, ahead = _END, None
        try:
            while below > first:
                asked, ahead = ahead or self._ask_window(first, last, below), None
                window, size = await self._read(asked)
                if window is None:
                    self._narrow(asked.width)
                    continue
                if below == _END:
                    # By what was read, not by the leader's word: the replica that answered may be a moment behind it.
                    self.top = window[-1].seq if window else asked.low - 1
                self._learn(len(window), size, asked.width)
                if below != _END and asked.low > first:
                    ahead = self._ask_window(first, last, asked.low)
                below = asked.low
                yield window
        finally:
            if ahead is not None:
                ahead.answers.cancel()

    def _ask_window(self, first: int, last: int, below: int) -> _Asked:
        end = min(below, last + 1)
        width = math.ceil(self._size / self._density)
        if self._widest:
            width = min(width, self._widest * _STEP)
        low = max(first, end - max(1, width))
        width = max(1, end - low)
        batch = min(PAGE, max(_LEAST_BATCH, math.ceil(1.1 * width * self._density)))
        if below != _END:
            batch = min(batch, width)
        answers = _ask(self._connection, self._stream, self.subject, low, batch)
        return _Asked(low, below, width, answers)

    async def _read(self, asked: _Asked) -> tuple[list[Raw] | None, int]:
        """The messages of the window and their bytes; None for the messages when they are too many to hold."""
        found: list[Raw] = []
        size, answers = 0, asked.answers
        while True:
            page = await _page(answers, self._stream)
            inside = [raw for raw in page.messages if raw.seq < asked.high]
            found += inside
            size += sum(len(raw.data) for raw in inside)
            after = page.messages[-1].seq + 1 if page.messages else _END
            if not page.more or after >= asked.high:
                return found, size
            if len(found) > 2 * PAGE or size > 2 * PAGE_BYTES:
                # What is left of the newest, when the stream grows faster than it is read, is behind its end then.
                return (None if asked.width > 1 else found), size
            answers = _ask(self._connection, self._stream, self.subject, after, min(PAGE, asked.high - after))

    def _learn(self, messages: int, size: int, width: int) -> None:
        self._widest = width
        self._density = max(messages, 0.5) / width
        if size < PAGE_BYTES // 4:
            self._size = min(self._size * 2, PAGE)

    def _narrow(self, width: int) -> None:
        """The window held too much: try a quarter of it."""
        self._widest = 0
        self._size = max(1, self._size // 4)
        self._density = max(self._density, self._size * 4 / width)


def _verb(stream: str) -> str:
    return f"$JS.API.DIRECT.GET.{stream}"


def _ask(connection: Connection, stream: str, subject: str, seq: int, batch: int) -> asyncio.Future[Answers]:
    body = {"seq": max(1, seq), "next_by_subj": subject, "batch": batch, "max_bytes": PAGE_BYTES}
    return connection.ask_page(_verb(stream), body)


async def _page(answers: asyncio.Future[Answers], stream: str, skip: Skip | None = None) -> Page:
    return page_of(await answers, _verb(stream), skip)
