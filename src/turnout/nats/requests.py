"""The requests that wait for an answer: who asked, until when, and what the answer means.

All answers come in on one inbox; the last token of the reply subject names the call. An answer resolves its future
straight from the read loop: no task and no queue per request. Nothing waits for ever: every call has a deadline, and
all of them fail at once when the connection goes down.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, TypeVar

from turnout.errors import TurnoutError
from turnout.nats.messages import Message, NoResponders, PubAck, RequestTimeout, pub_ack, received

T = TypeVar("T")
Answers = list[tuple[bytes, bytes]]
"""The bodies and header blocks of many answers, as they came; the last is the server's notice that this was all."""

Accept = Callable[[str, bytes, bytes, bytes | None], T]
"""(subject asked, inbox subject, data, raw headers) -> the answer's value; a refusal is raised as a TurnoutError."""


_BETWEEN_ANSWERS_S = 5.0
_AT = b"\r\nNats-Sequence: "
"""Tells a stored message from a notice, even one that somebody has published with a notice's status."""


def accept_received(_asked: str, inbox: bytes, data: bytes, raw: bytes | None) -> Message:
    return received(inbox, b"", data, raw)


def accept_pub_ack(asked: str, _inbox: bytes, data: bytes, _raw: bytes | None) -> PubAck:
    return pub_ack(data, asked)


_Call = tuple["asyncio.Future[Any]", str, float, Accept[Any]]
"""(the answer's future, the subject asked, the deadline, what the answer means): a tuple, since most are made and
forgotten within a millisecond."""


class _Batch:
    """A request with many answers. They queue here for its reader, who bounds them by what it asks for."""

    __slots__ = ("asked", "queue")

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self.queue: asyncio.Queue[Message | TurnoutError] = asyncio.Queue()

    def take(self, inbox: bytes, data: bytes, raw: bytes | None) -> None:
        self.queue.put_nowait(received(inbox, b"", data, raw))

    def fail(self, error: TurnoutError) -> None:
        self.queue.put_nowait(error)


class _Page:
    """A request whose many answers are handed over at once, unparsed: whoever asked wakes up for the last one only."""

    __slots__ = ("answers", "asked", "deadline", "future", "seen")

    def __init__(self, future: asyncio.Future[Answers], asked: str, deadline: float) -> None:
        self.answers: Answers = []
        self.asked = asked
        self.deadline = deadline
        self.future = future
        self.seen = 0

    def take(self, _inbox: bytes, data: bytes, raw: bytes | None) -> None:
        self.answers.append((data, raw or b""))
        if raw is not None and raw.startswith(b"NATS/1.0 ") and _AT not in raw and not self.future.done():
            self.future.set_result(self.answers)

    def fail(self, error: TurnoutError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def late(self, now: float, timeout_s: float) -> bool:
        """Whether its time is over: it begins anew for as long as answers come."""
        if len(self.answers) > self.seen:
            self.seen, self.deadline = len(self.answers), now + timeout_s
        return self.deadline <= now


class Calls:
    """The calls in flight, by the token of their reply subject."""

    def __init__(self) -> None:
        self._tokens = itertools.count(1)
        self._calls: dict[bytes, _Call] = {}
        self._batches: dict[bytes, _Batch | _Page] = {}

    def __len__(self) -> int:
        return len(self._calls) + len(self._batches)

    def token(self) -> str:
        return format(next(self._tokens), "x")

    def expect(
        self, loop: asyncio.AbstractEventLoop, token: str, asked: str, timeout_s: float, accept: Accept[T]
    ) -> asyncio.Future[T]:
        """A future for the answer to `token`. Its deadline is enforced by `expire`, to within the watchdog's tick."""
        future: asyncio.Future[T] = loop.create_future()
        self._calls[token.encode()] = future, asked, loop.time() + timeout_s, accept
        return future

    def expect_many(self, token: str, asked: str) -> asyncio.Queue[Message | TurnoutError]:
        batch = self._batches[token.encode()] = _Batch(asked)
        return batch.queue

    def expect_page(
        self, loop: asyncio.AbstractEventLoop, token: str, asked: str, timeout_s: float
    ) -> asyncio.Future[Answers]:
        """A future for all answers to `token`. The deadline is for the first, and again for each that follows."""
        future: asyncio.Future[Answers] = loop.create_future()
        self._batches[token.encode()] = _Page(future, asked, loop.time() + timeout_s)
        future.add_done_callback(lambda _: self.forget(token))
        return future

    def forget(self, token: str) -> None:
        self._calls.pop(token.encode(), None)
        self._batches.pop(token.encode(), None)

    def answer(self, token: bytes, inbox: bytes, data: bytes, raw: bytes | None) -> None:
        call = self._calls.pop(token, None)
        if call is None:
            batch = self._batches.get(token)
            if batch is not None:
                batch.take(inbox, data, raw)
            return
        future, asked, _, accept = call
        if future.done():
            return
        try:
            if raw and raw.startswith(b"NATS/1.0 503"):
                raise no_responders(asked)
            future.set_result(accept(asked, inbox, data, raw))
        except Exception as error:  # whatever an odd answer does to its parser belongs to the one who asked
            future.set_exception(error)

    def expire(self, now: float) -> None:
        """Fail the calls whose deadline has passed, and drop those that nobody waits for any more."""
        late = [token for token, (future, _, deadline, _) in self._calls.items() if deadline <= now or future.done()]
        for token in late:
            future, asked, _, _ = self._calls.pop(token)
            if not future.done():
                future.set_exception(no_answer(asked))
        for batch in self._batches.values():
            if isinstance(batch, _Page) and batch.late(now, _BETWEEN_ANSWERS_S):
                batch.fail(no_answer(batch.asked))

    def fail(self, error: Callable[[], TurnoutError], asked: str | None = None) -> None:
        """Fail every call, or those that asked on this subject."""
        for token, (future, subject, _, _) in list(self._calls.items()):
            if asked is None or subject == asked:
                del self._calls[token]
                if not future.done():
                    future.set_exception(error())
        for batch in self._batches.values():
            if asked is None or batch.asked == asked:
                batch.fail(error())


async def next_answer(queue: asyncio.Queue[Message | TurnoutError], timeout_s: float, asked: str) -> Message:
    """The next of many answers; raises what ended the call, or `RequestTimeout`."""
    if queue.empty():
        try:
            async with asyncio.timeout(timeout_s):
                item = await queue.get()
        except TimeoutError:
            raise no_answer(asked) from None
    else:
        item = queue.get_nowait()
    if isinstance(item, TurnoutError):
        raise item
    return item


def no_responders(asked: str) -> NoResponders:
    return NoResponders(f"nothing answers on {asked}: its stream or service does not exist, or is away")


def no_answer(asked: str) -> RequestTimeout:
    return RequestTimeout(f"no answer on {asked} in time; whether it was carried out is unknown")
