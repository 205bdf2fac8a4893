"""What this process counts of workflows. A label is a workflow's name or a closed set of words, never an id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from turnout.core.workflows.caution import POISON
from turnout.core.workflows.values import FINAL_STATES, Record, RecordKind, WorkflowState
from turnout.telemetry.counts import OTHER, Ears, Known, Metric, Values, keep, new_counter, new_histogram

Source = Literal["cache", "replay", "begin"]
"""Where a task has its code's state from: from memory, from a replay of the history, or it is the first."""

SOURCES: tuple[Source, ...] = ("cache", "replay", "begin")
Verdict = Literal["same", "different"]
"""Whether a replay that verifies a task has come to what was recorded."""

VERDICTS: tuple[Verdict, ...] = ("same", "different")
REASONS = ("code_raised", "non_determinism", "held_too_long", "unreadable_history", "activity_missing", POISON)
"""Why a workflow gets stuck."""

Answered = Literal["answered", "rejected", "failed"]
"""What becomes of a query or an update; a query is never rejected."""

OUTCOMES = ("completed", "faulted", "cancelled")
"""How a local activity ends."""

_BY_NAME = ("workflow",)

STARTED = new_counter("turnout.workflows.started", "{workflow}", "Workflows that this process has started.", _BY_NAME)
ENDED = new_counter("turnout.workflows.ended", "{workflow}", "Workflows that have ended.", ("workflow", "state"))
STUCK = new_counter("turnout.workflows.stuck", "{workflow}", "Workflows that have got stuck.", ("workflow", "reason"))
LOADS = new_counter("turnout.workflow.loads", "{task}", "Where tasks had the state from.", ("workflow", "source"))
TASK = new_histogram("turnout.workflow.task.duration", "How long workflow tasks took that ran code.", _BY_NAME)
REPLAY = new_histogram("turnout.workflow.replay.duration", "How long replays of histories took.", _BY_NAME)
OPEN = Metric(
    "turnout.workflows.open", "up-down counter", "{workflow}", ("workflow", "state"), "Workflows that have not ended."
)

LOCALS = new_counter(
    "turnout.workflow.local_activities", "{activity}", "Local activities that have ended.", ("workflow", "outcome")
)

VERIFICATIONS = new_counter(
    "turnout.workflow.verifications", "{task}", "Tasks that were replayed to verify them.", ("workflow", "outcome")
)

_BY_OUTCOME = ("workflow", "outcome")
QUERY = new_histogram("turnout.workflow.query.duration", "How long queries took to be answered.", _BY_OUTCOME)
UPDATE = new_histogram("turnout.workflow.update.duration", "How long updates took to be answered.", _BY_OUTCOME)

COUNTERS = (STARTED, ENDED, STUCK, LOADS, LOCALS, VERIFICATIONS)
HISTOGRAMS = (TASK, REPLAY, QUERY, UPDATE)

OPEN_STATES = tuple(state for state in WorkflowState if state not in FINAL_STATES)

OpenWorkflows = Mapping[str, Mapping[str, int]]
"""How many workflows of a name are in which state."""

_known = Known()
_open: dict[object, Callable[[], OpenWorkflows]] = {}


def appended(record: Record) -> None:
    """Count what a record of a history means that this process has appended, if anybody listens."""
    if not Ears.open:
        return
    name = _known.label(record.name)
    if record.kind is RecordKind.stuck:
        STUCK.add((name, record.reason if record.reason in REASONS else OTHER))
    elif record.kind is RecordKind.start and not record.state.final:
        STARTED.add((name,))
    elif record.state.final and record.kind is not RecordKind.deleted:
        ENDED.add((name, record.state.value))


def loaded(name: str, source: Source, seconds: float) -> None:
    """A task has its code's state; a replay took this long."""
    if Ears.open:
        LOADS.add((_known.label(name), source))
        if source == "replay":
            REPLAY.record(seconds, (_known.label(name),))


def local_ended(name: str, outcome: str) -> None:
    """A local activity of a workflow of this name has ended here."""
    if Ears.open:
        LOCALS.add((_known.label(name), str(outcome)))


def verified(name: str, verdict: Verdict) -> None:
    """The run of a task was replayed: the code has done the same again, or not."""
    if Ears.open:
        VERIFICATIONS.add((_known.label(name), verdict))


def query_answered(name: str, outcome: Answered, seconds: float) -> None:
    """A query of a workflow of this name was answered here, so long after it was heard."""
    if Ears.open:
        QUERY.record(seconds, (_known.label(name), outcome))


def update_answered(name: str, outcome: Answered, seconds: float) -> None:
    """This process has stored the answer of an update, so long after that was stored."""
    if Ears.open:
        UPDATE.record(seconds, (_known.label(name), outcome))


def task_done(name: str, seconds: float) -> None:
    """A task that ran code is done: loading, running, appending and effects took this long."""
    if Ears.open:
        TASK.record(seconds, (_known.label(name),))


def started_by(name: str) -> None:
    """This process starts workflows of this name."""
    _known.add((name,))


def serve(names: Iterable[str]) -> None:
    """This process works on these workflows, or watches over them: their counts are there from zero on."""
    served = list(names)
    _known.add(served)
    for name in {_known.label(each) for each in served}:
        STARTED.begin((name,))
        for state in FINAL_STATES:
            ENDED.begin((name, state.value))
        for reason in REASONS:
            STUCK.begin((name, reason))
        for outcome in OUTCOMES:
            LOCALS.begin((name, outcome))
        for source in SOURCES:
            LOADS.begin((name, source))
        for verdict in VERDICTS:
            VERIFICATIONS.begin((name, verdict))


def watch_open(look_at: Callable[[], OpenWorkflows]) -> Callable[[], None]:
    """Tell how many workflows are open whenever that is collected, in any thread; returns what ends it."""
    return keep(_open, look_at)


def open_now() -> dict[Values, float]:
    """How many workflows of each name are in each state, as the acting supervisor has last looked."""
    found: dict[Values, float] = {}
    for look_at in _open.copy().values():
        for name, states in look_at().items():
            for state in OPEN_STATES:
                values = (_known.label(name), state.value)
                found[values] = found.get(values, 0) + states.get(state.value, 0)
    return found
