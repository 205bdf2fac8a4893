"""A monotonic clock that goes on while the machine or the process is suspended: leases do, on the server."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


_read = time.clock_gettime


def boottime() -> float:
    """Seconds since some fixed moment, those of a suspension included where the system can tell."""
    return _read(_CLOCK)
