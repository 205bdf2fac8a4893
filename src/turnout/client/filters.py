"""Which jobs a listing or a count wants, and how much of that can be told from bytes."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypedDict, TypeVar

import attrs

from turnout import fastjson
from turnout.core.group import valid_group_id
from turnout.core.record import FINAL, JobRecord, JobState
from turnout.core.schedule import schedule_name
from turnout.core.spec import valid_name
from turnout.definition.activity import ActivityRef, as_activity
from turnout.errors import InvalidValue

StateT = TypeVar("StateT", bound=StrEnum)


class JobFilters(TypedDict, total=False):
    """Which jobs: those that match all that is given; None is as if it were not given. `Client.jobs` explains them."""

    state: JobState | str | Iterable[JobState | str] | None
    activity: str | ActivityRef | None
    node: str | None
    label: str | tuple[str, str] | None
    since: dt.datetime | dt.timedelta | float | None
    workflow: str | None
    schedule: str | None
    group: str | None
    error: str | type[BaseException] | None


def some_of(filters: type, given: Mapping[str, object], what: str) -> None:
    """Nobody acts on all by mistake: TypeError for a filter that `filters`, a TypedDict, does not have, InvalidValue
    where none is given."""
    known = ", ".join(filters.__annotations__)
    if unknown := sorted(given.keys() - filters.__annotations__.keys()):
        raise TypeError(f"there is no filter {unknown[0]}; these are {known}")
    if all(value is None for value in given.values()):
        raise InvalidValue(f"which {what}? Give at least one of {known}")


_PLAIN = re.compile(r"[ !#-\[\]-~]*")
_CLOCKS_S = 60.0
"""By how much the clocks of those who submit and of those who store may differ."""


@attrs.frozen
class Filters:
    """What is asked for; None asks for all."""

    states: frozenset[JobState] | None = None
    activity: str | None = None
    node: str | None = None
    label: tuple[str, str | None] | None = None
    since: float | None = None
    workflow: str | None = None
    schedule: str | None = None
    group: str | None = None
    error: str | None = None

    def match(self, record: JobRecord) -> bool:
        return (
            (self.states is None or record.state in self.states)
            and (self.activity is None or record.activity == self.activity)
            and (self.node is None or _on_node(record, self.node))
            and (self.label is None or has_label(record.spec.options.labels, self.label))
            and (self.since is None or record.spec.submitted_at >= self.since)
            and (self.workflow is None or _of_workflow(record, self.workflow))
            and (self.schedule is None or record.spec.options.schedule == self.schedule)
            and (self.group is None or record.spec.options.group == self.group)
            and (self.error is None or (record.error is not None and record.error.type == self.error))
        )

    @property
    def wanted(self) -> frozenset[JobState]:
        """The states that a job which matches can be in: on a node is what runs."""
        states = frozenset(JobState) if self.states is None else self.states
        return states if self.node is None else states & {JobState.running}

    @property
    def ended(self) -> bool:
        """Whether jobs that have ended are wanted: only their records tell of them."""
        return not self.wanted.isdisjoint(FINAL)

    @property
    def must_contain(self) -> bytes:
        """Bytes that are in every record that matches."""
        if self.label is None and self.workflow is not None:
            return b'"parent":{"id":' + fastjson.dumps(self.workflow)
        if self.label is None and self.schedule is not None:
            return b'"schedule":' + fastjson.dumps(self.schedule)
        if self.label is None and self.group is not None:
            return b'"group":' + fastjson.dumps(self.group)
        if self.label is None:
            return b'"error":' if self.error is not None else b""
        name, value = self.label
        if not _PLAIN.fullmatch(name + (value or "")):
            return b'"labels":'
        return fastjson.dumps(name) + b":" + (b"" if value is None else fastjson.dumps(value))

    @property
    def oldest_write(self) -> float:
        """Whatever was stored before this instant is of no job that matches: nothing is written before its job is."""
        return 0.0 if self.since is None else self.since - _CLOCKS_S


def _of_workflow(record: JobRecord, workflow_id: str) -> bool:
    parent = record.spec.options.parent
    return parent is not None and parent.id == workflow_id


def _on_node(record: JobRecord, node: str) -> bool:
    """By a node's id or its name, which is the id without the random part."""
    if record.state is not JobState.running or record.token is None:
        return False
    return node in (record.token.node, record.token.node.rpartition("-")[0])


