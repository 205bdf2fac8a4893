"""The job that an activity's command asks for."""

from __future__ import annotations

from turnout.core.spec import Asker, Body, SubmitOptions
from turnout.core.workflows.jobs import job_of
from turnout.core.workflows.values import Command, CommandKind, Record, RecordKind, WorkflowState


def test_the_job_knows_who_asked_for_it() -> None:
    """A job has the options that its command gave, and with them the workflow whose end it tells."""
    record = Record("o-17", "order", RecordKind.task, 1, "life", 2, "nonce", WorkflowState.running, 5.0)
    asked = SubmitOptions(timeout=30.0, labels={"region": "eu"})
    command = Command("0-0", CommandKind.activity, name="charge", body=Body(text="{}", size=2), job=asked)
    spec = job_of(record, command, "k" * 26)
    assert (spec.id, spec.activity, spec.submitted_at) == ("k" * 26, "charge", 5.0)
    assert (spec.options.timeout, spec.options.labels) == (30.0, {"region": "eu"})
    assert spec.options.parent == Asker("o-17", "order", "life", 2, "0-0")
