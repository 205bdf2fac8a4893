"""Who may call others dead (P5): whoever has been in time for one TTL himself, and has let the others come back."""

from __future__ import annotations

from turnout.nats.boottime import boottime

RETURN_S = 8.0
"""How long others may take to be back where we are back already: a dial to a server that says nothing (5 s), and the
longest wait between two (3 s). A liveness TTL may be shorter."""


class FailureDetector:
    """Whether this process may call others dead, whose liveness lasts `ttl_s`.

    It is told of each sign of life of ours that should come several times in a TTL: a write of our own key, say, or a
    look at those of others. Any thread may ask.
    """

    def __init__(self, ttl_s: float) -> None:
        self.in_time_at: float | None = None
        """When the last sign of life succeeded, by the clock of `boottime`."""
        self._ttl_s = ttl_s
        self._sure_at = 0.0
        self._failed = False

    def succeeded(self) -> None:
        """A sign of life got through."""
        now = boottime()
        if self._failed:
            self._sure_at = now + max(self._ttl_s, RETURN_S)  # the server was away, for others perhaps longer
        elif self.in_time_at is None or now - self.in_time_at > self._ttl_s / 2:
            self._sure_at = now + self._ttl_s
        self.in_time_at, self._failed = now, False

    def failed(self) -> None:
        """A sign of life did not get through, or the connection that carries them was lost."""
        self._failed = True

    def __call__(self) -> bool:
        """Whether all of them came in time, for long enough. The last one must be recent as well: nobody has noticed a
        suspension that has only just ended."""
        now = boottime()
        recent = self.in_time_at is not None and now - self.in_time_at < self._ttl_s / 2
        return recent and not self._failed and now > self._sure_at
