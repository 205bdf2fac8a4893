"""Metrics: what this process counts, for whoever collects it.

Counts are plain numbers of the process, read when they are collected.
The OpenTelemetry API only: a program that sets up an SDK gets them all, and metrics_page.py serves them to Prometheus.
Labels are few by design: an activity that this process serves, has submitted or watches over, a closed set of outcomes
and reasons, a node. Never a job's id.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal

import attrs
from opentelemetry import metrics as api
from opentelemetry.metrics import CallbackOptions, Observation

from turnout.core.tally import REASONS, Count, tally
from turnout.core.values import JobRecord, queue_wait
from turnout.once import warn_once

logger = logging.getLogger("turnout.telemetry")

ACTIVITIES_MAX = 200
OTHER = "other"
"""Stands for every activity that this process does not know, or that is one too many."""

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0
LONG_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(_MINUTE, 2 * _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY),
)
"""Buckets for what may take a millisecond or a day."""
SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, _MINUTE)

LEASE_REASONS = ("unconfirmed", "lost")
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
        with _lock:
            self._counts[values] = self._counts.get(values, 0) + number

    def begin(self, values: Values) -> None:
        """Show a zero: a rate can't be told of a series that begins with its first count."""
        with _lock:
            self._counts.setdefault(values, 0)

    def read(self) -> dict[Values, float]:
        with _lock:
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
        with _lock:
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
        with _lock:
            return {values: (list(counts), self._sums[values]) for values, counts in self._counts.items()}


@attrs.frozen
class NodeUse:
    """What a node does: how many jobs of each of its activities it runs, and how many it could run in all."""

    running: Mapping[str, int]
    slots: int


@attrs.frozen
class Queue:
    """The jobs of an activity that wait for a worker, and for how many seconds the oldest of them has."""

    depth: int
    oldest_age_s: float


_lock = threading.Lock()
_known: set[str] = set()
_nodes: dict[str, Callable[[], NodeUse]] = {}
_queues: dict[object, Callable[[], Mapping[str, Queue]]] = {}


class _Ears:
    """Whether anybody listens."""

    open = False


# --- what there is ----------------------------------------------------------------------------------------------------

_BY_ACTIVITY = ("activity",)


def _counter(name: str, unit: str, about: str, labels: tuple[str, ...] = _BY_ACTIVITY) -> Counter:
    return Counter(Metric(name, "counter", unit, labels, about))


def _histogram(name: str, about: str, labels: tuple[str, ...], bounds_s: tuple[float, ...] = LONG_S) -> Histogram:
    return Histogram(Metric(name, "histogram", "s", labels, about), bounds_s)


SUBMITTED = _counter("turnout.jobs.submitted", "{job}", "Jobs that this process has submitted.")
STARTED = _counter("turnout.attempts.started", "{attempt}", "Attempts that have begun.")
COMPLETED = _counter("turnout.jobs.completed", "{job}", "Jobs that have ended with a result.")
FAULTED = _counter("turnout.jobs.faulted", "{job}", "Jobs that have ended by failure.", ("activity", "reason"))
CANCELLED = _counter("turnout.jobs.cancelled", "{job}", "Jobs that have ended because somebody asked.")
RETRIED = _counter("turnout.attempts.retried", "{attempt}", "Failed attempts that another one follows.")
LOST = _counter("turnout.attempts.lost", "{attempt}", "Attempts whose node has vanished.")
ABORTED = _counter("turnout.attempts.aborted", "{attempt}", "Attempts whose node was stopped.")
EXTENSIONS = _counter("turnout.lease.extensions", "{extension}", "Extensions of leases, confirmed by the server.", ())
LEASE_FAILURES = _counter(
    "turnout.lease.failures", "{failure}", "Extensions that were not confirmed, and leases lost.", ("reason",)
)
RECONNECTS = _counter("turnout.connection.reconnects", "{reconnect}", "Times that a lost connection came back.", ())
CONFLICTS = _counter("turnout.registry.conflicts", "{conflict}", "Writes that found the record changed.", ())
DURATION = _histogram("turnout.attempt.duration", "How long attempts took.", ("activity", "outcome"))
QUEUE_WAIT = _histogram("turnout.queue.wait", "How long attempts were due before they began.", _BY_ACTIVITY)
LOOP_LAG = _histogram("turnout.event_loop.lag", "How late a worker's event loop woke up.", ("node",), SHORT_S)
_RUNNING = Metric("turnout.jobs.running", "up-down counter", "{job}", ("activity", "node"), "Jobs that run now.")
_SLOTS = Metric("turnout.node.slots", "up-down counter", "{slot}", ("node", "state"), "Slots for jobs, used and free.")
_DEPTH = Metric("turnout.queue.depth", "up-down counter", "{job}", _BY_ACTIVITY, "Jobs ready and handed to nobody.")
_OLDEST = Metric("turnout.queue.oldest_age", "gauge", "s", _BY_ACTIVITY, "How long the oldest of them has been there.")

COUNTERS = (
    *(SUBMITTED, STARTED, COMPLETED, FAULTED, CANCELLED, RETRIED, LOST, ABORTED),
    *(EXTENSIONS, LEASE_FAILURES, RECONNECTS, CONFLICTS),
)
HISTOGRAMS = (DURATION, QUEUE_WAIT, LOOP_LAG)
GAUGES = (_RUNNING, _SLOTS, _DEPTH, _OLDEST)
METRICS = (*(each.metric for each in COUNTERS), *(each.metric for each in HISTOGRAMS), *GAUGES)
"""All there are."""

_BY_COUNT = {
    Count.started: STARTED,
    Count.completed: COMPLETED,
    Count.cancelled: CANCELLED,
    Count.retried: RETRIED,
    Count.lost: LOST,
    Count.aborted: ABORTED,
}


