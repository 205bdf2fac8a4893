"""A message as a stream keeps it."""

from __future__ import annotations

from collections.abc import Mapping

from turnout.nats.messages import StoredMessage
from turnout.testing.memory.wire import block_of


class Message:
    """A stored message. `expires_at`: unix seconds, None for one that stays. Its headers are not to be changed."""

    __slots__ = ("_block", "data", "expires_at", "headers", "seq", "stored", "subject", "time_ns")

    def __init__(self, seq: int, time_ns: int, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        self.seq = seq
        self.time_ns = time_ns
        self.subject = subject
        self.data = data
        self.headers = headers
        self.expires_at: float | None = None
        self.stored: StoredMessage | None = None
        self._block: bytes | None = None

    def __repr__(self) -> str:
        return f"<message {self.seq} on {self.subject}>"

    @property
    def block(self) -> bytes:
        """The headers as they go over the wire, b"" when there are none."""
        if self._block is None:
            self._block = block_of(self.headers)
        return self._block

    def as_stored(self) -> StoredMessage:
        """The message as a reader gets it."""
        if self.stored is None:
            self.stored = StoredMessage(self.subject, self.seq, self.time_ns, self.data, dict(self.headers))
        return self.stored
