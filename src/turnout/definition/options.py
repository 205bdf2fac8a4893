"""What an activity is defined with, and what one submission asks for, checked where it is written.

Pure: no I/O, no clock. Durations become float seconds and instants unix seconds here, so that nothing behind this
module handles a `timedelta` or a `datetime`. An unknown option, or one of the wrong kind, is a TypeError; a value that
cannot be used is an InvalidValue; both name the option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

import attrs

from turnout.core.limits import own_limit
from turnout.core.record import DEFAULT_POLICY, Policy
from turnout.core.retry import RetryPolicy, seconds
from turnout.core.routing import checked_requires
from turnout.core.spec import BARE_ID, SubmitOptions, check_submission, checked_labels, checked_priority, valid_name
from turnout.definition.bounds import Bounds
from turnout.definition.fairness import fairness_template
from turnout.definition.hooks import HOOK_NAMES, Hook, Hooks
from turnout.definition.limits import Limit, limits_of
from turnout.definition.retention import Retention
from turnout.errors import DefinitionError, InvalidValue

LEASE_S = (1.0, 1800.0)
"""Shortest and longest lease. The server redelivers a silent node's job after it, so hours would hide a dead node."""

MAX_COUNT = 1_000_000
"""Largest concurrency or number of forgiven losses; beyond it a number is a mistake."""

LATEST_YEAR = 2200
"""The first year that nothing may be delayed to: readers and the server's timers have their own ends of time."""

MAX_KEY = 256
"""How long a debounce_key may be."""

RunIn = Literal["thread", "process"]
IfExists = Literal["raise", "join", "replace"]
Cancellation = Literal["try", "wait", "abandon"]


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
    limits: Sequence[Limit] | None
    requires: Mapping[str, str] | None
    priority: int | None
    fairness: str | None
    run_in: RunIn | None
    retention: Retention | None
    bounds: Bounds | None
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
    start_within: float | timedelta | None
    requires: Mapping[str, str] | None
    priority: int | None
    cancellation: Cancellation | None
    local: bool
    debounce: float | timedelta | None
    debounce_key: str | None


def duration(value: float | timedelta, name: str) -> float:
    """A duration longer than zero, in seconds; InvalidValue names the option."""
    result = seconds(value, name)
    if result <= 0:
        raise InvalidValue(f"{name} must be longer than 0 seconds, not {value!r}")
    return result


# Type checkers read the type of a keyword off a converter that is a named function, and off nothing else: so each of
# the durations below has one of its own.
def timeout_s(value: float | timedelta | None) -> float | None:
    return None if value is None else duration(value, "timeout")


def _heartbeat_timeout(value: float | timedelta | None) -> float | None:
    return None if value is None else duration(value, "heartbeat_timeout")


def _expires_in(value: float | timedelta | None) -> float | None:
    return None if value is None else duration(value, "expires_in")


def _start_within(value: float | timedelta | None) -> float | None:
    return None if value is None else duration(value, "start_within")


