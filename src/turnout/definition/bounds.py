"""What a single submission may ask for of an activity, whoever sends it and by whatever client."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import attrs

from turnout.core.retry import seconds
from turnout.core.spec import MAX_ATTEMPTS, MAX_LABELS, MAX_TIMEOUT_S, SubmitOptions
from turnout.errors import InvalidValue

EARLIER = "earlier_bounds"
"""The entry of a contract's options that says which bounds were changed last, and when."""


def remembering(options: Mapping[str, Any], before: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The options of a contract that takes the place of one with those `before`: where the bounds are others, they also
    say which held until now, for the jobs that were accepted by then.

    >>> remembering({"bounds": {"labels": 1}}, {"max_lost": 3}, now=7.0)
    {'bounds': {'labels': 1}, 'earlier_bounds': {'until': 7.0, 'bounds': None}}
    """
    if options.get("bounds") != before.get("bounds"):
        return {**options, EARLIER: {"until": now, "bounds": before.get("bounds")}}
    return {**options, EARLIER: before[EARLIER]} if EARLIER in before else dict(options)


def _count(name: str, least: int, most: int) -> Any:
    def check(_instance: Any, _attribute: Any, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InvalidValue(f"Bounds: {name} must be an integer from {least} to {most}, not {value!r}")

    return check


def _timeout(value: float | timedelta) -> float:
    found = seconds(value, "Bounds: timeout")
    if not 0 < found <= MAX_TIMEOUT_S:
        raise InvalidValue(f"Bounds: timeout must be above 0 and at most {MAX_TIMEOUT_S:g} s, not {value!r}")
    return found


@attrs.frozen(kw_only=True)
class Bounds:
    """The most that one submission may ask for of an activity: by `.options(...)`, or in a header of a bare message.

    What asks for more is refused by the client, and what comes by other ways faults its job before its code runs. The
    activity's own options are its author's, and not bounded. `attempts`: of a retry policy. `timeout`: seconds or a
    timedelta. `labels`: how many.

    >>> Bounds(attempts=5, timeout=timedelta(hours=1)).timeout
    3600.0
    """

    attempts: int = attrs.field(default=MAX_ATTEMPTS, validator=_count("attempts", 1, MAX_ATTEMPTS))
    timeout: float = attrs.field(default=MAX_TIMEOUT_S, converter=_timeout)
    labels: int = attrs.field(default=MAX_LABELS, validator=_count("labels", 0, MAX_LABELS))

    @classmethod
    def of_contract(cls, options: Mapping[str, Any]) -> Bounds | None:
        """What an activity's contract says of them; None where it says nothing that makes sense."""
        try:
            return cls(**options["bounds"])
        except (KeyError, TypeError, ValueError):
            return None

    @classmethod
    def earlier(cls, options: Mapping[str, Any]) -> tuple[float, Bounds | None]:
        """Until which instant the activity had other bounds by its contract, and which; None is none of its own."""
        try:
            earlier = options[EARLIER]
            return float(earlier["until"]), cls.of_contract(earlier)
        except (KeyError, TypeError, ValueError):
            return 0.0, None

    def problem(self, activity: str, asked: SubmitOptions) -> str:
        """What of it is too much, in a sentence that is the same at every door; "" where it is within them."""
        exceeded = self._exceeded(asked)
        return f"activity {activity}: {exceeded}" if exceeded else ""

    def _exceeded(self, asked: SubmitOptions) -> str:
        attempts = 0 if asked.retry is None else asked.retry.max_attempts
        if attempts > self.attempts:
            return f"retry: a submission may ask for at most {self.attempts} attempts here, not {attempts}"
        if asked.timeout is not None and asked.timeout > self.timeout:
            return f"timeout: a submission may ask for at most {self.timeout:g} s here, not {asked.timeout:g}"
        if len(asked.labels) > self.labels:
            return f"labels: a submission may have at most {self.labels} of them here, not {len(asked.labels)}"
        return ""

    def check(self, activity: str, asked: SubmitOptions) -> None:
        """InvalidValue for what asks for more."""
        if problem := self.problem(activity, asked):
            raise InvalidValue(problem)
