"""Reading what was handed to somebody and is still there, each message once.

Everything up to the sequence that a consumer has delivered was in somebody's hands. A message is read when it was
delivered a while ago, so that quick jobs, however many, are never read: they are gone by then. The next reading begins
behind it. Consumers have their turns page by page: a million messages that wait for one activity keep no other waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable

import attrs

from turnout.nats.direct import Raw
from turnout.nats.pages import some
from turnout.store.consumers import Consumer
from turnout.store.perform import Store

_PAGE = 512
_AT_FULL_SPEED = 64
"""So many pages are read without a rest: a term begins with that."""

_REST = 2.0
"""For so many times as long as a page took the others have their turn."""


@attrs.frozen
class Mark:
    """At an instant a consumer had delivered up to this sequence."""

    at: float
    seq: int


class Cursor:
    """How far one consumer's messages are read."""

    def __init__(self, consumer: Consumer, subjects: Iterable[str]) -> None:
        self.consumer = consumer
        self.read_up_to = dict.fromkeys(subjects, 0)
        self._marks: deque[Mark] = deque()
        self._newest = 0

    def mark(self, consumer: Consumer, now: float) -> bool:
        """Remember how far it has come; False when it is another consumer, of which nothing is known."""
        if consumer.created != self.consumer.created or consumer.delivered_seq < self._newest:
            return False
        self.consumer = consumer
        if consumer.delivered_seq > self._newest:
            self._newest = consumer.delivered_seq
            self._marks.append(Mark(now, consumer.delivered_seq))
        return True

    @property
    def marked(self) -> bool:
        """Whether it has delivered what was not taken."""
        return bool(self._marks)

    def take(self, before: float) -> Mark | None:
        """What it had delivered by then, if that is more than what was taken last."""
        taken = None
        while self._marks and self._marks[0].at <= before:
            taken = self._marks.popleft()
        return taken

    def put_back(self, mark: Mark) -> None:
        """It could not be read now."""
        self._marks.appendleft(mark)


class Reading:
    """What the consumers have handed over, page by page."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cursors: dict[str, Cursor] = {}

    def begin(self) -> None:
        """Read all of it again."""
        self._cursors = {}

    @property
    def unread(self) -> bool:
        """Whether something was handed over that is not read yet."""
        return any(cursor.marked for cursor in self._cursors.values())

    async def pages(
        self, consumers: Iterable[Consumer], now: float, least_age_s: float
    ) -> AsyncGenerator[tuple[Consumer, float, list[Raw]]]:
        """What these had delivered `least_age_s` ago and was not read yet, with the instant of which that is known.

        Of a consumer that is met for the first time everything is read at once.
        """
        todo = {}
        for consumer in consumers:
            cursor, age_s = self._cursors.get(consumer.name), least_age_s
            if cursor is None or not cursor.mark(consumer, now):
                cursor, age_s = Cursor(consumer, consumer.subjects(self._store.names)), 0.0
                cursor.mark(consumer, now)
                self._cursors[consumer.name] = cursor
            if (mark := cursor.take(now - age_s)) is not None:
                todo[consumer.name] = mark
        count = 0
        try:
            while todo:
                for name, mark in list(todo.items()):
                    cursor = self._cursors[name]
                    began = asyncio.get_running_loop().time()
                    messages, more = await self._page(cursor, mark.seq)
                    count += 1
                    if not more:
                        del todo[name]
                    if messages:
                        yield cursor.consumer, mark.at, messages
                        took_s = asyncio.get_running_loop().time() - began
                        await asyncio.sleep(0 if count < _AT_FULL_SPEED else _REST * took_s)
        finally:
            for name, mark in todo.items():
                self._cursors[name].put_back(mark)

    async def _page(self, cursor: Cursor, top: int) -> tuple[list[Raw], bool]:
        """The next messages up to this sequence, and whether there are others."""
        for subject, read_up_to in cursor.read_up_to.items():
            if read_up_to >= top:
                continue
            begin = read_up_to + 1
            page = await some(
                self._store.connection, self._store.names.work, subject, begin, min(_PAGE, top - read_up_to)
            )
            messages = [raw for raw in page.messages if raw.seq <= top]
            done = not page.more or len(messages) < len(page.messages) or not messages
            cursor.read_up_to[subject] = top if done else messages[-1].seq
            return messages, any(seq < top for seq in cursor.read_up_to.values())
        return [], False