def _requires(value: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if value is None else checked_requires(value)


def _priority(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOption(f"priority must be an integer from 1 (first) to 5 (last), not {value!r}")
    return checked_priority(value)


def _debounce(value: float | timedelta | None) -> float | None:
    return None if value is None else duration(value, "debounce")


def _debounce_key(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_KEY:
        raise InvalidValue(f"debounce_key must be text of 1 to {MAX_KEY} characters, not {value!r}")
    return value


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


def check_policy(_instance: Any, _attribute: Any, value: Any) -> None:
    if value is not None and not isinstance(value, RetryPolicy):
        raise InvalidOption(f"retry must be a RetryPolicy, not {value!r}")


def _run_in(_instance: Any, _attribute: Any, value: Any) -> None:
    if value not in (None, "thread", "process"):
        raise InvalidValue(f'run_in must be "thread" or "process", not {value!r}')


def _retention(_instance: Any, _attribute: Any, value: Any) -> None:
    if value is not None and not isinstance(value, Retention):
        raise InvalidOption(f"retention must be a turnout.Retention, not {value!r}")


def _bounds(_instance: Any, _attribute: Any, value: Any) -> None:
    if value is not None and not isinstance(value, Bounds):
        raise InvalidOption(f"bounds must be turnout.Bounds, not {value!r}")


def _name(_instance: Any, _attribute: Any, value: Any) -> None:
    valid_name(value, "an activity's name")


@attrs.frozen(kw_only=True)
class ActivityOptions(Hooks):
    """How every job of an activity is run, unless a submission says otherwise. Durations are seconds.

    `timeout`: one attempt, at most. `heartbeat_timeout`: the code itself must report at least this often.
    `lease`: how long the server waits for a silent node. `max_lost`: how many vanished nodes are forgiven.
    `concurrency`: attempts at once per node, `global_concurrency`: over all nodes; None is no limit of its own.
    `limits`: those that are counted over all nodes and activities, see `Limit`. `requires`: the properties that a node
    must have to run its jobs, beside those that a submission names. `priority`: that of its jobs, unless a submission
    says otherwise: 1 goes first, 5 last, None is 3. `fairness`: what is in braces names a field of the payload, as in a
    limit's name: where jobs wait, each of its values has its turn, however many the others have waiting.
    `run_in`: where a sync function runs; None for an async one.
    `retention`: how long the records of its ended jobs are kept, whoever ends them, instead of as long as the namespace
    says; the newest declaration counts. `bounds`: what a submission may ask for at most, see `Bounds`.
    `on_start` and so on: see `Hooks`.

    >>> ActivityOptions(name="convert", timeout=timedelta(minutes=15)).timeout
    900.0
    """

    name: str = attrs.field(validator=_name)
    timeout: float | None = attrs.field(default=None, converter=timeout_s)
    retry: RetryPolicy = attrs.field(factory=RetryPolicy, validator=check_policy)
    max_lost: int = attrs.field(default=3, validator=_count("max_lost", 0))
    lease: float = attrs.field(default=30.0, converter=_lease)
    heartbeat_timeout: float | None = attrs.field(default=None, converter=_heartbeat_timeout)
    concurrency: int | None = attrs.field(default=None, validator=_count("concurrency", 1))
    global_concurrency: int | None = attrs.field(default=None, validator=_count("global_concurrency", 1))
    limits: tuple[Limit, ...] = attrs.field(default=(), converter=limits_of)
    requires: dict[str, str] | None = attrs.field(default=None, converter=_requires)
    priority: int | None = attrs.field(default=None, converter=_priority)
    fairness: str | None = attrs.field(default=None, converter=fairness_template)
    run_in: RunIn | None = attrs.field(default=None, validator=_run_in)
    retention: Retention | None = attrs.field(default=None, validator=_retention)
    bounds: Bounds | None = attrs.field(default=None, validator=_bounds)

    @property
    def all_limits(self) -> tuple[Limit, ...]:
        """Its limits over all nodes: `global_concurrency` is one that no other activity shares."""
        if self.global_concurrency is None:
            return self.limits
        own = Limit(own_limit(self.name), concurrency=self.global_concurrency)
        if any(limit.name == own.name for limit in self.limits):
            raise InvalidValue(f"limits: {own.name!r} is what global_concurrency is short for: give one of the two")
        return (*self.limits, own)

    @property
    def declared(self) -> dict[str, Any]:
        """What others may know of them: all that is set, but for the name, the policy and the hooks."""
        hidden = HOOK_NAMES | {"name", "retry", "limits", "retention", "bounds"}
        values = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}
        shown = {name: value for name, value in values.items() if name not in hidden and value is not None}
        if self.retention is not None:
            shown["retention"] = attrs.asdict(self.retention)
        if self.bounds is not None:
            shown["bounds"] = attrs.asdict(self.bounds)
        return {**shown, "limits": [attrs.asdict(limit) for limit in self.limits]} if self.limits else shown

    @property
    def rules(self) -> Policy:
        """The part that decides a job's life, as a record keeps it; the default ones are one and the same object."""
        rules = Policy(retry=self.retry, max_lost=self.max_lost, lease=self.lease)
        return DEFAULT_POLICY if rules == DEFAULT_POLICY else rules


def chosen_id(value: object) -> str | None:
    if value is None:
        return None
    name = valid_name(value, "id")
    if BARE_ID.fullmatch(name):
        raise InvalidValue(f"id must not have the form of the ids that bare messages get, <number>-<base36>: {value!r}")
    return name


def given_list(given: Any, what: str) -> list[Any]:
    """What was given as a list of `what`; DefinitionError for one thing in place of a list."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise DefinitionError(f"{what} must be a list, not {given!r}: put it in brackets")
    return list(given)


def check_aware(_instance: Any, _attribute: Any, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, datetime):
        raise InvalidValue(f"at must be a datetime with a time zone, not {value!r}")
    if value.utcoffset() is None:
        raise InvalidValue(f"at must have a time zone (datetime.now(timezone.utc), ...): {value!r} is naive")
    if value.year >= LATEST_YEAR:
        raise InvalidValue(f"at must be before the year {LATEST_YEAR}, not {value!r}: what never runs is not submitted")


def delay_s(value: float | timedelta | None) -> float | None:
    return None if value is None else seconds(value, "delay")


def _if_exists(value: IfExists) -> IfExists:
    if value not in ("raise", "join", "replace"):
        raise InvalidValue(f'if_exists must be "raise", "join" or "replace", not {value!r}')
    return value


def _cancellation(value: Cancellation | None) -> Cancellation | None:
    if value not in (None, "try", "wait", "abandon"):
        raise InvalidValue(f'cancellation must be "try", "wait" or "abandon", not {value!r}')
    return value


def _local(value: bool) -> bool:
    if not isinstance(value, bool):
        raise InvalidValue(f"local must be True or False, not {value!r}")
    return value


_ONLY_JOBS = ("id", "delay", "at", "labels", "expires_in", "start_within", "requires", "priority", "debounce")
"""The options that a local activity can't have."""


@attrs.frozen(kw_only=True)
class Submission:
    """What one submission asks for; None means the activity's own, or nothing.

    `id`: the job's id, else one is made up. `if_exists`, when the id is taken: "raise" (the default), "join": take the
    job that has it, or "replace": end that job, and run this one under the id. `delay` (seconds) or `at` (an aware
    datetime): not before. `expires_in`: seconds from the submission to the end of the last attempt.
    `start_within`: seconds from the submission to the begin of the first attempt; after them the job is faulted.
    `requires`: properties that a node must have to run it, over those that its activity requires.
    `priority`: whether it starts before others that wait, 1 first, 5 last.
    `cancellation`, within a workflow: what becomes of the job when nobody waits for it any more. "try" (the default):
    it is asked to cancel, "wait": its real outcome is waited for, "abandon": it goes on. `local`, within a workflow: it
    runs on the workflow's worker without a job of its own.
    `debounce`: not before so many seconds have passed without another submission of the activity with this
    `debounce_key` (by default: of the activity without a key); all of them are one job, with the payload and the
    options of the last one.

    >>> Submission(id="a", delay=timedelta(minutes=1)).delay
    60.0
    """

    id: str | None = attrs.field(default=None, converter=chosen_id)
    if_exists: IfExists = attrs.field(default="raise", converter=_if_exists)
    delay: float | None = attrs.field(default=None, converter=delay_s)
    at: datetime | None = attrs.field(default=None, validator=check_aware)
    timeout: float | None = attrs.field(default=None, converter=timeout_s)
    retry: RetryPolicy | None = attrs.field(default=None, validator=check_policy)
    labels: dict[str, str] = attrs.field(factory=dict, converter=checked_labels)
    expires_in: float | None = attrs.field(default=None, converter=_expires_in)
    start_within: float | None = attrs.field(default=None, converter=_start_within, repr=False)
    requires: dict[str, str] | None = attrs.field(default=None, converter=_requires, repr=False)
    priority: int | None = attrs.field(default=None, converter=_priority, repr=False)
    cancellation: Cancellation | None = attrs.field(default=None, converter=_cancellation, repr=False)
    local: bool = attrs.field(default=False, converter=_local, repr=False)
    debounce: float | None = attrs.field(default=None, converter=_debounce, repr=False)
    debounce_key: str | None = attrs.field(default=None, converter=_debounce_key, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.delay is not None and self.at is not None:
            raise InvalidValue("delay and at exclude each other: give one of them")
        if self.start_within is not None and self.delay is not None and self.start_within <= self.delay:
            raise InvalidValue(
                f"start_within must be longer than delay ({self.delay:g} s): both begin at the submission"
            )
        self._check_debounce()
        check_submission(self.timeout, self.retry)
        if self.local:
            self._check_local()

    def _check_local(self) -> None:
        for name in _ONLY_JOBS:
            if getattr(self, name):
                raise InvalidValue(
                    f"local=True and {name} exclude each other: a local activity is no job that could have one; "
                    f"leave one of them out"
                )

    def _check_debounce(self) -> None:
        if self.debounce is None:
            if self.debounce_key is not None:
                raise InvalidValue("debounce_key goes with debounce: say for how many seconds to wait")
            return
        named = ("delay", "at", "id", "expires_in", "start_within")
        excluded = [name for name in named if getattr(self, name) is not None]
        if self.if_exists != "raise":
            excluded.append("if_exists")
        if excluded:
            raise InvalidValue(
                f"debounce and {excluded[0]} exclude each other: several submissions are one job, whose id is made up "
                "and whose time is that of the last one"
            )

    def merged(self, given: Mapping[str, Any]) -> Submission:
        """This one with the keywords of another `.options(...)` over it; an unknown keyword is a TypeError.

        >>> Submission(id="a").merged({"delay": 5})
        Submission(id='a', if_exists='raise', delay=5.0, at=None, timeout=None, retry=None, labels={}, expires_in=None)
        """
        for name in given:
            if name not in _SUBMISSION:
                raise DefinitionError(f"options() has no option {name!r}; it has {', '.join(_SUBMISSION)}")
        if self.requires is not None and "requires" in given:
            given = {**given, "requires": {**self.requires, **(_requires(given["requires"]) or {})}}
        return attrs.evolve(self, **given)

    @property
    def at_s(self) -> float | None:
        """`at` as unix seconds; what lies before 1970 is as past as that."""
        return None if self.at is None else max(self.at.timestamp(), 0.0)

    @property
    def recorded(self) -> SubmitOptions:
        """The part that travels with the job and is kept in its record."""
        return SubmitOptions(
            timeout=self.timeout,
            retry=self.retry,
            expires_in=self.expires_in,
            labels=self.labels,
            start_within=self.start_within,
            requires=self.requires or {},
        )


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


def refuse_options(name: str, given: object, options: Iterable[str], why: str) -> None:
    """InvalidValue for the first of these options that was given; `given` has all of them, each with a default."""
    usual = type(given)()
    for option in options:
        if getattr(given, option) != getattr(usual, option):
            raise InvalidValue(f"{name}: leave the option {option} out: {why}")
