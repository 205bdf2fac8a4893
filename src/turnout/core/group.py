"""Groups: many jobs that are submitted, counted and cancelled as one, and the job that follows them.

Pure. What is known of a group is its record. The ends of its members stand in there once each was seen, so that no job
has to be asked for twice, and a member's own record may be gone when the last of them ends.
"""

from __future__ import annotations

import base64
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import attrs

from turnout.core.evolve import evolve
from turnout.core.record import JobState
from turnout.core.spec import NO_BODY, NO_OPTIONS, Body, SubmitOptions, valid_name
from turnout.core.struct import struct
from turnout.errors import InvalidValue

MEMBERS_MOST = 100_000
ID_CHARS_MOST = 58
"""A member's id is the group's, a hyphen, and up to five digits: no longer than any id may be."""

ThenOn = Literal["ended", "completed"]

_ENDS = (JobState.completed, JobState.faulted, JobState.cancelled)
_CODES = {state: code for code, state in enumerate(_ENDS, start=1)}
_UNPACKED = [bytes(reversed(four)) for four in itertools.product(range(4), repeat=4)]
_PACKED = {four: code for code, four in enumerate(_UNPACKED)}


def valid_group_id(value: object) -> str:
    """`value` if it may be a group's id; InvalidValue otherwise.

    >>> valid_group_id("batch-7")
    'batch-7'
    """
    name = valid_name(value, "a group's id")
    if len(name) > ID_CHARS_MOST:
        raise InvalidValue(f"a group's id has at most {ID_CHARS_MOST} characters, not {len(name)}: {name!r}")
    return name


def member_id(group: str, number: int) -> str:
    """
    >>> member_id("batch-7", 0)
    'batch-7-0'
    """
    return f"{group}-{number}"


def then_id(group: str) -> str:
    """The id of the job that follows a group: always the same, so that it runs once."""
    return f"{group}-then"


class Ends:
    """How each member has ended, as far as that was seen: two bits of each, as text of a third of a byte.

    >>> Ends.none(3).with_ends({1: JobState.faulted}).text
    'CA=='
    """

    def __init__(self, codes: bytes) -> None:
        self._codes = codes

    @classmethod
    def none(cls, total: int) -> Ends:
        return cls(bytes(total))

    @classmethod
    def of(cls, text: str, total: int) -> Ends:
        """What `text` says; what it does not say of has not ended."""
        codes = b"".join([_UNPACKED[byte] for byte in base64.b64decode(text)])
        return cls(codes[:total].ljust(total, b"\0"))

    @property
    def text(self) -> str:
        codes = self._codes + bytes(-len(self._codes) % 4)
        return base64.b64encode(bytes([_PACKED[codes[at : at + 4]] for at in range(0, len(codes), 4)])).decode()

    def with_ends(self, ends: Mapping[int, JobState]) -> Ends:
        """These as well. The first end of a member counts: what was said of it stays."""
        codes = bytearray(self._codes)
        for number, state in ends.items():
            codes[number] = codes[number] or _CODES[state]
        return Ends(bytes(codes))

    def of_member(self, number: int) -> JobState | None:
        code = self._codes[number]
        return _ENDS[code - 1] if code else None

    def open(self, first: int, most: int) -> list[int]:
        """The first `most` members from number `first` on that have not ended."""
        found: list[int] = []
        at = self._codes.find(0, first)
        while at >= 0 and len(found) < most:
            found.append(at)
            at = self._codes.find(0, at + 1)
        return found

    def counts(self) -> Counter[JobState]:
        """How many have ended how."""
        return Counter({state: self._codes.count(code) for state, code in _CODES.items()})

    @property
    def left(self) -> int:
        """How many have not ended."""
        return self._codes.count(0)


@struct
class MemberKind:
    """What members have in common: the activity, the options, and when they may run at the earliest."""

    activity: str
    options: SubmitOptions = NO_OPTIONS
    at: float | None = None


@struct
class Roster:
    """Who the members are. `kind_of`: the kind of each by its place in `kinds`, empty where there is one kind alone.
    `payloads`: the JSON of each."""

    kinds: tuple[MemberKind, ...]
    payloads: tuple[str, ...]
    kind_of: tuple[int, ...] = ()

    def kind(self, number: int) -> MemberKind:
        return self.kinds[self.kind_of[number] if self.kind_of else 0]


@struct
class FollowUp:
    """The job that follows a group: its activity, the parameter that takes the list (None: as the
    contract of the activity says, "": the payload is the list), and after which ends it runs."""

    activity: str
    parameter: str | None = None
    options: SubmitOptions = NO_OPTIONS
    on: str = "ended"


@struct(slots=False)
class GroupRecord:
    """All that is known of a group. `activity`: that of all members, "" where they differ; `roster`: who they are.

    `published`: so many of them were submitted. `cancel`: the reason of whoever has cancelled the group, `cancelled`:
    so many of them were asked to end. `ends`: those that have ended. `then_id`: the job that has followed.
    """

    id: str
    total: int
    activity: str = ""
    roster: Body = NO_BODY
    created_at: float = 0.0
    nonce: str = ""
    headers: dict[str, str] = attrs.field(factory=dict)
    then: FollowUp | None = None
    published: int = 0
    cancel: str | None = None
    cancelled: int = 0
    ends: str = ""
    finished_at: float | None = None
    then_id: str = ""

    @property
    def seen(self) -> Ends:
        """The ends that were seen."""
        return Ends.of(self.ends, self.total)

    @property
    def follows(self) -> bool:
        """Whether the follow-up is to run, now that all have ended."""
        if self.then is None:
            return False
        return self.then.on == "ended" or self.seen.counts()[JobState.completed] == self.total

    def with_ends(self, ends: Mapping[int, JobState]) -> GroupRecord:
        return evolve(self, ends=self.seen.with_ends(ends).text)
