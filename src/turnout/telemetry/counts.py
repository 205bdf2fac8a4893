"""What counts: counters and histograms of this process, their labels, and whether anybody listens.

Counts are plain numbers, read when they are collected. The OpenTelemetry API only.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

import attrs
from opentelemetry import metrics as api

from turnout.once import warn_once

logger = logging.getLogger("turnout.telemetry")

T = TypeVar("T")

NAMES_MAX = 200
OTHER = "other"
"""Stands for every name that this process does not know, or that is one too many."""

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0
LONG_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(_MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY),
)
"""Buckets for what may take a millisecond or a day."""
SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, _MINUTE)

LOCK = threading.Lock()

Kind = Literal["counter", "up-down counter", "gauge", "histogram"]
Values = tuple[str, ...]
"""The values of a metric's labels, in its order."""


@attrs.frozen
class Metric:
    """One metric: its name by OpenTelemetry's habits, its unit by UCUM's, its labels."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    about: str


class Counter:
    """A count for each combination of labels; it only grows."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._counts: dict[Values, int] = {} if metric.labels else {(): 0}

    def add(self, values: Values = (), number: int = 1) -> None:
        """May be called from any thread."""
        with LOCK:
            self._counts[values] = self._counts.get(values, 0) + number

    def begin(self, values: Values) -> None:
        """Show a zero: a rate can't be told of a series that begins with its first count."""
        with LOCK:
            self._counts.setdefault(values, 0)

    def read(self) -> dict[Values, float]:
        with LOCK:
            return dict(self._counts)


class Histogram:
    """How many values fell into which bucket, for each combination of labels.

    We count into buckets of our own, which the page shows: an SDK takes ten microseconds for each value, and a job has
    two. An SDK that a program has set up is given each value as well.
    """

    def __init__(self, metric: Metric, bounds_s: tuple[float, ...]) -> None:
        self.metric = metric
        self.bounds_s = bounds_s
        self._counts: dict[Values, list[int]] = {}
        self._sums: dict[Values, float] = {}
        self._instruments: list[api.Histogram] = []
        self._attributes: dict[Values, dict[str, str]] = {}

    def make(self, meter: api.Meter) -> None:
        metric, bounds = self.metric, list(self.bounds_s)
        self._instruments.append(
            meter.create_histogram(metric.name, metric.unit, metric.about, explicit_bucket_boundaries_advisory=bounds)
        )

    def record(self, seconds: float, values: Values) -> None:
        """May be called from any thread."""
        bucket = bisect_left(self.bounds_s, seconds)
        with LOCK:
            counts = self._counts.get(values)
            if counts is None:
                counts = self._counts[values] = [0] * (len(self.bounds_s) + 1)
                self._attributes[values] = dict(zip(self.metric.labels, values, strict=True))
            counts[bucket] += 1
            self._sums[values] = self._sums.get(values, 0.0) + seconds
        try:
            for instrument in self._instruments:
                instrument.record(seconds, self._attributes[values])
        except Exception as error:  # a program's own SDK may be odd: a job must not fail for it
            warn_once(logger, "record", "the metric %s cannot be recorded: %r", self.metric.name, error)

    def read(self) -> dict[Values, tuple[list[int], float]]:
        """The counts of the buckets, the one beyond the last bound too, and the sum of all values."""
        with LOCK:
            return {values: (list(counts), self._sums[values]) for values, counts in self._counts.items()}


def new_counter(name: str, unit: str, about: str, labels: tuple[str, ...]) -> Counter:
    """A counter of this name, unit and labels."""
    return Counter(Metric(name, "counter", unit, labels, about))


def new_histogram(name: str, about: str, labels: tuple[str, ...], bounds_s: tuple[float, ...] = LONG_S) -> Histogram:
    """A histogram of seconds."""
    return Histogram(Metric(name, "histogram", "s", labels, about), bounds_s)


class Known:
    """The names that this process has to do with, which may be labels: beyond 200 they are `other`."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, names: Iterable[str]) -> None:
        """May be called from any thread."""
        for name in names:
            if name not in self._names:
                with LOCK:
                    if len(self._names) < NAMES_MAX:
                        self._names.add(name)

    def label(self, name: str) -> str:
        """The name as a label."""
        return name if name in self._names else OTHER


def keep(looks: dict[object, T], look_at: T) -> Callable[[], None]:
    """Have `look_at` among what is called whenever metrics are collected; returns what ends that."""
    key = object()
    looks[key] = look_at

    def forget() -> None:
        looks.pop(key, None)

    return forget


class Ears:
    """Whether anybody listens."""

    open = False
