"""What an activity is defined with, and what one submission asks for, checked where it is written.

Pure: no I/O, no clock. Durations become float seconds and instants unix seconds here, so that nothing behind this
module handles a `timedelta` or a `datetime`. An unknown option, or one of the wrong kind, is a TypeError; a value that
cannot be used is an InvalidValue; both name the option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

import attrs

from turnout.core.retry import RetryPolicy, seconds
from turnout.core.values import BARE_ID, DEFAULT_RULES, Rules, SubmitOptions, valid_name
from turnout.definition.hooks import HOOK_NAMES, Hook, Hooks
from turnout.errors import DefinitionError, InvalidValue

LEASE_S = (1.0, 1800.0)
"""Shortest and longest lease. The server redelivers a silent node's job after it, so hours would hide a dead node."""

MAX_LABELS = 32
MAX_LABEL_KEY = 64
MAX_LABEL_VALUE = 256
MAX_COUNT = 1_000_000
"""Largest concurrency or number of forgiven losses; beyond it a number is a mistake."""

RunIn = Literal["thread", "process"]
IfExists = Literal["raise", "join"]


class InvalidOption(DefinitionError, InvalidValue):
    """An option of the wrong kind: caught as a TypeError and as a ValueError alike."""


class ActivityKeywords(TypedDict, total=False):
    """The keywords of `@activity(...)`; `ActivityOptions` says what they mean."""

    name: str | None
    timeout: float | timedelta | None
    retry: RetryPolicy | None
    max_lost: int
    lease: float | timedelta
    heartbeat_timeout: float | timedelta | None
    concurrency: int | None
    global_concurrency: int | None
    run_in: RunIn | None
    on_start: Hook | None
    on_success: Hook | None
    on_failure: Hook | None
    on_fault: Hook | None
    on_lost: Hook | None


class SubmissionKeywords(TypedDict, total=False):
    """The keywords of `.options(...)`; `Submission` says what they mean."""

    id: str | None
    if_exists: IfExists
    delay: float | timedelta | None
    at: datetime | None
    timeout: float | timedelta | None
    retry: RetryPolicy | None
    labels: Mapping[str, str]
    expires_in: float | timedelta | None


def duration(value: float | timedelta, name: str) -> float:
    """A duration longer than zero, in seconds; InvalidValue names the option."""
    result = seconds(value, name)
    if result <= 0:
        raise InvalidValue(f"{name} must be longer than 0 seconds, not {value!r}")
    return result


def _timeout(value: float | timedelta | None) -> float | None:
    return None if value is None else duration(value, "timeout")


def _heartbeat_timeout(value: float | timedelta | None) -> float | None:
    return None if value is None else duration(value, "heartbeat_timeout")


def _expires_in(value: float | timedelta | None) -> float | None:
    return None if value is None else duration(value, "expires_in")


def _lease(value: float | timedelta) -> float:
    result = seconds(value, "lease")
    if not LEASE_S[0] <= result <= LEASE_S[1]:
        raise InvalidValue(f"lease must be between {LEASE_S[0]:g} and {LEASE_S[1]:g} seconds, not {value!r}")
    return result


def _count(name: str, least: int) -> Callable[[Any, Any, Any], None]:
    def check(_instance: Any, _attribute: Any, value: Any) -> None:
        if value is None and least > 0:
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidOption(f"{name} must be an integer, not {value!r}")
        if not least <= value <= MAX_COUNT:
            raise InvalidValue(f"{name} must be between {least} and {MAX_COUNT}, not {value!r}")

    return check


def _policy(_instance: Any, _attribute: Any, value: Any) -> None:
    if value is not None and not isinstance(value, RetryPolicy):
        raise InvalidOption(f"retry must be a RetryPolicy, not {value!r}")


def _run_in(_instance: Any, _attribute: Any, value: Any) -> None:
    if value not in (None, "thread", "process"):
        raise InvalidValue(f'run_in must be "thread" or "process", not {value!r}')


def _name(_instance: Any, _attribute: Any, value: Any) -> None:
    valid_name(value, "an activity's name")


@attrs.frozen(kw_only=True)
class ActivityOptions(Hooks):
    """How every job of an activity is run, unless a submission says otherwise. Durations are seconds.

    `timeout`: one attempt, at most. `heartbeat_timeout`: the code itself must report at least this often.
    `lease`: how long the server waits for a silent node. `max_lost`: how many vanished nodes are forgiven.
    `concurrency`: attempts at once per node, `global_concurrency`: over all nodes; None is no limit of its own.
    `run_in`: where a sync function runs; None for an async one. `on_start` and so on: see `Hooks`.

    >>> ActivityOptions(name="convert", timeout=timedelta(minutes=15)).timeout
    900.0
    """

    name: str = attrs.field(validator=_name)
    timeout: float | None = attrs.field(default=None, converter=_timeout)
    retry: RetryPolicy = attrs.field(factory=RetryPolicy, validator=_policy)
    max_lost: int = attrs.field(default=3, validator=_count("max_lost", 0))
    lease: float = attrs.field(default=30.0, converter=_lease)
    heartbeat_timeout: float | None = attrs.field(default=None, converter=_heartbeat_timeout)
    concurrency: int | None = attrs.field(default=None, validator=_count("concurrency", 1))
    global_concurrency: int | None = attrs.field(default=None, validator=_count("global_concurrency", 1))
    run_in: RunIn | None = attrs.field(default=None, validator=_run_in)

    @property
    def declared(self) -> dict[str, Any]:
        """What others may know of them: all that is set, but for the name, the policy and the hooks."""
        hidden = HOOK_NAMES | {"name", "retry"}
        values = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        return {name: value for name, value in values.items() if name not in hidden and value is not None}

    @property
    def rules(self) -> Rules:
        """The part that decides a job's life, as a record keeps it; the default ones are one and the same object."""
        rules = Rules(retry=self.retry, max_lost=self.max_lost, lease=self.lease)
        return DEFAULT_RULES if rules == DEFAULT_RULES else rules