def has_label(labels: Mapping[str, str], label: tuple[str, str | None]) -> bool:
    """Whether there is a label of this name, and where one is given of this value."""
    name, value = label
    return name in labels and value in (None, labels[name])


def asked(given: JobFilters, now: float) -> Filters:
    """The filters that a caller has given, checked. InvalidValue names the one that can't be."""
    node, workflow, schedule = given.get("node"), given.get("workflow"), given.get("schedule")
    group = given.get("group")
    return Filters(
        states=states_of(JobState, given.get("state")),
        activity=activity_name(given.get("activity")),
        node=None if node is None else valid_name(node, "node"),
        label=label_of(given.get("label")),
        since=instant_since(given.get("since"), now),
        workflow=None if workflow is None else valid_name(workflow, "workflow"),
        schedule=None if schedule is None else schedule_name(schedule),
        group=None if group is None else valid_group_id(group),
        error=error_name(given.get("error")),
    )


def activity_name(activity: str | ActivityRef | None) -> str | None:
    if activity is None:
        return None
    return valid_name(activity, "activity") if isinstance(activity, str) else as_activity(activity).name


def error_name(error: str | type[BaseException] | None) -> str | None:
    """An error's class as records name it."""
    if isinstance(error, type):
        return error.__qualname__
    if error is not None and not isinstance(error, str):
        raise InvalidValue(f"error must be an exception's class or the name of one, not {error!r}")
    return error


def instant_since(since: dt.datetime | dt.timedelta | float | None, now: float) -> float | None:
    """Unix seconds of an instant, or of so long ago."""
    if since is None:
        return None
    if isinstance(since, dt.datetime):
        if since.utcoffset() is None:
            raise InvalidValue(f"since must be an aware datetime, not {since!r}")
        # A datetime is less exact than the server's clock, and `since=info.submitted_at` shall find that job.
        return since.timestamp() - 1e-6
    ago: object = since.total_seconds() if isinstance(since, dt.timedelta) else since
    if isinstance(ago, bool) or not isinstance(ago, int | float) or math.isnan(ago):
        raise InvalidValue(f"since must be an aware datetime, a timedelta or seconds, not {since!r}")
    return now - ago


def states_of(kind: type[StateT], given: StateT | str | Iterable[StateT | str] | None) -> frozenset[StateT] | None:
    """The states, one or several of `kind`, that a caller has given. InvalidValue names those there are."""
    if given is None:
        return None
    states = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    for each in states:
        if not isinstance(each, str) or each not in set(kind):
            raise InvalidValue(f"state must be one of {', '.join(kind)}, not {each!r}")
    return frozenset(kind(each) for each in states)


def label_of(label: str | tuple[str, str] | None) -> tuple[str, str | None] | None:
    """A filter by label, checked. InvalidValue says how one is given."""
    if label is None:
        return None
    if isinstance(label, tuple) and len(label) == 2 and all(isinstance(each, str) for each in label) and label[0]:
        return label
    if not isinstance(label, str) or not label.partition("=")[0]:
        raise InvalidValue(f'label must be "key", "key=value" or a pair of texts, not {label!r}')
    key, equals, value = label.partition("=")
    return key, value if equals else None


def limit_of(limit: int | None) -> int | None:
    """How many a caller wants at most, None for all. InvalidValue for what can't be."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidValue(f"limit must be an integer of at least 1, not {limit!r}")
    return limit
