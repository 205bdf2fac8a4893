"""Warnings that are given once: what repeats itself with every job must not fill the log."""

from __future__ import annotations

import logging

told: set[str] = set()
"""The kinds that this process has warned of."""


def warn_once(logger: logging.Logger, kind: str, message: str, *args: object) -> None:
    """Log a warning if it is the first of its `kind` in this process, else the same at debug. Any thread."""
    level = logging.DEBUG if kind in told else logging.WARNING
    told.add(kind)
    logger.log(level, message, *args)
