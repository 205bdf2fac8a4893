"""Lines about jobs: what each of them carries, how long one may be, and what stands for lines that were dropped."""

from __future__ import annotations

from typing import Any

import attrs

from turnout.core.record import JobRecord

LINE_BYTES = 4096
"""The longest message that is kept, with the text of its exception."""


@attrs.frozen
class Line:
    """One line of `job.log`. `at` is unix seconds; `level` is the level's name."""

    at: float
    level: str
    attempt: int
    node: str
    message: str


def fields(
    job_id: str = "", activity: str = "", attempt: int = 0, node: str = "", trace_id: str = "", span_id: str = ""
) -> dict[str, Any]:
    """What a log record carries of the job that it is about, as the attributes of the record."""
    return {
        "turnout_job": job_id,
        "turnout_activity": activity,
        "turnout_attempt": attempt,
        "turnout_node": node,
        "trace_id": trace_id,
        "span_id": span_id,
    }


def workflow_fields(
    workflow_id: str = "", name: str = "", run: int = 0, trace_id: str = "", span_id: str = ""
) -> dict[str, Any]:
    """What a log record carries of the workflow whose code has logged it."""
    return {
        "turnout_workflow": workflow_id,
        "turnout_workflow_name": name,
        "turnout_run": run,
        "trace_id": trace_id,
        "span_id": span_id,
    }


def of_workflow(workflow_id: str, name: str, run: int) -> dict[str, Any]:
    """What a log record carries over that of the workflow that has asked for its job."""
    return {"turnout_workflow": workflow_id, "turnout_workflow_name": name, "turnout_run": run}


def fields_of(record: JobRecord) -> dict[str, Any]:
    """The same of a record, with the attempt that it tells of last."""
    last = record.attempts[-1] if record.attempts else None
    node, span_id = (last.node, last.span_id) if last is not None else ("", "")
    known = fields(record.id, record.activity, record.attempt, node, record.spec.trace_id, span_id)
    parent = record.spec.options.parent
    return known if parent is None else known | of_workflow(parent.id, parent.name, parent.run)


def cut(text: str, most: int = LINE_BYTES) -> str:
    """`text` in at most `most` bytes of UTF-8. What is too much is missing in the middle: both ends tell more.

    >>> cut("a" * 30 + "b" * 30, 50)
    'aaaaaaaaaa... (40 bytes) ...bbbbbbbbbb'
    """
    if text.isascii() and len(text) <= most:
        return text
    data = text.encode(errors="backslashreplace")  # half of a surrogate pair is no UTF-8
    if len(data) <= most:
        return data.decode()
    half = max((most - 30) // 2, 0)
    head, tail = data[:half].decode(errors="ignore"), data[len(data) - half :].decode(errors="ignore")
    return f"{head}... ({len(data) - 2 * half} bytes) ...{tail}"


def marker(count: int, line: Line) -> Line:
    """What stands for `count` lines that were dropped before `line`."""
    return Line(line.at, "WARNING", line.attempt, line.node, f"... {count} lines dropped")
