"""What of a job never changes while it lives: what was submitted, and the tokens that name it.

Pure. Instants are unix seconds by the NATS server's clock, durations are seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from turnout.core.retry import RetryPolicy
from turnout.core.struct import struct
from turnout.errors import InvalidValue

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What an id, an activity's or node's name and a namespace look like: a token of a subject and a part of a key."""

BARE_ID = re.compile(r"\d+-[0-9a-z]{9,}")
"""The form of an id that is derived from a bare message's sequence and time (P8); callers may not choose it."""


def is_name(text: str) -> bool:
    """Whether the text is such a token.

    >>> is_name("make-thumbnail"), is_name("a.b"), is_name("")
    (True, False, False)
    """
    plain = text.isalnum() and text.isascii() and len(text) <= 64  # most are, and seen so in half of the time
    return plain or NAME.fullmatch(text) is not None


def valid_name(value: object, what: str) -> str:
    """`value` if it is a valid token, else InvalidValue that names `what`."""
    if isinstance(value, str) and is_name(value):
        return value
    raise InvalidValue(f"{what} must match [A-Za-z0-9_-]{{1,64}}, not {value!r}")


FIRST_PRIORITY, DEFAULT_PRIORITY = 1, 3

PRIORITIES = range(FIRST_PRIORITY, 6)
"""Those a job may have, those that go first first."""

ONE_IN = 20
"""Of so many that start by priority one is whichever has waited longest."""


EXPRESS = len(PRIORITIES)

LANES = range(FIRST_PRIORITY, PRIORITIES[-1] + EXPRESS + 1)
"""The lanes of an activity: that of a priority has its number. Those that are let past others of their priority, so
that each key of the activity's fairness has its turn, lie in an express lane, whose number is higher by `EXPRESS`."""


def is_express(lane: int) -> bool:
    return lane > PRIORITIES[-1]


def express_of(lane: int) -> int:
    """The express lane of a lane's priority, which may be that lane.

    >>> express_of(2), express_of(2 + EXPRESS)
    (7, 7)
    """
    return lane if is_express(lane) else lane + EXPRESS


def priority_of(lane: int) -> int:
    """The priority of the jobs in a lane.

    >>> priority_of(2), priority_of(2 + EXPRESS)
    (2, 2)
    """
    return lane - EXPRESS if lane > EXPRESS else lane


def checked_priority(value: object) -> int:
    """`value` if it is a priority, else InvalidValue.

    >>> checked_priority(0)
    Traceback (most recent call last):
    ...
    turnout.errors.InvalidValue: priority must be an integer from 1 (first) to 5 (last), not 0
    """
    if isinstance(value, int) and not isinstance(value, bool) and value in PRIORITIES:
        return value
    raise InvalidValue(f"priority must be an integer from 1 (first) to 5 (last), not {value!r}")


MAX_LABELS = 32
MAX_LABEL_KEY = 64
MAX_LABEL_VALUE = 256

MAX_ATTEMPTS = 1000
"""How many attempts one submission may ask for; an activity's own policy may have more."""

MAX_TIMEOUT_S = 366 * 86_400.0
"""The longest timeout that one submission may ask for."""

MAX_POLICY_NAMES = 100
MAX_POLICY_NAME = 400


def checked_labels(value: object) -> dict[str, str]:
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


def check_submission(timeout: float | None, retry: RetryPolicy | None) -> None:
    """InvalidValue for what no single submission may ask for, whoever has sent it and by whatever client.

    >>> check_submission(60.0, RetryPolicy(max_attempts=10_000))
    Traceback (most recent call last):
    ...
    turnout.errors.InvalidValue: retry: one submission may ask for at most 1000 attempts, not 10000
    """
    if timeout is not None and timeout > MAX_TIMEOUT_S:
        raise InvalidValue(f"timeout: one submission may ask for at most {MAX_TIMEOUT_S:g} s, not {timeout:g}")
    if retry is None:
        return
    attempts = max(retry.max_attempts, len(retry.delays or ()))
    if attempts > MAX_ATTEMPTS:
        raise InvalidValue(f"retry: one submission may ask for at most {MAX_ATTEMPTS} attempts, not {attempts}")
    names = (*retry.retry_on, *retry.never_on)
    if len(names) > MAX_POLICY_NAMES or any(len(name) > MAX_POLICY_NAME for name in names):
        raise InvalidValue(
            f"retry: one submission may name at most {MAX_POLICY_NAMES} exceptions of {MAX_POLICY_NAME} characters each"
        )


