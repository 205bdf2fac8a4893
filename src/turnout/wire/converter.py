"""How every value of ours is kept: JSON that a person can read, with a version.

Fields at their default are left out, fields that are not known are ignored, and `v` names the version of the format: a
reader takes every version up to its own.
"""

from __future__ import annotations

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


def register(*classes: type) -> None:
    """Keep these classes as every value of ours is kept: fields at their default are left out."""
    for each in classes:
        converter.register_unstructure_hook(
            each, make_dict_unstructure_fn(each, converter, _cattrs_omit_if_default=True)
        )
        converter.register_structure_hook(each, _of_an_object(make_dict_structure_fn(each, converter)))


register(Asker, RetryPolicy, Token, Body, Progress, ErrorInfo, AttemptRecord, MessageRef, WaitsFor)
register(Answer, Outside)
register(SubmitOptions, JobSpec, Policy)
register(NodeInfo, ActivityInfo)
register(Schedule, Job, Run, ScheduleRecord)
register(MemberKind, Roster, FollowUp, GroupRecord)

_SPEC_FIELDS = frozenset(field.name for field in attrs.fields(JobSpec))
_record_to_json = make_dict_unstructure_fn(JobRecord, converter, _cattrs_omit_if_default=True)
_record_from_json = make_dict_structure_fn(JobRecord, converter)


def _flat(record: JobRecord) -> dict[str, Any]:
    """A record as JSON has one level: the fields of its spec stand beside its own."""
    raw: dict[str, Any] = _record_to_json(record)
    return {**raw.pop("spec"), **raw}


def _nested(raw: Mapping[str, Any], _: type) -> JobRecord:
    spec = {name: value for name, value in raw.items() if name in _SPEC_FIELDS}
    record: JobRecord = _record_from_json({**raw, "spec": spec}, JobRecord)
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
