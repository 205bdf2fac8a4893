"""How every value of ours is kept: JSON that a person can read, with a version.

Fields at their default are left out, fields that are not known are ignored, and `v` names the version of the format: a
reader takes every version up to its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn
from cattrs.preconf.json import make_converter

from turnout import fastjson
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.failure import ErrorInfo
from turnout.core.group import FollowUp, GroupRecord, MemberKind, Roster
from turnout.core.record import (
    Answer,
    AttemptRecord,
    JobRecord,
    MessageRef,
    Outside,
    Policy,
    Progress,
    Token,
    WaitsFor,
)
from turnout.core.retry import RetryPolicy
from turnout.core.schedule import Job, Run, Schedule, ScheduleRecord
from turnout.core.spec import Asker, Body, JobSpec, SubmitOptions
from turnout.errors import UnreadableRecord

VERSION = 1
"""Goes up with whatever a reader of this version would take for nonsense: a state that it does not know, say."""

T = TypeVar("T")

converter = make_converter()


def _texts(raw: object, _: object) -> tuple[str, ...]:
    """Not a single text: that would be one of each of its characters."""
    if not isinstance(raw, list):
        raise TypeError(f"a list is wanted, not {raw!r:.80}")
    return tuple(map(str, raw))


converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _texts)


def _of_an_object(read: Callable[[Mapping[str, Any], type[T]], T]) -> Callable[[Mapping[str, Any], type[T]], T]:
    """`read` looks for fields with `in`, so that a list or a text would be a value with everything at its default."""

    def checked(raw: Mapping[str, Any], kind: type[T]) -> T:
        if not isinstance(raw, dict):
            raise TypeError(f"an object is wanted, not {raw!r:.80}")
        return read(raw, kind)

    return checked


_registered: set[object] = set()


def register(*classes: type) -> None:
    """Keep these classes as every value of ours is kept: fields at their default are left out.

    What converts a class is made when the first value of it is converted: most programs meet few of them.
    """
    _registered.update(classes)


def _to_json(cls: type) -> Callable[[Any], dict[str, Any]]:
    return make_dict_unstructure_fn(cls, converter, _cattrs_omit_if_default=True)


def _from_json(cls: type) -> Callable[[Mapping[str, Any], Any], Any]:
    return make_dict_structure_fn(cls, converter)


converter.register_unstructure_hook_factory(_registered.__contains__, _to_json)
converter.register_structure_hook_factory(_registered.__contains__, lambda cls: _of_an_object(_from_json(cls)))

register(Asker, RetryPolicy, Token, Body, Progress, ErrorInfo, AttemptRecord, MessageRef, WaitsFor)
register(Answer, Outside)
register(SubmitOptions, JobSpec, Policy)
register(NodeInfo, ActivityInfo)
register(Schedule, Job, Run, ScheduleRecord)
register(MemberKind, Roster, FollowUp, GroupRecord)

_SPEC_FIELDS = frozenset(field.name for field in attrs.fields(JobSpec))
_record_to_json = functools.cache(_to_json)
_record_from_json = functools.cache(_from_json)


def _flat(record: JobRecord) -> dict[str, Any]:
    """A record as JSON has one level: the fields of its spec stand beside its own."""
    raw: dict[str, Any] = _record_to_json(JobRecord)(record)
    return {**raw.pop("spec"), **raw}


def _nested(raw: Mapping[str, Any], _: type) -> JobRecord:
    spec = {name: value for name, value in raw.items() if name in _SPEC_FIELDS}
    record: JobRecord = _record_from_json(JobRecord)({**raw, "spec": spec}, JobRecord)
    return record


converter.register_unstructure_hook(JobRecord, _flat)
converter.register_structure_hook(JobRecord, _nested)


def dump(value: object) -> bytes:
    return fastjson.dumps({"v": VERSION, **converter.unstructure(value)})


class Garbled(UnreadableRecord):
    """Bytes that no turnout has written, of no version: somebody else has, or a disk has damaged them."""


def load(data: bytes, cls: type[T]) -> T:
    """The value that `dump` wrote. UnreadableRecord when a later version has written it, `Garbled` when none has."""
    try:
        raw = fastjson.loads(data)
        version = raw.pop("v")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Garbled(f"not a {cls.__name__} of turnout: {data[:80]!r}") from error
    check_version(version, f"a {cls.__name__}")
    try:
        return converter.structure(raw, cls)
    except Exception as error:  # cattrs raises groups of whatever the conversions raised
        raise Garbled(f"not a {cls.__name__} of turnout: {data[:80]!r}") from error


def check_version(version: object, what: str) -> None:
    """Raise what is wrong with `what` when it is of this version, unless this turnout reads it."""
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise Garbled(f"{what} of no version of turnout: {str(version)[:80]!r}")
    if version > VERSION:
        raise UnreadableRecord(f"{what} of version {version}, this turnout reads up to {VERSION}: upgrade it")
