"""Lines that are given once, or rarely: what repeats itself with every job or every look must not fill the log."""

from __future__ import annotations

import logging
import time

RARELY_S = 60.0

warned: set[str] = set()
"""The kinds that this process has warned of."""

_KINDS_MOST = 1024


def warn_once(logger: logging.Logger, kind: str, message: str, *args: object) -> None:
    """Log a warning if it is the first of its `kind` in this process, else the same at debug. Any thread."""
    level = logging.DEBUG if kind in warned else logging.WARNING
    if len(warned) >= _KINDS_MOST:  # some are subjects, which anybody may make up
        warned.clear()
    warned.add(kind)
    logger.log(level, message, *args)


_said: dict[str, float] = {}


def log_rarely(logger: logging.Logger, level: int, kind: str, message: str, *args: object) -> None:
    """Log at `level` if the last of its `kind` in this process is a minute old, else the same at debug. Any thread."""
    now = time.monotonic()
    if level <= logging.DEBUG:
        pass
    elif now - _said.get(kind, -RARELY_S) < RARELY_S:
        level = logging.DEBUG
    else:
        _said[kind] = now
    logger.log(level, message, *args)