# --- counting ---------------------------------------------------------------------------------------------------------


def saved(before: JobRecord | None, after: JobRecord) -> None:
    """Count what a write of a record means, if anybody listens."""
    if not _Ears.open:
        return
    found = tally(before, after)
    activity = after.activity if after.activity in _known else OTHER
    for count in found.counts:
        if count is Count.faulted:
            FAULTED.add((activity, after.reason if after.reason in REASONS else OTHER))
        else:
            _BY_COUNT[count].add((activity,))
        if count is Count.started:
            QUEUE_WAIT.record(queue_wait(before, after), (activity,))
    if found.ended is not None and found.ended.ended_at is not None:
        DURATION.record(max(found.ended.ended_at - found.ended.started_at, 0.0), (activity, found.ended.outcome.value))


def submitted(activity: str, number: int = 1) -> None:
    """Jobs of this activity were submitted by this process, and stored."""
    SUBMITTED.add((activity if activity in _known else _learn(activity),), number)


def extended(*, confirmed: bool) -> None:
    """The lease of a running job was to be extended."""
    if confirmed:
        EXTENSIONS.add()
    else:
        LEASE_FAILURES.add(("unconfirmed",))


def woke(node: str, late_s: float) -> None:
    """A worker's event loop woke up this late. It looks for listeners, too: it does so a few times a second."""
    if look():
        LOOP_LAG.record(max(late_s, 0.0), (node,))


def know(activities: Iterable[str]) -> None:
    """Use these names as labels: this process has to do with them. Beyond 200 they are `other`."""
    for name in activities:
        if name not in _known:
            with _lock:
                if len(_known) < ACTIVITIES_MAX:
                    _known.add(name)


def _learn(activity: str) -> str:
    know((activity,))
    return label(activity)


def serve(activities: Iterable[str]) -> None:
    """This process works on these activities, or watches over them: their counts are there from now on, from zero."""
    names = list(activities)
    know(names)
    for name in {label(each) for each in names}:
        for counter in (SUBMITTED, *_BY_COUNT.values()):
            counter.begin((name,))
        for reason in REASONS:
            FAULTED.begin((name, reason))
    for reason in LEASE_REASONS:
        LEASE_FAILURES.begin((reason,))


def label(activity: str) -> str:
    """The activity as a label."""
    return activity if activity in _known else OTHER


def watch_node(node: str, use: Callable[[], NodeUse]) -> Callable[[], None]:
    """Tell what this node does whenever that is collected, in any thread; returns what ends it."""
    _nodes[node] = use

    def forget() -> None:
        _nodes.pop(node, None)

    return forget


def watch_queues(look_at: Callable[[], Mapping[str, Queue]]) -> Callable[[], None]:
    """Tell how long these queues are, likewise."""
    key = object()
    _queues[key] = look_at

    def forget() -> None:
        _queues.pop(key, None)

    return forget


# --- being listened to ------------------------------------------------------------------------------------------------


def look() -> bool:
    """Whether anybody listens, as far as was looked: an SDK is set up, or a page is served."""
    if not _Ears.open and provided():
        listen()
    return _Ears.open


def provided() -> bool:
    """Whether a provider of meters is set up that is none of the API's own, which do nothing."""
    return not type(api.get_meter_provider()).__module__.startswith("opentelemetry.metrics")


def listen() -> None:
    """Somebody listens from now on."""
    _Ears.open = True


def make(meter: api.Meter) -> None:
    """Make all instruments but the histograms on this meter: what they tell is the same whoever asks."""
    for counter in COUNTERS:
        metric = counter.metric
        callbacks = [partial(_observe, metric, counter.read)]
        meter.create_observable_counter(metric.name, callbacks, metric.unit, metric.about)
    for metric, read in ((_RUNNING, _running), (_SLOTS, _slots), (_DEPTH, _depths)):
        meter.create_observable_up_down_counter(
            metric.name, [partial(_observe, metric, read)], metric.unit, metric.about
        )
    meter.create_observable_gauge(_OLDEST.name, [partial(_observe, _OLDEST, _ages)], _OLDEST.unit, _OLDEST.about)


def _observe(metric: Metric, read: Callable[[], Mapping[Values, float]], _: CallbackOptions) -> Iterable[Observation]:
    listen()  # whoever collects listens
    labels = metric.labels
    return [Observation(value, dict(zip(labels, values, strict=True))) for values, value in read().items()]


def _running() -> dict[Values, float]:
    found: dict[Values, float] = {}
    for node, use in _nodes.copy().items():
        for activity, number in use().running.items():
            values = (label(activity), node)
            found[values] = found.get(values, 0) + number
    return found


def _slots() -> dict[Values, float]:
    found: dict[Values, float] = {}
    for node, look_at in _nodes.copy().items():
        use = look_at()
        used = sum(use.running.values())
        found[node, "used"] = used
        found[node, "free"] = max(use.slots - used, 0)
    return found


def _depths() -> dict[Values, float]:
    found: dict[Values, float] = {}
    for look_at in _queues.copy().values():
        for activity, queue in look_at().items():
            values = (label(activity),)
            found[values] = found.get(values, 0) + queue.depth
    return found


def _ages() -> dict[Values, float]:
    found: dict[Values, float] = {}
    for look_at in _queues.copy().values():
        for activity, queue in look_at().items():
            values = (label(activity),)
            found[values] = max(found.get(values, 0.0), queue.oldest_age_s)
    return found


_METER = api.get_meter("turnout")
make(_METER)
for _each in HISTOGRAMS:
    _each.make(_METER)
