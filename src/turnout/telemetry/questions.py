"""What telemetry makes of queries and updates: a span where one is asked, and a span and a count where it is answered.

An answer is told where the caller's trace is: of an update when the record that has the answer is appended, so no
replay tells it again; a query is in no history.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Literal

import attrs
from opentelemetry import context as context_api
from opentelemetry.trace import SpanKind

from turnout.core.workflows.jobs import command_span_id_of, trace_headers
from turnout.core.workflows.values import Answer, AnswerState, Input, InputKind, Record
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
def asking(kind: Literal["query", "update"], name: str, workflow_id: str) -> Iterator[str]:
    """The span of a client that asks; gives the traceparent that goes along, "" when there is none.

    That of a query ends with the answer, that of an update when it is stored.
    """
    if not spans.tracing_enabled():
        yield _traceparent()
        return
    attributes: spans.Attributes = {
        spans.SYSTEM: "nats",
        spans.OPERATION_NAME: kind,
        spans.OPERATION_TYPE: "send",
        spans.WORKFLOW_ID: workflow_id,
        spans.WORKFLOW_HANDLER: name,
    }
    with spans.produce(f"{kind} {name}", attributes, kind=SpanKind.CLIENT if kind == "query" else SpanKind.PRODUCER):
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
    span = spans.start(f"answer {query.query}", below, SpanKind.SERVER, facts, start_time=_ns(query.at))
    if failed is not None:
        spans.fail(span, "QueryFailed", failed)
    spans.end(span, _ns(ended))


def updates_answered(record: Record, asked: Mapping[str, Input]) -> None:
    """This process has appended `record`: tell of the updates that it answers. `asked` are those that waited before."""
    if not record.answers:
        return
    new = {each.id: each for each in record.inputs if each.kind is InputKind.update}
    for answer in record.answers:
        given = new.get(answer.id) or asked.get(answer.id)
        if given is None or answer.state is AnswerState.accepted:
            continue
        outcome, seconds = _OUTCOMES[answer.state], max(record.at - given.at, 0.0)
        workflow_metrics.update_answered(record.name, outcome, seconds)
        if spans.tracing_enabled():
            try:
                _update_answered(record, given, answer)
            except Exception as error:  # what a program's own sampler or exporter raises must not stop a workflow
                warn_once(logger, "updates", "the span of an update could not be emitted: %r", error)


def _update_answered(record: Record, given: Input, answer: Answer) -> None:
    """Below whoever has sent it, with a link to the run; below the run where nobody has traced that."""
    facts = facts_of(record)
    facts |= {
        spans.MESSAGE_ID: given.id,
        spans.WORKFLOW_HANDLER: given.what,
        spans.WORKFLOW_ANSWER: _OUTCOMES[answer.state],
    }
    if given.traceparent:
        below = propagation.incoming({"traceparent": given.traceparent}, _trace_of(given.traceparent))
        links = [link_to(record, record.done_run, "workflow")] if record.summary.trace_id else []
    else:
        below, links = propagation.incoming(trace_headers(record), record.summary.trace_id), []
    span_id = command_span_id_of(record.life, record.done_run, f"update {given.id}")
    with chosen_ids.tracer_for(SCOPE, span_id) as tracer:
        span = tracer.start_span(f"handle {given.what}", below, SpanKind.CONSUMER, facts, links, _ns(given.at))
    if answer.error is not None and answer.state is AnswerState.failed:
        spans.tell_error(span, answer.error)
    spans.end(span, _ns(max(record.at, given.at)))


def _trace_of(traceparent: str) -> str:
    return traceparent[3:35]


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