def _id(value: object) -> str | None:
    if value is None:
        return None
    name = valid_name(value, "id")
    if BARE_ID.fullmatch(name):
        raise InvalidValue(f"id must not have the form of the ids that bare messages get, <number>-<base36>: {value!r}")
    return name


def _aware(_instance: Any, _attribute: Any, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, datetime):
        raise InvalidValue(f"at must be a datetime with a time zone, not {value!r}")
    if value.utcoffset() is None:
        raise InvalidValue(f"at must have a time zone (datetime.now(timezone.utc), ...): {value!r} is naive")


def _delay(value: float | timedelta | None) -> float | None:
    return None if value is None else seconds(value, "delay")


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidValue(f"labels must be a dict of strings, not {value!r}")
    if len(value) > MAX_LABELS:
        raise InvalidValue(f"labels: at most {MAX_LABELS} of them, not {len(value)}")
    return {_label(k, "a key", MAX_LABEL_KEY, least=1): _label(v, f"{k!r}", MAX_LABEL_VALUE) for k, v in value.items()}


def _label(value: object, what: str, most: int, *, least: int = 0) -> str:
    """Labels travel in a header, so one line of printable text each."""
    if not isinstance(value, str) or not least <= len(value) <= most or not value.isprintable():
        raise InvalidValue(f"labels: {what} must be {least} to {most} printable characters, not {value!r}")
    return value


def _if_exists(value: IfExists) -> IfExists:
    if value not in ("raise", "join"):
        raise InvalidValue(f'if_exists must be "raise" or "join", not {value!r}')
    return value


@attrs.frozen(kw_only=True)
class Submission:
    """What one submission asks for; None means the activity's own, or nothing.

    `id`: the job's id, else one is made up. `if_exists`: what to do when the id is taken. `delay` (seconds) or `at`
    (an aware datetime): not before. `expires_in`: seconds from the submission to the end of the last attempt.

    >>> Submission(id="a", delay=timedelta(minutes=1)).delay
    60.0
    """

    id: str | None = attrs.field(default=None, converter=_id)
    if_exists: IfExists = attrs.field(default="raise", converter=_if_exists)
    delay: float | None = attrs.field(default=None, converter=_delay)
    at: datetime | None = attrs.field(default=None, validator=_aware)
    timeout: float | None = attrs.field(default=None, converter=_timeout)
    retry: RetryPolicy | None = attrs.field(default=None, validator=_policy)
    labels: dict[str, str] = attrs.field(factory=dict, converter=_labels)
    expires_in: float | None = attrs.field(default=None, converter=_expires_in)

    def __attrs_post_init__(self) -> None:
        if self.delay is not None and self.at is not None:
            raise InvalidValue("delay and at exclude each other: give one of them")

    def merged(self, given: Mapping[str, Any]) -> Submission:
        """This one with the keywords of another `.options(...)` over it; an unknown keyword is a TypeError.

        >>> Submission(id="a").merged({"delay": 5})
        Submission(id='a', if_exists='raise', delay=5.0, at=None, timeout=None, retry=None, labels={}, expires_in=None)
        """
        for name in given:
            if name not in _SUBMISSION:
                raise DefinitionError(f"options() has no option {name!r}; it has {', '.join(_SUBMISSION)}")
        return attrs.evolve(self, **given)

    @property
    def at_s(self) -> float | None:
        """`at` as unix seconds."""
        return None if self.at is None else self.at.timestamp()

    @property
    def recorded(self) -> SubmitOptions:
        """The part that travels with the job and is kept in its record."""
        return SubmitOptions(timeout=self.timeout, retry=self.retry, expires_in=self.expires_in, labels=self.labels)


_SUBMISSION = tuple(field.name for field in attrs.fields(Submission))
_ACTIVITY = tuple(sorted((f.name for f in attrs.fields(ActivityOptions)), key=HOOK_NAMES.__contains__))


def activity_options(default_name: str, given: Mapping[str, Any]) -> ActivityOptions:
    """The options of `@activity(...)`: an unknown keyword is a DefinitionError, a bad value names its option."""
    for name in given:
        if name not in _ACTIVITY:
            raise DefinitionError(f"@activity has no option {name!r}; it has {', '.join(_ACTIVITY)}")
    values = {**given, "name": default_name if given.get("name") is None else given["name"]}
    if values.get("retry") is None:
        values.pop("retry", None)  # None means the default policy; RetryPolicy.none() means no retries.
    return ActivityOptions(**values)
