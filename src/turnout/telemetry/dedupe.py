"""Complaints of the OpenTelemetry packages, told once: they repeat themselves at each batch, or with each job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from turnout.once import warn_once

logger = logging.getLogger("turnout.telemetry")

Words = Callable[[logging.LogRecord], tuple[str, str] | None]
"""What kind of complaint it is, and what we say of it; None leaves it to others."""


class WarnOnce(logging.Filter):
    """Says the first of a kind in our words, as a warning, and the rest of them at debug."""

    def __init__(self, words: Words) -> None:
        super().__init__()
        self._words = words

    def filter(self, record: logging.LogRecord) -> bool:
        words = self._words(record) if record.levelno >= logging.WARNING else None
        if words is None:
            return True
        kind, message = words
        warn_once(logger, kind, "%s", message)
        return False


def dedupe_logs(modules: Iterable[str], words: Words) -> None:
    """Let the loggers of these modules complain once of each kind. Again and again is as once."""
    for module in modules:
        target = logging.getLogger(module)
        if not any(isinstance(each, WarnOnce) for each in target.filters):
            target.addFilter(WarnOnce(words))


def as_it_is(record: logging.LogRecord) -> tuple[str, str]:
    """In its own words, once for each place that it comes from."""
    return f"{record.name}: {record.msg}", f"{record.getMessage()} (told once)"


PROPAGATORS = (
    "opentelemetry.baggage.propagation",
    "opentelemetry.baggage",
    "opentelemetry.trace.propagation.tracecontext",
    "opentelemetry.trace.span",
)
"""Who complains of each job's headers."""
