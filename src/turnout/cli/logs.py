"""Logging of the program `turnout`: on stderr, for people or as JSON, each line with the job or workflow of it."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

from turnout.cli.exits import BadInput
from turnout.core.plain import rfc3339, utc
from turnout.telemetry.log_lines import OF_EACH_JOB

VARIABLE = "TURNOUT_LOG_FORMAT"
EXTRA_MAX = 32
"""How many fields of its own a line may have."""
TEXT_MAX = 1000
"""How long the text of such a field may be."""

_OF_JOB = (
    ("turnout_job", "job"),
    ("turnout_activity", "activity"),
    ("turnout_attempt", "attempt"),
    ("turnout_node", "node"),
    ("turnout_workflow", "workflow"),
    ("turnout_workflow_name", "workflow_name"),
    ("turnout_run", "run"),
    ("trace_id", "trace_id"),
    ("span_id", "span_id"),
)
_USUAL = {*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName"}
_SHORT = {"trace_id": "trace", "span_id": "span"}


class Console(logging.Formatter):
    """A line for people, with what is known of its job at its end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        fields = " ".join(f"{_SHORT.get(name, name)}={value}" for name, value in of_job(record).items())
        if not fields:
            return text
        first, newline, rest = text.partition("\n")
        return f"{first} [{fields}]{newline}{rest}"


class Json(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, the job, the exception, and what the caller
    gave as `extra`. A field of that which is called like one of ours has `extra_` before its name."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": rfc3339(utc(record.created), "milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            **of_job(record),
        }
        if record.exc_info or record.exc_text:
            fields["exception"] = record.exc_text or self.formatException(record.exc_info or (None, None, None))
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        for name, value in extra_of(record).items():
            fields[f"extra_{name}" if name in fields else name] = value
        return json.dumps(fields)  # what is not ASCII is escaped: any pipe carries it


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # a bad format string of the user's: what logging writes of it is no JSON
        return f"{record.msg!r} does not fit its arguments: {type(error).__name__}: {error}"


def of_job(record: logging.LogRecord) -> dict[str, Any]:
    """What the record carries of its job, by the names that are shown."""
    return {name: value for key, name in _OF_JOB if (value := getattr(record, key, None))}


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    """The caller's own fields, bounded; what is no JSON value as its text."""
    ours = _USUAL | {key for key, _ in _OF_JOB}
    given = [(key, value) for key, value in record.__dict__.items() if key not in ours]
    return {str(key): _plain(value) for key, value in given[:EXTRA_MAX]}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if not isinstance(value, str):
        try:
            if isinstance(value, list | tuple | dict) and len(text := json.dumps(value, allow_nan=False)) <= TEXT_MAX:
                return json.loads(text)
        except (ValueError, TypeError, RecursionError):
            pass
        try:
            value = str(value)
        except Exception as error:  # the value is the user's, and so is its text
            value = f"(no text: {type(error).__name__})"
    return value if len(value) <= TEXT_MAX else f"{value[:TEXT_MAX]}..."


def set_up(given: Mapping[str, str], default: int, *, each_job: bool = False) -> None:
    """Log on stderr as the common options say, from level `default` up if they don't.

    The lines at INFO for each job that starts and ends well are left out, unless a level was asked for, or `each_job`.

    A program that has set up its own logging at import keeps it; see `cover`.
    """
    level = given.get("log_level")
    chosen = default if level is None else logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(given.get("log_format")))
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(handler)
        root.setLevel(max(chosen, logging.INFO))  # others' debug lines are theirs to ask for
    logging.getLogger("turnout").setLevel(chosen)
    if level is None and not each_job:
        for name in OF_EACH_JOB:
            logging.getLogger(name).setLevel(max(chosen, logging.WARNING))


def _formatter(name: str | None) -> logging.Formatter:
    name = name or os.environ.get(VARIABLE, "").strip().lower() or "console"
    if name not in ("console", "json"):
        raise BadInput(f"{VARIABLE} must be console or json, not {name!r}")
    return Json() if name == "json" else Console()


def cover() -> None:
    """Let every handler of this process, whoever has made it, see the job that a line is about."""
    from turnout.worker.context import JobContextFilter

    found = JobContextFilter()
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    for handler in {handler for each in loggers if isinstance(each, logging.Logger) for handler in each.handlers}:
        if not any(isinstance(each, JobContextFilter) for each in handler.filters):
            handler.addFilter(found)
