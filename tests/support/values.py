"""Core values for tests, with the fields of a job's spec written beside those of its record or its delivery."""

from __future__ import annotations

from typing import Any, TypeVar

import attrs

from turnout.core.record import Delivery, JobRecord, JobState, MessageRef
from turnout.core.spec import JobSpec

SPEC_FIELDS = frozenset(field.name for field in attrs.fields(JobSpec))

Job = TypeVar("Job", JobRecord, Delivery)


def job_record(id: str, activity: str, state: JobState, **fields: Any) -> JobRecord:
    """A record of this job; `fields` are its own and its spec's."""
    spec, own = _parted(fields)
    return JobRecord(JobSpec(id, activity, **spec), state, **own)


def delivery_of(id: str, activity: str, message: MessageRef, **fields: Any) -> Delivery:
    """A delivery of this job; `fields` are its own and its spec's."""
    spec, own = _parted(fields)
    return Delivery(JobSpec(id, activity, **{"submitted_at": message.time, **spec}), message, **own)


def changed(job: Job, **fields: Any) -> Job:
    """The job with other fields, its own and its spec's."""
    spec, own = _parted(fields)
    return attrs.evolve(job, spec=attrs.evolve(job.spec, **spec), **own)


def _parted(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = {name: value for name, value in fields.items() if name in SPEC_FIELDS}
    return spec, {name: value for name, value in fields.items() if name not in SPEC_FIELDS}
