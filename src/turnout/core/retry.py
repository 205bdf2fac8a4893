"""The retry policy: a small frozen value that answers one question, how long to wait before the next attempt.

Pure: the random number of the jitter is an argument. Exceptions are matched by qualified class name over the raised
exception's MRO, so that a policy that came with a submission needs no import of the class it names.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import PurePath

import attrs

from turnout.errors import InvalidValue

MAX_DELAY_S = 10 * 365 * 86_400.0
"""Longest delay that is accepted anywhere; also keeps sums of instants finite."""


def seconds(value: float | timedelta, name: str, *, least: float = 0.0) -> float:
    """`value` in seconds; InvalidValue naming `name` when it is no number, not finite, or less than `least`."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(f"{name} must be seconds or a timedelta, not {value!r}")
    if not math.isfinite(value) or value < least or value > MAX_DELAY_S:
        raise InvalidValue(f"{name} must be at least {least:g} s and at most ten years, not {value!r}")
    return float(value)


def qualified(cls: type) -> str:
    """The name that policies and records know an exception class by.

    A class of the script that is run goes by the name that others import the script by: a worker knows no `__main__` of
    the one who submitted.
    """
    return f"{_own_name(cls.__module__)}.{cls.__qualname__}"


def _own_name(module: str) -> str:
    if module not in ("__main__", "__mp_main__"):
        return module
    main = sys.modules.get(module)
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)  # python -m module
    file = getattr(main, "__file__", None)
    return PurePath(file).stem if file else module


def mro_names(error: BaseException) -> tuple[str, ...]:
    """The qualified names of the exception's class and its bases, the most derived first."""
    return tuple(qualified(c) for c in type(error).__mro__ if c is not object)


def _delay(value: float | timedelta) -> float:
    return seconds(value, "retry delay and max_delay")


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str | type) or not isinstance(value, Iterable):
        value = (value,)
    names = []
    for item in value:
        if isinstance(item, type) and issubclass(item, BaseException):
            names.append(qualified(item))
        elif isinstance(item, str) and item:
            module, _, name = item.rpartition(".")
            names.append(f"{_own_name(module or 'builtins')}.{name}")
        else:
            raise InvalidValue(f"retry_on/never_on take exception classes or their qualified names, not {item!r}")
    return tuple(names)


def _delays(value: Iterable[float | timedelta] | None) -> tuple[float, ...] | None:
    return None if value is None else tuple(seconds(v, "delays") for v in value)


def _default_attempts(policy: RetryPolicy) -> int:
    return 3 if policy.delays is None else len(policy.delays) + 1


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """When a failed attempt is followed by another.

    `max_attempts` counts attempts, the first included. Before attempt n+1 the job waits
    `min(delay * factor**(n-1), max_delay)` seconds, plus or minus the `jitter` fraction; `delays=[...]` gives the
    waits as a list instead (and allows one attempt more than it has entries). Only exceptions in `retry_on` and not in
    `never_on` are retried. Attempts whose node vanished or was stopped are not failures and do not count here.

    >>> RetryPolicy(max_attempts=5, delay=2).next_delay(failures=2, error_mro=("builtins.Exception",), u=0.5)
    4.0
    """

    delays: tuple[float, ...] | None = attrs.field(default=None, converter=_delays)
    max_attempts: int = attrs.field(default=attrs.Factory(_default_attempts, takes_self=True))
    delay: float = attrs.field(default=1.0, converter=_delay)
    factor: float = 2.0
    max_delay: float = attrs.field(default=100.0, converter=_delay)
    jitter: float = 0.1
    retry_on: tuple[str, ...] = attrs.field(default=("builtins.Exception",), converter=_names)
    never_on: tuple[str, ...] = attrs.field(default=(), converter=_names)

    def __attrs_post_init__(self) -> None:
        attempts: object = self.max_attempts
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise InvalidValue(f"retry max_attempts must be an integer of at least 1, not {self.max_attempts!r}")
        if self.delays is not None and self.max_attempts > len(self.delays) + 1:
            raise InvalidValue("retry delays must have an entry for every retry: max_attempts - 1 of them")
        bounded: list[tuple[str, object, float, float]]
        bounded = [("factor", self.factor, 1.0, 1000.0), ("jitter", self.jitter, 0.0, 1.0)]
        for name, value, least, most in bounded:
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise InvalidValue(f"retry {name} must be between {least:g} and {most:g}, not {value!r}")

    @staticmethod
    def none() -> RetryPolicy:
        """No retries: a failure is just reported. Lost and aborted attempts keep their own budgets.

        >>> RetryPolicy.none().max_attempts
        1
        """
        return RetryPolicy(max_attempts=1)

    def matches(self, error_mro: Iterable[str]) -> bool:
        """Whether this policy retries an exception with these class names at all."""
        names = set(error_mro)
        return not names.isdisjoint(self.retry_on) and names.isdisjoint(self.never_on)

    def next_delay(self, *, failures: int, error_mro: Iterable[str], u: float) -> float | None:
        """Seconds to wait after the `failures`-th failure, or None to give up. `u` in [0, 1) places the jitter."""
        if failures >= self.max_attempts or not self.matches(error_mro):
            return None
        return self.delay_after(failures, u)

    def delay_after(self, failures: int, u: float) -> float:
        """Seconds to wait after the `failures`-th failure, jitter included."""
        if self.delays is not None:
            base = self.delays[min(failures, len(self.delays)) - 1] if self.delays else 0.0
        else:
            # The exponent is bounded so that a policy of thousands of attempts stays a finite number.
            base = min(self.delay * self.factor ** min(failures - 1, 100), self.max_delay)
        return base * (1 + self.jitter * (2 * u - 1))
