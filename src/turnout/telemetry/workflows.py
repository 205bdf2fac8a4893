"""What telemetry makes of a workflow's records: the span of a run at its end, the spans of timers, the counts.

All of it is made of a record that this process has appended, and nothing while code is replayed. The ids of spans
derive from life, run and command: whoever tells of one gives it the same. OpenTelemetry's API only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

from turnout.core.workflows.jobs import command_span_id_of, span_id_of, trace_headers
from turnout.core.workflows.values import DELAY, Command, CommandKind, Ending, EndKind, InputKind, Record, RecordKind
from turnout.once import warn_once
from turnout.telemetry import chosen_ids, propagation, spans, workflow_metrics

logger = logging.getLogger("turnout.telemetry")

SCOPE = "turnout.workflows"

GOES_ON = "continued"
"""The state of a run that another one follows: continue-as-new, or a retry."""


def appended(record: Record) -> None:
    """This process has stored `record`. Quick, and never raises."""
    workflow_metrics.appended(record)
    if record.ends_run:
        run_ended(record)


def run_ended(record: Record) -> None:
    """Emit the span of the run that has ended with this record, unless it never began."""
    if record.kind is RecordKind.start or not spans.tracing_enabled():
        return
    try:
        _run_ended(record)
    except Exception as error:  # what a program's own sampler or exporter raises must not stop a workflow
        warn_once(logger, "workflows", "the span of a workflow's run could not be emitted: %r", error)


def commands_ended(record: Record, pending: Mapping[str, Command]) -> None:
    """Emit the spans of the timers and local activities whose end this record takes; `pending` is what its run waited
    for before."""
    if not spans.tracing_enabled():
        return
    own = {command.id: command for command in record.commands}
    for given in record.inputs:
        command = pending.get(given.what) or own.get(given.what)
        if command is None or command.id == DELAY:  # the run that waits for its time begins with that
            continue
        try:
            if given.kind is InputKind.timer and command.kind is CommandKind.timer:
                # The server may fire a little early by our clock; the code never sees a time before it.
                _command_ended(record, command, max(given.at, command.at or 0.0))
            elif given.kind is InputKind.done and command.kind is CommandKind.local:
                _command_ended(record, command, given.at, given.ending)
        except Exception as error:  # as above
            warn_once(logger, "commands", "the span of a workflow's command could not be emitted: %r", error)


def facts_of(record: Record) -> spans.Attributes:
    """What is known of the run that a record is of."""
    return {
        spans.WORKFLOW_ID: record.id,
        spans.WORKFLOW_NAME: record.name,
        spans.WORKFLOW_RUN: record.done_run,
        spans.NODE_ID: record.node,
    }


def _run_ended(record: Record) -> None:
    facts = facts_of(record)
    goes_on = not record.state.final
    facts[spans.WORKFLOW_STATE] = GOES_ON if goes_on else record.state.value
    run = record.done_run
    links = [link_to(record, run - 1, "previous_run")] if run > 1 else []
    with chosen_ids.tracer_for(SCOPE, span_id_of(record.life, run)) as tracer:
        span = tracer.start_span(
            f"workflow {record.name}",
            _parent_of(record),
            SpanKind.INTERNAL,
            facts,
            links,
            spans.ns(record.summary.run_at),
        )
    failure = record.failure if not goes_on else record.start.failure if record.start is not None else None
    if failure is not None:
        spans.tell_error(span, failure.error)
        if goes_on and record.start is not None:
            delay = max((record.start.due_at or 0.0) - record.at, 0.0)
            spans.event(span, "retry", {"turnout.retry.delay": delay})
    spans.end(span, spans.ns(max(record.at, record.summary.run_at)))


def _command_ended(record: Record, command: Command, at: float, ending: Ending | None = None) -> None:
    facts, name = facts_of(record), "timer"
    if ending is not None:
        name = f"local {command.name}"
        facts |= {spans.JOB_ACTIVITY: command.name, spans.OUTCOME: ending.kind.value}
    if command.code:
        facts[spans.WORKFLOW_CODE] = command.code
    run = record.done_run
    below = propagation.incoming(trace_headers(record), record.summary.trace_id)
    with chosen_ids.tracer_for(SCOPE, command_span_id_of(record.life, run, command.id)) as tracer:
        span = tracer.start_span(name, below, SpanKind.INTERNAL, facts, (), spans.ns(command.since))
    if ending is not None and ending.error is not None and ending.kind is EndKind.faulted:
        spans.tell_error(span, ending.error)
    spans.end(span, spans.ns(max(at, command.since)))


def _parent_of(record: Record) -> Context:
    """The context of whoever has started the workflow."""
    traceparent = record.summary.traceparent
    headers = {"traceparent": traceparent} if traceparent else {}
    return propagation.incoming(headers, record.summary.trace_id)


def link_to(record: Record, run: int, kind: str) -> Link:
    """A link to the span of this run of the record's workflow."""
    span_id = int(span_id_of(record.life, run), 16)
    context = SpanContext(int(record.summary.trace_id, 16), span_id, True, TraceFlags(TraceFlags.SAMPLED))
    return Link(context, {spans.LINK: kind})
