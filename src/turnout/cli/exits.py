"""How `turnout` ends: an exit code per kind of outcome, and one sentence on stderr for an error."""

from __future__ import annotations

import click

from turnout import errors

OK = 0
FAILED = 1
USAGE = 2
CANCELLED = 3
NOT_FOUND = 4
TIMED_OUT = 5
INTERRUPTED = 130

EPILOG = """\b
Exit codes:
  0    done; the job or workflow has completed; a worker has stopped in order
  1    an error; the job or workflow has faulted; doctor has found something wrong
  2    wrong usage, bad input, or a module that can't be imported
  3    the job or workflow was cancelled, or the workflow terminated
  4    no such job, workflow, schedule, group, dead letter or activity
  5    the job or workflow had not ended when the time to wait was over
  130  interrupted

\b
Environment: NATS_URL, NATS_CONTEXT, NATS_USER, NATS_PASSWORD, NATS_TOKEN, NATS_CREDS, NATS_NKEY,
NATS_CA, NATS_CERT, NATS_KEY, NATS_INBOX_PREFIX, TURNOUT_NAMESPACE, TURNOUT_LOG_FORMAT;
for traces OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_ENDPOINT; for metrics OTEL_METRICS_EXPORTER.
"""


class WaitedTooLong(errors.TurnoutError):
    """The job goes on, but whoever waited for it does not."""


class NotThere(errors.TurnoutError):
    """What was asked for does not exist."""


class ModuleUnusable(errors.TurnoutError):
    """A module that can't be imported, or has nothing to run."""


class BadInput(errors.InvalidValue):
    """Something typed, or read from a file, that can't be used."""


_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (WaitedTooLong, TIMED_OUT),
    (NotThere, NOT_FOUND),
    (errors.JobNotFound, NOT_FOUND),
    (errors.ActivityNotFound, NOT_FOUND),
    (errors.WorkflowNotFound, NOT_FOUND),
    (errors.ScheduleNotFound, NOT_FOUND),
    (errors.GroupNotFound, NOT_FOUND),
    (errors.JobCancelled, CANCELLED),
    (errors.WorkflowCancelled, CANCELLED),
    (ModuleUnusable, USAGE),
    (errors.InvalidValue, USAGE),
    (errors.InvalidArguments, USAGE),
    (errors.DefinitionError, USAGE),
)


def code_of(error: BaseException) -> int:
    """The exit code for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def complain(error: BaseException) -> int:
    """Say on stderr what is wrong, and give the exit code for it."""
    said = str(error).replace(errors.IF_TAKEN, "--if-exists join or replace")
    click.echo(f"turnout: {said or type(error).__name__}", err=True)
    return code_of(error)
