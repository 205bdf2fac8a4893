"""Logging of the program `turnout`: lines on stderr, each with the job that it is about."""

from __future__ import annotations

import logging
import sys

_OF_JOB = (("turnout_job", "job"), ("turnout_attempt", "attempt"), ("trace_id", "trace"))


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        told = " ".join(f"{name}={value}" for key, name in _OF_JOB if (value := getattr(record, key, None)))
        if not told:
            return text
        first, newline, rest = text.partition("\n")
        return f"{first} [{told}]{newline}{rest}"


def set_up(level: str | None, default: int) -> None:
    """Log on stderr from `level` up. A program that has set up its own logging at import keeps it."""
    chosen = default if level is None else logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(handler)
        root.setLevel(max(chosen, logging.INFO))  # others' debug lines are theirs to ask for
    logging.getLogger("turnout").setLevel(chosen)
