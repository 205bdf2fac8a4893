"""For how long the records of ended jobs are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import attrs

from turnout.core.record import JobState
from turnout.core.retry import seconds
from turnout.errors import InvalidValue

LEAST_RETENTION_S = 3600.0
"""A final record lives at least this long: acks that come back after a server crash must meet it (P9)."""

DEAD_LETTERS_KEPT_S = 30 * 86_400.0
"""How long dead letters are kept by default. A job that was retried is remembered for as long, however it ended: with
its record gone, the dead letter of its earlier life would look as if nobody had dealt with it."""

_SHORTEST_S = 1.0  # what the server can do

_shortened: list[None] = []
"""An item for everybody in this process who wants to see records go."""


@contextlib.contextmanager
def short_retention() -> Iterator[None]:
    """Let a retention be as short as a second in this process: for tests that want to see records go."""
    _shortened.append(None)
    try:
        yield
    finally:
        _shortened.pop()


def least_retention() -> float:
    return _SHORTEST_S if _shortened else LEAST_RETENTION_S


def _kept(value: float | timedelta, name: str) -> float:
    try:
        return seconds(value, f"Retention: {name}", least=least_retention())
    except InvalidValue as error:
        raise InvalidValue(f"{error}: a record must outlive what a server brings back after a crash") from None


def _completed(value: float | timedelta) -> float:
    return _kept(value, "completed")


def _faulted(value: float | timedelta) -> float:
    return _kept(value, "faulted")


def _cancelled(value: float | timedelta) -> float:
    return _kept(value, "cancelled")


@attrs.frozen(kw_only=True)
class Retention:
    """How long the record of an ended job is kept, in seconds or as `timedelta`; its id may run again afterwards.

    At least an hour, and ten years at most; else InvalidValue (a ValueError).

    >>> Retention(completed=timedelta(days=1)).completed
    86400.0
    """

    completed: float = attrs.field(default=7 * 86_400.0, converter=_completed)
    faulted: float = attrs.field(default=30 * 86_400.0, converter=_faulted)
    cancelled: float = attrs.field(default=7 * 86_400.0, converter=_cancelled)

    def of(self, state: JobState, generation: int = 1) -> float:
        chosen: float = getattr(self, state)
        return max(chosen, least_retention() if generation == 1 else DEAD_LETTERS_KEPT_S)
