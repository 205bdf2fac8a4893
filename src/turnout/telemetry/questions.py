"""What telemetry makes of what is sent to workflows: a span where it is sent, and one where it is taken or answered.

That is told where the caller's trace is, when the record that has it is appended, so no replay tells it again; a query
is in no history. Queries and updates are counted as well.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Literal

import attrs
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from turnout.core.failure import ErrorInfo
from turnout.core.workflows.jobs import command_span_id_of, trace_headers
from turnout.core.workflows.values import AnswerState, Input, InputKind, Record
from turnout.once import warn_once
from turnout.telemetry import chosen_ids, propagation, spans, workflow_metrics
from turnout.telemetry.workflows import SCOPE, facts_of, link_to

logger = logging.getLogger("turnout.telemetry")

_OUTCOMES: Mapping[AnswerState, workflow_metrics.Answered] = {
    AnswerState.completed: "answered",
    AnswerState.rejected: "rejected",
    AnswerState.failed: "failed",
}


@contextlib.contextmanager
def asking(
    kind: Literal["query", "update", "signal", "cancel", "terminate"], name: str, workflow_id: str
) -> Iterator[str]:
    """The span of a client that asks; gives the traceparent that goes along, "" when there is none. `name` is the
    handler's, "" where there is none.

    The span of a query ends with the answer, that of all else when it is stored. What nobody answers has one in the
    trace of whoever sends it, and begins none of its own.
    """
    is_answered = kind in {"query", "update"}
    if not spans.tracing_enabled() or not (is_answered or trace.get_current_span().get_span_context().is_valid):
        yield _traceparent()
        return
    attributes: spans.Attributes = {
        spans.SYSTEM: "nats",
        spans.OPERATION_NAME: kind,
        spans.OPERATION_TYPE: "send",
        spans.WORKFLOW_ID: workflow_id,
    }
    if name:
        attributes[spans.WORKFLOW_HANDLER] = name
    own = SpanKind.CLIENT if kind == "query" else SpanKind.PRODUCER
    with spans.produce(f"{kind} {name or 'workflow'}", attributes, kind=own):
        yield _traceparent()


def _traceparent() -> str:
    return propagation.outgoing(context_api.get_current()).get("traceparent", "")


@attrs.frozen
class Heard:
    """A query that this node was asked: `at` is seconds of the clock that `answered` reads as well."""

    name: str
    workflow_id: str
    query: str
    traceparent: str
    counted: bool = False
    """Whether an answer of it stands in the metrics already."""
    at: float = attrs.field(factory=time.time)


def answered(query: Heard, node: str, failed: str | None) -> None:
    """This node has answered the query; `failed` says why it could not be, None when it could. Never raises."""
    ended = time.time()
    outcome: workflow_metrics.Answered = "answered" if failed is None else "failed"
    if not query.counted:
        workflow_metrics.query_answered(query.name, outcome, max(ended - query.at, 0.0))
    if not query.traceparent or not spans.tracing_enabled():
        return
    facts: spans.Attributes = {
        spans.WORKFLOW_ID: query.workflow_id,
        spans.WORKFLOW_NAME: query.name,
        spans.WORKFLOW_HANDLER: query.query,
        spans.WORKFLOW_ANSWER: outcome,
        spans.NODE_ID: node,
    }
    below = propagation.incoming({"traceparent": query.traceparent}, _trace_of(query.traceparent))
    span = spans.start(f"answer {query.query}", below, SpanKind.SERVER, facts, start_time=spans.ns(query.at))
    if failed is not None:
        spans.fail(span, "QueryFailed", failed)
    spans.end(span, spans.ns(ended))


def appended(record: Record, asked: Mapping[str, Input]) -> None:
    """This process has appended `record`: tell of the signals and cancels that it takes, and of the updates that it
    answers. `asked` are the updates that waited before. Never raises."""
    if record.inputs and spans.tracing_enabled():
        for given in record.inputs:
            if given.traceparent and given.kind is not InputKind.update:
                _tell(record, given, {})
    if record.answers:
        _answered(record, asked)


def _answered(record: Record, asked: Mapping[str, Input]) -> None:
    new = {each.id: each for each in record.inputs if each.kind is InputKind.update}
    for answer in record.answers:
        given = new.get(answer.id) or asked.get(answer.id)
        if given is None or answer.state is AnswerState.accepted:
            continue
        outcome, seconds = _OUTCOMES[answer.state], max(record.at - given.at, 0.0)
        workflow_metrics.update_answered(record.name, outcome, seconds)
        if spans.tracing_enabled():
            failure = answer.error if answer.state is AnswerState.failed else None
            _tell(record, given, {spans.WORKFLOW_ANSWER: outcome}, failure)


def _tell(record: Record, given: Input, answer: spans.Attributes, failure: ErrorInfo | None = None) -> None:
    try:
        _handled(record, given, facts_of(record) | answer, failure)
    except Exception as error:  # what a program's own sampler or exporter raises must not stop a workflow
        warn_once(logger, "handled", "the span of what was sent to a workflow could not be emitted: %r", error)


def _handled(record: Record, given: Input, facts: spans.Attributes, failure: ErrorInfo | None) -> None:
    """Below whoever has sent it, with a link to the run; below the run where nobody has traced that."""
    handler = given.what or given.kind.value
    facts |= {spans.MESSAGE_ID: given.id or str(given.seq), spans.WORKFLOW_HANDLER: handler}
    if given.traceparent:
        below = propagation.incoming({"traceparent": given.traceparent}, _trace_of(given.traceparent))
        links = [link_to(record, record.done_run, "workflow")] if record.summary.trace_id else []
    else:
        below, links = propagation.incoming(trace_headers(record), record.summary.trace_id), []
    span_id = command_span_id_of(record.life, record.done_run, f"{given.kind} {given.id or given.seq}")
    with chosen_ids.tracer_for(SCOPE, span_id) as tracer:
        span = tracer.start_span(f"handle {handler}", below, SpanKind.CONSUMER, facts, links, spans.ns(given.at))
    if failure is not None:
        spans.tell_error(span, failure)
    spans.end(span, spans.ns(max(record.at, given.at)))


def _trace_of(traceparent: str) -> str:
    return traceparent[3:35]
