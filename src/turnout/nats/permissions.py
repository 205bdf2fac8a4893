"""What the server did not allow. It says so in passing, to nobody in particular: otherwise it looks like silence."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from functools import partial

import attrs

from turnout.errors import PermissionDenied

_VIOLATION = re.compile(r'permissions violation for (publish|subscription)[^"]*"([^"]*)"', re.IGNORECASE)


@attrs.frozen
class Violation:
    """The server refused a publish or a subscription. `at` is in the server's unix seconds."""

    operation: str
    subject: str
    at: float

    def __str__(self) -> str:
        return f"{self.operation} of {self.subject} is not allowed"

    def error(self) -> PermissionDenied:
        verb = "publish to" if self.operation == "publish" else "subscribe to"
        return PermissionDenied(
            f"these credentials may not {verb} {self.subject}: allow it in the server's permissions"
        )


class Violations:
    """The last of them, oldest first."""

    def __init__(self) -> None:
        self.seen: deque[Violation] = deque(maxlen=64)
        self._listeners: list[Callable[[Violation], None]] = []

    def on_note(self, callback: Callable[[Violation], None]) -> Callable[[], None]:
        """Call `callback` with each that comes; returns what takes it back."""
        self._listeners.append(callback)
        return partial(self._listeners.remove, callback)

    def note(self, text: str, at: float) -> Violation | None:
        """Keep the violation that this error of the server tells of; None if it is about something else."""
        found = _VIOLATION.search(text)
        if found is None:
            return None
        violation = Violation(found[1].lower(), found[2], at)
        self.seen.append(violation)
        for callback in list(self._listeners):
            callback(violation)
        return violation

    def of_subscription(self, subject: str, since: float) -> Violation | None:
        """The refusal of this subscription, if there was one at or after `since`."""
        matching = (v for v in self.seen if v.operation == "subscription" and v.at >= since)
        return next((v for v in matching if v.subject == subject), None)
