"""Span names and attributes, and how a trace travels with a job.

The OpenTelemetry API only: without an SDK nothing is recorded, and the job still has a trace id. Messaging conventions:
https://opentelemetry.io/docs/specs/semconv/messaging/
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping

from opentelemetry import context as context_api
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from turnout.core.values import Attempt, JobRecord, JobState

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
CONSUMER = "messaging.consumer.group.name"
ERROR_TYPE = "error.type"
JOB_ID = "turnout.job.id"
JOB_ACTIVITY = "turnout.job.activity"
JOB_ATTEMPT = "turnout.job.attempt"
JOB_STATE = "turnout.job.state"
NODE_ID = "turnout.node.id"


def tracer() -> trace.Tracer:
    return trace.get_tracer("turnout")


def listened() -> bool:
    """Whether spans go anywhere: an SDK is set up."""
    return not isinstance(trace.get_tracer_provider(), _DEAF)


_DEAF = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)


@contextlib.contextmanager
def submitting(activity: str, job_id: str, destination: str) -> Iterator[dict[str, str]]:
    """The PRODUCER span of a submit; gives the headers that carry its context (none when nobody traces)."""
    attributes = {
        SYSTEM: "nats",
        OPERATION_NAME: "submit",
        OPERATION_TYPE: "send",
        DESTINATION: destination,
        MESSAGE_ID: job_id,
        JOB_ID: job_id,
        JOB_ACTIVITY: activity,
    }
    with tracer().start_as_current_span(f"submit {activity}", kind=SpanKind.PRODUCER, attributes=attributes):
        headers: dict[str, str] = {}
        propagate.inject(headers)
        yield headers


def parent_context(headers: Mapping[str, str], trace_id: str) -> Context:
    """The context of whoever submitted the job; for a bare publish one that derives from the job's trace id."""
    context = Context()
    if headers:
        context = propagate.extract({name.lower(): value for name, value in headers.items()}, context=context)
        found = trace.get_current_span(context).get_span_context()
        if found.is_valid and f"{found.trace_id:032x}" == trace_id:
            return context
    return trace.set_span_in_context(_derived(trace_id), context)


def passed_on(headers: Mapping[str, str], trace_id: str) -> Span:
    """The submitter's span, as far as it is known: what the code passes on when nobody listens here."""
    return trace.get_current_span(parent_context(headers, trace_id)) if headers else _derived(trace_id)


def start_attempt(record: JobRecord, number: int, node: str, destination: str) -> Span:
    """The CONSUMER span of an attempt, child of the submitter's, linked to the attempt before.

    When nobody listens it is the submitter's own, which passes the trace on to what the code calls.
    """
    if not listened():
        return passed_on(record.headers, record.trace_id)
    parent = parent_context(record.headers, record.trace_id)
    before = record.attempts[-1] if record.attempts else None
    return tracer().start_span(
        f"run {record.activity}",
        context=parent,
        kind=SpanKind.CONSUMER,
        links=[Link(_of_attempt(record, before))] if before is not None and before.span_id else [],
        attributes={
            SYSTEM: "nats",
            OPERATION_NAME: "run",
            OPERATION_TYPE: "process",
            DESTINATION: destination,
            CONSUMER: record.activity,
            MESSAGE_ID: record.id,
            JOB_ID: record.id,
            JOB_ACTIVITY: record.activity,
            JOB_ATTEMPT: number,
            NODE_ID: node,
        },
    )


class Current:
    """Makes a span the current one of what runs inside; unlike `trace.use_span` it has no eye on how that ends."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._token = context_api.attach(trace.set_span_in_context(self._span))

    def __exit__(self, *_: object) -> None:
        context_api.detach(self._token)


def end_attempt(span: Span, record: JobRecord | None, error_type: str | None, message: str = "") -> None:
    """End an attempt's span with the state its job is in now; an error is one only if the job's code failed."""
    if record is not None:
        span.set_attribute(JOB_STATE, record.state.value)
    if error_type is not None and (record is None or record.state is not JobState.cancelled):
        span.set_attribute(ERROR_TYPE, error_type)
        span.set_status(Status(StatusCode.ERROR, message))
    span.end()


def event(span: Span, name: str, attributes: Mapping[str, str | int | float | bool] | None = None) -> None:
    """Add an event to a span; from any thread, and of no effect when nobody records it or it has ended."""
    if span.is_recording():
        span.add_event(name, attributes)


def span_id(span: Span) -> str:
    """The span's id in hex, "" when nobody records it."""
    context = span.get_span_context()
    return f"{context.span_id:016x}" if context.is_valid and span.is_recording() else ""


def ids(span: Span) -> tuple[str, str]:
    """Trace and span id in hex, for log lines."""
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def _of_attempt(record: JobRecord, attempt: Attempt) -> SpanContext:
    return SpanContext(int(record.trace_id, 16), int(attempt.span_id, 16), True, TraceFlags(TraceFlags.SAMPLED))


def _derived(trace_id: str) -> Span:
    span = int(hashlib.sha256(trace_id.encode()).hexdigest()[:16], 16) or 1
    return trace.NonRecordingSpan(SpanContext(int(trace_id, 16), span, True, TraceFlags(TraceFlags.SAMPLED)))
