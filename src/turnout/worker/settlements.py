"""Settlements that wait for a connection: what a record says of its message must reach the server in the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs

from turnout.errors import TurnoutError
from turnout.nats.boottime import boottime

ELSEWHERE_AFTER_S = 0.5
"""How long a settlement waits for the connection that has extended its lease. An extension that was on its way when
that connection broke has arrived by then, or never will: another connection may settle."""

Send = Callable[[str, bytes], None]
"""Publishes bytes to an ack subject; raises a TurnoutError while its connection is down."""


@attrs.frozen
class Settlement:
    """The bytes that settle a message. After `until`, by the clock of `boottime`, the server has given it to somebody
    else long ago: the record tells them what became of it."""

    ack: str
    data: bytes
    since: float
    until: float


class Settlements:
    """Sends settlements over one connection; over another where that one stays away. For one thread.

    `here` sends, `elsewhere` hands one to the other connection, which calls `add` again if it can't be sent there.
    """

    def __init__(self, here: Send, elsewhere: Callable[[Settlement], None]) -> None:
        self._here = here
        self._elsewhere = elsewhere
        self._waiting: deque[Settlement] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, ack: str, data: bytes, ack_wait_s: float) -> None:
        """Send it now, or as soon as there is a connection."""
        now = boottime()
        if self._waiting or not self._sent(ack, data):
            self.add(Settlement(ack, data, now, now + ack_wait_s))

    def add(self, settlement: Settlement) -> None:
        self._waiting.append(settlement)

    def flush(self) -> None:
        """Send what waits, where that is possible by now."""
        now = boottime()
        for _ in range(len(self._waiting)):
            each = self._waiting.popleft()
            if now > each.until or self._sent(each.ack, each.data):
                continue
            if now - each.since > ELSEWHERE_AFTER_S:
                self._elsewhere(each)
            else:
                self._waiting.append(each)

    def _sent(self, ack: str, data: bytes) -> bool:
        try:
            self._here(ack, data)
        except TurnoutError:
            return False
        return True
