"""Virtual time."""

from __future__ import annotations


class Clock:
    """A time in seconds that goes on only when it is told to, and never back. Several loops may share one."""

    __slots__ = ("now",)

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def advance_to(self, moment: float) -> None:
        """Let it be `moment`, unless it is later already."""
        self.now = max(self.now, moment)

    def __call__(self) -> float:
        return self.now
