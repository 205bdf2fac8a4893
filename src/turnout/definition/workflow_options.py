"""What a workflow is defined with, and what one start asks for, checked where it is written. Pure, like options.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

import attrs

from turnout.core.retry import RetryPolicy, qualified, seconds
from turnout.core.spec import checked_labels, valid_name
from turnout.definition.options import check_aware, check_policy, chosen_id, delay_s, timeout_s
from turnout.errors import DefinitionError, InvalidValue

IfExists = Literal["raise", "join", "replace"]
ParentClose = Literal["cancel", "abandon", "terminate"]

LEAST_RETENTION_S = 1.0


class WorkflowKeywords(TypedDict, total=False):
    """The keywords of `@workflow(...)`; `WorkflowOptions` says what they mean."""

    name: str | None
    timeout: float | timedelta | None
    fail_on: tuple[type[BaseException], ...]
    labels: Mapping[str, str]
    retention: float | timedelta | None


class StartKeywords(TypedDict, total=False):
    """The keywords of `.options(...)` of a workflow; `StartOptions` says what they mean."""

    id: str | None
    if_exists: IfExists
    delay: float | timedelta | None
    at: datetime | None
    timeout: float | timedelta | None
    labels: Mapping[str, str]
    retry: RetryPolicy | None
    parent_close: ParentClose


def _retention(value: float | timedelta | None) -> float | None:
    return None if value is None else seconds(value, "retention", least=LEAST_RETENTION_S)


def _exceptions(value: object) -> tuple[type[BaseException], ...]:
    given = (value,) if isinstance(value, type) else value
    found: list[type[BaseException]] = []
    for each in given if isinstance(given, Iterable) else (given,):
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise InvalidValue(f"fail_on takes exception classes, not {each!r}")
        found.append(each)
    return tuple(found)


def _name(value: object) -> str:
    return valid_name(value, "a workflow's name")


def _choice(name: str, choices: tuple[str, ...]) -> Any:
    def check(_instance: Any, _attribute: Any, value: object) -> None:
        if value not in choices:
            listed = ", ".join(f'"{each}"' for each in choices)
            raise InvalidValue(f"{name} must be one of {listed}, not {value!r}")

    return check


@attrs.frozen(kw_only=True)
class WorkflowOptions:
    """How every workflow of a definition is run, unless a start says otherwise. Durations are seconds.

    `timeout`: the whole workflow, continue-as-new included. `fail_on`: exceptions that fault the workflow where any
    other would leave it stuck, waiting for repaired code. `labels`: of every one that is started. `retention`: how long
    the history of an ended one is kept.
    """

    name: str = attrs.field(converter=_name)
    timeout: float | None = attrs.field(default=None, converter=timeout_s)
    fail_on: tuple[type[BaseException], ...] = attrs.field(default=(), converter=_exceptions)
    labels: dict[str, str] = attrs.field(factory=dict, converter=checked_labels)
    retention: float | None = attrs.field(default=None, converter=_retention)

    @property
    def fail_on_names(self) -> frozenset[str]:
        return frozenset(qualified(each) for each in self.fail_on)


@attrs.frozen(kw_only=True)
class StartOptions:
    """What one start asks for; None means the definition's own, or nothing.

    `id`: the workflow's id, else one is made up. `if_exists`: what to do when the id is taken; "replace" terminates a
    running one first. `delay` (seconds) or `at` (an aware datetime): not before. `timeout`: the whole workflow.
    `retry`: failed runs are followed by others. `parent_close`: what becomes of a child when its parent ends.
    """

    id: str | None = attrs.field(default=None, converter=chosen_id)
    if_exists: IfExists = attrs.field(default="raise", validator=_choice("if_exists", ("raise", "join", "replace")))
    delay: float | None = attrs.field(default=None, converter=delay_s)
    at: datetime | None = attrs.field(default=None, validator=check_aware)
    timeout: float | None = attrs.field(default=None, converter=timeout_s)
    labels: dict[str, str] = attrs.field(factory=dict, converter=checked_labels)
    retry: RetryPolicy | None = attrs.field(default=None, validator=check_policy)
    parent_close: ParentClose = attrs.field(
        default="cancel", validator=_choice("parent_close", ("cancel", "abandon", "terminate"))
    )

    def __attrs_post_init__(self) -> None:
        if self.delay is not None and self.at is not None:
            raise InvalidValue("delay and at exclude each other: give one of them")

    def merged(self, given: Mapping[str, Any]) -> StartOptions:
        """These with the keywords of another `.options(...)` over them; an unknown keyword is a TypeError."""
        for name in given:
            if name not in _START:
                raise DefinitionError(f"options() of a workflow has no option {name!r}; it has {', '.join(_START)}")
        return attrs.evolve(self, **given)

    def due_at(self, now: float) -> float | None:
        """From when on it may begin, in unix seconds; None: at once."""
        if self.at is not None:
            return self.at.timestamp()
        return None if not self.delay else now + self.delay


_START = tuple(field.name for field in attrs.fields(StartOptions))
_WORKFLOW = tuple(field.name for field in attrs.fields(WorkflowOptions))


def workflow_options(default_name: str, given: Mapping[str, Any]) -> WorkflowOptions:
    """The options of `@workflow(...)`: an unknown keyword is a DefinitionError, a bad value names its option."""
    for name in given:
        if name not in _WORKFLOW:
            raise DefinitionError(f"@workflow has no option {name!r}; it has {', '.join(_WORKFLOW)}")
    return WorkflowOptions(**{**given, "name": default_name if given.get("name") is None else given["name"]})
