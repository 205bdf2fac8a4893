"""What an activity's job and the workflow that asked for it know of each other."""

from __future__ import annotations

import attrs
import pytest

from tests.support.values import changed, job_record
from turnout.core.failure import ErrorInfo
from turnout.core.record import AttemptRecord, JobState, Outcome, derived_span_id
from turnout.core.spec import NO_BODY, Asker, Body, SubmitOptions
from turnout.core.workflows.jobs import (
    ATTEMPTS_SHOWN,
    command_span_id_of,
    ending_of_job,
    ending_of_try,
    job_of,
    span_id_of,
    traceparent_of,
)
from turnout.core.workflows.values import (
    Command,
    CommandKind,
    EndKind,
    Record,
    RecordKind,
    Start,
    Summary,
    WorkflowState,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
RECORD = Record("o-17", "order", RecordKind.task, 1, "life", 2, "nonce", WorkflowState.running, 5.0)
COMMAND = Command("0-0", CommandKind.activity, name="charge", body=Body(text="{}", size=2))
ATTEMPTS = tuple(AttemptRecord(n, 1, "a", 10.0 * n, Outcome.faulted, 10.0 * n + 1) for n in range(1, 9))


def test_the_job_knows_who_asked_for_it() -> None:
    """A job has the options that its command gave, and with them the workflow whose end it tells."""
    asked = SubmitOptions(timeout=30.0, labels={"region": "eu"})
    spec = job_of(RECORD, attrs.evolve(COMMAND, job=asked), "k" * 26)
    assert (spec.id, spec.activity, spec.submitted_at) == ("k" * 26, "charge", 5.0)
    assert (spec.options.timeout, spec.options.labels) == (30.0, {"region": "eu"})
    assert spec.options.parent == Asker("o-17", "order", "life", 2, "0-0")


@pytest.mark.parametrize(
    ("traceparent", "flags"),
    [(f"00-{TRACE}-b7ad6b7169203331-00", "00"), (f"00-{TRACE}-b7ad6b7169203331-01", "01"), ("", "01")],
)
def test_the_job_is_in_the_trace_of_its_workflow(traceparent: str, flags: str) -> None:
    """Below the span of the run, and sampled if that is; without a trace there are no headers."""
    summary = Summary(trace_id=TRACE, traceparent=traceparent)
    spec = job_of(attrs.evolve(RECORD, summary=summary), COMMAND, "key")
    assert spec.headers == {"traceparent": f"00-{TRACE}-{span_id_of('life', 2)}-{flags}"}
    assert spec.trace_id == TRACE
    assert job_of(RECORD, COMMAND, "key").headers == {}


def test_the_spans_of_a_run_are_the_same_on_every_node() -> None:
    """They derive from the life, the run and the command; no two of them are the same."""
    spans = {span_id_of("life", 1), span_id_of("life", 2), command_span_id_of("life", 1, "0-0"), span_id_of("other", 1)}
    assert len(spans) == 4
    assert span_id_of("life", 1) == span_id_of("life", 1)
    assert {len(span) for span in spans} == {16}


def test_a_workflow_hangs_below_its_starter() -> None:
    """If that is in the same trace, however its header is written; else below a span that derives from the trace."""
    given = f"00-{TRACE}-b7ad6b7169203331-00"
    assert traceparent_of(Start(headers={"TraceParent": f" {given} "}, trace_id=TRACE)) == given
    derived = f"00-{TRACE}-{derived_span_id(TRACE)}-01"
    assert (
        traceparent_of(Start(headers={"traceparent": f"00-{'1' * 32}-b7ad6b7169203331-00"}, trace_id=TRACE)) == derived
    )
    assert traceparent_of(Start(headers={"x": "y"}, trace_id=TRACE)) == derived
    assert traceparent_of(Start()) == ""


def test_the_end_of_a_job_is_its_result() -> None:
    """The workflow's history needs nothing else of it."""
    done = job_record("j", "charge", JobState.completed, result=Body("1"), attempts=ATTEMPTS)
    ending = ending_of_job(done)
    assert (ending.kind, ending.result, ending.job) == (EndKind.completed, Body("1"), None)


@pytest.mark.parametrize("state", [JobState.faulted, JobState.cancelled])
def test_of_one_that_did_not_complete_the_record_goes_along(state: JobState) -> None:
    """As far as the workflow's code may look at it: without what it was given, and with its last attempts."""
    error = ErrorInfo("ValueError", "no")
    payload = {"payload": Body("{}"), "headers": {"a": "b"}, "checkpoint": Body("half")}
    record = job_record("j", "charge", state, error=error, reason="failed", attempts=ATTEMPTS, **payload)
    ending = ending_of_job(record)
    assert (ending.kind, ending.error, ending.reason) == (EndKind(state.value), error, "failed")
    assert ending.job == changed(
        record, payload=NO_BODY, headers={}, checkpoint=None, attempts=ATTEMPTS[-ATTEMPTS_SHOWN:]
    )
    tried = ending_of_try(record)
    assert (tried.kind, tried.error, tried.job) == (EndKind.faulted, error, ending.job)


def test_an_end_has_an_error_whoever_wrote_it() -> None:
    """A job that was cancelled has none of its own: its reason stands there."""
    ending = ending_of_job(job_record("j", "charge", JobState.cancelled, reason="enough"))
    assert ending.error == ErrorInfo("JobFaulted", "enough")
