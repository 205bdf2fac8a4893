"""Metrics: what this process counts, for whoever collects it.

Counts are plain numbers of the process, read when they are collected.
The OpenTelemetry API only: a program that sets up an SDK gets them all, and metrics_page.py serves them to Prometheus.
Labels are few by design: an activity that this process serves, has submitted or watches over, a closed set of outcomes
and reasons, a node. Never a job's id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import attrs
from opentelemetry import metrics as api
from opentelemetry.metrics import CallbackOptions, Observation

from turnout.core.changes import Change, Changes
from turnout.core.failure import FaultReason
from turnout.core.record import JobRecord, queue_wait
from turnout.telemetry import group_metrics, workflow_metrics
from turnout.telemetry.counts import (
    OTHER,
    SHORT_S,
    Counter,
    Ears,
    Known,
    Metric,
    Values,
    keep,
    new_counter,
    new_histogram,
)

LEASE_REASONS = ("unconfirmed", "lost")


@attrs.frozen
class NodeUse:
    """What a node does: how many jobs of each of its activities it runs, and how many it could run in all."""

    running: Mapping[str, int]
    slots: int


@attrs.frozen
class QueueState:
    """The jobs of an activity that wait for a worker, and for how many seconds the oldest of them has."""

    depth: int
    oldest_age_s: float


@attrs.frozen
class LimitUse:
    """Of all keys of a limit: how many attempts hold a place, and how many jobs wait for one, or for a token."""

    held: int = 0
    waiting: int = 0


_known = Known()
_known_limits = Known()
_nodes: dict[str, Callable[[], NodeUse]] = {}
_queues: dict[object, Callable[[], Mapping[str, QueueState]]] = {}
_limits: dict[object, Callable[[], Mapping[str, LimitUse]]] = {}


# --- what there is ----------------------------------------------------------------------------------------------------

_BY_ACTIVITY = ("activity",)


def _counter(name: str, unit: str, about: str, labels: tuple[str, ...] = _BY_ACTIVITY) -> Counter:
    return new_counter(name, unit, about, labels)


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
DURATION = new_histogram("turnout.attempt.duration", "How long attempts took.", ("activity", "outcome"))
QUEUE_WAIT = new_histogram("turnout.queue.wait", "How long attempts were due before they began.", _BY_ACTIVITY)
LOOP_LAG = new_histogram("turnout.event_loop.lag", "How late a worker's event loop woke up.", ("node",), SHORT_S)
FIRED = _counter("turnout.schedules.fired", "{run}", "Runs of schedules that this process has begun.")
MISSED = _counter("turnout.schedules.missed", "{tick}", "Ticks of schedules that nobody could fire in time.")
SKIPPED = _counter("turnout.schedules.skipped", "{tick}", "Ticks of schedules that other runs have kept from running.")
_RUNNING = Metric("turnout.jobs.running", "up-down counter", "{job}", ("activity", "node"), "Jobs that run now.")
_SLOTS = Metric("turnout.node.slots", "up-down counter", "{slot}", ("node", "state"), "Slots for jobs, used and free.")
_DEPTH = Metric("turnout.queue.depth", "up-down counter", "{job}", _BY_ACTIVITY, "Jobs ready and handed to nobody.")
_OLDEST = Metric("turnout.queue.oldest_age", "gauge", "s", _BY_ACTIVITY, "How long the oldest of them has been there.")
_HELD = Metric("turnout.limit.held", "up-down counter", "{attempt}", ("limit",), "Attempts that hold a place.")
_WAITING = Metric("turnout.limit.waiting", "up-down counter", "{job}", ("limit",), "Jobs that wait for a limit.")

COUNTERS = (
    *(SUBMITTED, STARTED, COMPLETED, FAULTED, CANCELLED, RETRIED, LOST, ABORTED),
    *(EXTENSIONS, LEASE_FAILURES, RECONNECTS, CONFLICTS),
    *workflow_metrics.COUNTERS,
    *(FIRED, MISSED, SKIPPED),
    *group_metrics.COUNTERS,
)
HISTOGRAMS = (DURATION, QUEUE_WAIT, LOOP_LAG, *workflow_metrics.HISTOGRAMS)
GAUGES = (_RUNNING, _SLOTS, _DEPTH, _OLDEST, _HELD, _WAITING, workflow_metrics.OPEN, *group_metrics.GAUGES)
METRICS = (*(each.metric for each in COUNTERS), *(each.metric for each in HISTOGRAMS), *GAUGES)
"""All there are."""

_FAULT_REASONS = frozenset(reason.value for reason in FaultReason)
_BY_CHANGE = {
    Change.started: STARTED,
    Change.completed: COMPLETED,
    Change.cancelled: CANCELLED,
    Change.retried: RETRIED,
    Change.lost: LOST,
    Change.aborted: ABORTED,
}


# --- counting ---------------------------------------------------------------------------------------------------------


def saved(before: JobRecord | None, after: JobRecord, changes: Changes) -> None:
    """Count what a write of a record means. Whoever writes it asks whether anybody listens: most often nobody does, and
    that is a call less."""
    activity = _known.label(after.activity)
    for change in changes.all:
        if change is Change.faulted:
            reason = after.reason
            FAULTED.add((activity, reason if reason is not None and reason in _FAULT_REASONS else OTHER))
        elif (counter := _BY_CHANGE.get(change)) is not None:
            counter.add((activity,))
        if change is Change.started:
            QUEUE_WAIT.record(queue_wait(before, after), (activity,))
    ended = changes.ended
    if ended is not None and ended.ended_at is not None:
        DURATION.record(max(ended.ended_at - ended.started_at, 0.0), (activity, ended.outcome.value))


def submitted(activity: str, number: int = 1) -> None:
    """Jobs of this activity were submitted by this process, and stored."""
    know((activity,))
    SUBMITTED.add((label(activity),), number)


def advanced(activity: str, *, fired: int = 0, missed: int = 0, skipped: int = 0) -> None:
    """What has become of ticks of a schedule of this activity or workflow."""
    know((activity,))
    values = (label(activity),)
    for counter, number in ((FIRED, fired), (MISSED, missed), (SKIPPED, skipped)):
        if number:
            counter.add(values, number)


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
    _known.add(activities)


def serve(activities: Iterable[str]) -> None:
    """This process works on these activities, or watches over them: their counts are there from now on, from zero."""
    names = list(activities)
    know(names)
    by_activity = [counter for counter in COUNTERS if counter.metric.labels == _BY_ACTIVITY]
    for name in {label(each) for each in names}:
        for counter in by_activity:
            counter.begin((name,))
        for reason in FaultReason.__members__:
            FAULTED.begin((name, reason))
    for reason in LEASE_REASONS:
        LEASE_FAILURES.begin((reason,))


def label(activity: str) -> str:
    """The activity as a label."""
    return _known.label(activity)


def watch_node(node: str, use: Callable[[], NodeUse]) -> Callable[[], None]:
    """Tell what this node does whenever that is collected, in any thread; returns what ends it."""
    _nodes[node] = use

    def forget() -> None:
        _nodes.pop(node, None)

    return forget


def watch_queues(look_at: Callable[[], Mapping[str, QueueState]]) -> Callable[[], None]:
    """Tell how long these queues are, likewise."""
    return keep(_queues, look_at)


def watch_limits(look_at: Callable[[], Mapping[str, LimitUse]]) -> Callable[[], None]:
    """Tell who uses these limits, likewise."""
    return keep(_limits, look_at)


# --- being listened to ------------------------------------------------------------------------------------------------


def look() -> bool:
    """Whether anybody listens, as far as was looked: an SDK is set up, or a page is served."""
    if not Ears.open and provided():
        listen()
    return Ears.open


def provided() -> bool:
    """Whether a provider of meters is set up that is none of the API's own, which do nothing."""
    return not type(api.get_meter_provider()).__module__.startswith("opentelemetry.metrics")


def listen() -> None:
    """Somebody listens from now on."""
    Ears.open = True


def make(meter: api.Meter) -> None:
    """Make all instruments but the histograms on this meter: what they tell is the same whoever asks."""
    for counter in COUNTERS:
        metric = counter.metric
        callbacks = [partial(_observe, metric, counter.read)]
        meter.create_observable_counter(metric.name, callbacks, metric.unit, metric.about)
    sums = (
        (_RUNNING, _running),
        (_SLOTS, _slots),
        (_DEPTH, _depths),
        (_HELD, partial(_limited, lambda use: use.held)),
        (_WAITING, partial(_limited, lambda use: use.waiting)),
        (workflow_metrics.OPEN, workflow_metrics.open_now),
        (group_metrics.OPEN, group_metrics.open_now),
        (group_metrics.MEMBERS, group_metrics.members_now),
    )
    for metric, read in sums:
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


def _limited(number: Callable[[LimitUse], int]) -> dict[Values, float]:
    found: dict[Values, float] = {}
    for look_at in _limits.copy().values():
        uses = look_at()
        _known_limits.add(uses)
        for limit, use in uses.items():
            values = (_known_limits.label(limit),)
            found[values] = found.get(values, 0) + number(use)
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
