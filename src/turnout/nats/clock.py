"""The server's clock, measured from here: delays and deadlines are in its time, whatever the local clock says."""

from __future__ import annotations

import time
from typing import Protocol

DRIFT_PER_S = 0.0002  # how fast two clocks are assumed to part: a sample is worth less the older it is


class Alarm(Protocol):
    """Something that will be called, unless it is cancelled."""

    def cancel(self) -> None: ...


class ServerClock:
    """The local wall clock plus an offset, measured like NTP does: the server's instant lies within the round trip.

    The offset is 0 until the first sample. A sample replaces the offset if it is more exact than the old one is by now,
    or if it contradicts it: then one of the two clocks has been set.
    """

    def __init__(self) -> None:
        self.offset_s = 0.0
        self._error_s = float("inf")
        self._sampled_at = 0.0

    def now(self) -> float:
        """Unix seconds by the server's clock."""
        return time.time() + self.offset_s

    def observe(self, sent_at: float, received_at: float, server_time: float) -> None:
        """Take a sample: the local unix seconds of request and answer, and the server's instant in between."""
        error = max(0.0, received_at - sent_at) / 2
        offset = server_time - (sent_at + received_at) / 2
        old_error = self._error_s + abs(received_at - self._sampled_at) * DRIFT_PER_S
        if error <= old_error or abs(offset - self.offset_s) > error + old_error:
            self.offset_s, self._error_s, self._sampled_at = offset, error, received_at