@struct
class Body:
    """A payload, result or checkpoint: JSON text, or the name of the object that holds it (claim check)."""

    text: str | None = None
    ref: str | None = None
    size: int = 0


@struct
class Asker:
    """A command of a workflow that waits for an end: of its activity, its child, or a workflow that it asked about.

    `life` and `run` tell this execution of the workflow from every other of the same id.
    """

    id: str
    name: str
    life: str
    run: int
    command: str


@struct
class SubmitOptions:
    """What one submission asked for; None means the activity's own. `parent` is the workflow that submitted it,
    `schedule` the schedule that did, `group` the group that it is a member of.

    `from_scratch`: this generation begins without the checkpoint that the one before has left. `start_within`: seconds
    from the submission to the begin of the first attempt. `requires`: the properties that a node must have to run it.
    `priority`: None is the default one; of a job that was let past others it is the number of its express lane.
    """

    timeout: float | None = None
    retry: RetryPolicy | None = None
    expires_in: float | None = None
    labels: dict[str, str] = attrs.field(factory=dict)
    parent: Asker | None = None
    schedule: str | None = None
    from_scratch: bool = False
    start_within: float | None = None
    requires: dict[str, str] = attrs.field(factory=dict)
    priority: int | None = None
    group: str | None = None

    @property
    def has_deadline(self) -> bool:
        """Whether there is an instant by which the job must have ended, or begun."""
        return self.expires_in is not None or self.start_within is not None

    def prioritized(self, priority: int) -> SubmitOptions:
        """These options with another priority; the default one is not written down."""
        wanted = None if priority == DEFAULT_PRIORITY else priority
        if self is _PRIORITIZED.get(self.priority):  # most jobs ask for nothing else
            return _PRIORITIZED[wanted] if wanted in _PRIORITIZED else SubmitOptions(priority=wanted)
        return self if wanted == self.priority else attrs.evolve(self, priority=wanted)


NO_BODY = Body()
NO_OPTIONS = SubmitOptions()
_PRIORITIZED = {None: NO_OPTIONS} | {lane: SubmitOptions(priority=lane) for lane in LANES if lane != DEFAULT_PRIORITY}


@struct(slots=False)
class JobSpec:
    """The job as it was submitted. Its record and every delivery of its message hold one; a retry by hand begins
    another generation of it (P2), which shows by `after` that it follows the life before: nobody else could know that.

    `nonce` names the call that submitted it, where that has chosen the id: by it the call knows its own job again (P3).
    """

    id: str
    activity: str
    generation: int = 1
    submitted_at: float = 0.0
    payload: Body = NO_BODY
    headers: dict[str, str] = attrs.field(factory=dict)
    options: SubmitOptions = NO_OPTIONS
    trace_id: str = ""
    after: str = ""
    nonce: str = ""

    @property
    def priority(self) -> int:
        """Whether it starts before others: 1 first, 5 last."""
        return priority_of(self.lane)

    @property
    def lane(self) -> int:
        """Where its message is put."""
        asked = self.options.priority
        return asked if asked is not None and asked in LANES else DEFAULT_PRIORITY

    @property
    def expires_at(self) -> float | None:
        """The instant by which the last attempt must have ended, or None."""
        return None if self.options.expires_in is None else self.submitted_at + self.options.expires_in

    @property
    def starts_by(self) -> float | None:
        """The instant by which the first attempt must have begun, or None."""
        return None if self.options.start_within is None else self.submitted_at + self.options.start_within
