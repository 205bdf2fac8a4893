"""Span names and attributes, who listens, and the spans of those who submit.

The OpenTelemetry API only: without an SDK nothing is recorded, and the job still has a trace id. Messaging conventions:
https://opentelemetry.io/docs/specs/semconv/messaging/
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from turnout.core.failure import ErrorInfo
from turnout.core.record import AttemptRecord, JobRecord
from turnout.once import warn_once
from turnout.telemetry import propagation
from turnout.version import version
from turnout.wire import trace_id_of

logger = logging.getLogger("turnout.telemetry")

JOB = context_api.create_key("turnout-job")
"""The key in a context of the attributes of the attempt that it is in: `JobSpans` reads them."""

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
CONSUMER = "messaging.consumer.group.name"
BATCH = "messaging.batch.message_count"
ERROR_TYPE = "error.type"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"

JOB_ID = "turnout.job.id"
JOB_ACTIVITY = "turnout.job.activity"
JOB_ATTEMPT = "turnout.job.attempt"
JOB_STATE = "turnout.job.state"
JOB_QUEUE_WAIT = "turnout.job.queue_wait"
JOB_FAILURES = "turnout.job.failures"
JOB_LOSSES = "turnout.job.losses"
JOB_ABORTS = "turnout.job.aborts"
OUTCOME = "turnout.attempt.outcome"
WORKFLOW_ID = "turnout.workflow.id"
WORKFLOW_NAME = "turnout.workflow.name"
WORKFLOW_RUN = "turnout.workflow.run"
WORKFLOW_STATE = "turnout.workflow.state"
WORKFLOW_CODE = "turnout.workflow.code"
WORKFLOW_HANDLER = "turnout.workflow.handler"
WORKFLOW_ANSWER = "turnout.workflow.answer"
NODE_ID = "turnout.node.id"
LINK = "turnout.link"
SCHEDULE = "turnout.schedule.name"

Value = str | int | float | bool
Attributes = dict[str, Value]

_NOT_BY_NAME = "OTEL_PYTHON_TRACER_PROVIDER" not in os.environ
_DEAF = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)


def tracing_enabled() -> bool:
    """Whether spans go anywhere: an SDK is set up."""
    if _NOT_BY_NAME and getattr(trace, "_TRACER_PROVIDER", trace) is None:
        return False  # what the line below would find out by a look into the environment, each time
    return not isinstance(trace.get_tracer_provider(), _DEAF)


def tracer() -> trace.Tracer:
    """The tracer of whatever provider is set up now."""
    return _tracer_of(trace.get_tracer_provider())


@functools.lru_cache(maxsize=1)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    return provider.get_tracer("turnout", version())


def start(
    name: str,
    context: Context,
    kind: SpanKind,
    attributes: Attributes,
    links: Sequence[Link] = (),
    start_time: int | None = None,
) -> Span:
    """A new span. A sampler or processor that fails costs the span, and never the job."""
    try:
        return tracer().start_span(name, context, kind, attributes, links, start_time)
    except Exception as error:  # samplers and processors are the program's own
        warn_once(logger, "start", "a span could not be started, jobs go on without: %r", error)
        return trace.get_current_span(context)


def end(span: Span, end_time: int | None = None) -> None:
    """End a span. A processor that fails costs the span, and never the job."""
    try:
        span.end(end_time)
    except Exception as error:  # processors are the program's own
        warn_once(logger, "end", "a span could not be ended, jobs go on without: %r", error)


def ns(seconds: float) -> int:
    """An instant in Unix seconds as spans have it, in nanoseconds."""
    return int(seconds * 1e9)


def event(span: Span, name: str, attributes: Mapping[str, Value] | None = None) -> None:
    """Add an event to a span; from any thread, and of no effect when nobody records it or it has ended."""
    if span.is_recording():
        span.add_event(name, attributes)


def fail(span: Span, error_type: str, message: str = "") -> None:
    """Mark a span as an error."""
    span.set_attribute(ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR, message))


def tell_error(span: Span, error: ErrorInfo) -> None:
    """The error that what the span tells of has ended with: an event with its traceback, and the span's status."""
    attributes: Attributes = {EXCEPTION_TYPE: error.type, EXCEPTION_MESSAGE: error.message}
    if error.traceback:
        attributes[EXCEPTION_STACKTRACE] = error.traceback
    event(span, "exception", attributes)
    fail(span, error.type, error.message)


def span_id(span: Span) -> str:
    """The span's id in hex, "" when nobody records it."""
    return f"{span.get_span_context().span_id:016x}" if span.is_recording() else ""


def known_id(span: Span) -> str:
    """The span's id in hex, for log lines, whether or not anybody records it; "" when there is none."""
    if span is trace.INVALID_SPAN or isinstance(span, propagation.Derived):
        return ""
    context = span.get_span_context()
    return f"{context.span_id:016x}" if context.is_valid else ""


def of_attempt(trace_id: str, attempt: AttemptRecord) -> SpanContext:
    """The context of an attempt's span, wherever it ran."""
    return SpanContext(int(trace_id, 16), int(attempt.span_id, 16), True, TraceFlags(TraceFlags.SAMPLED))


# --- the spans of those who submit -----------------------------------------------------------------------------------


def submitting(
    activity: str, job_id: str | None, destination: str, count: int | None = None
) -> contextlib.AbstractContextManager[dict[str, str]]:
    """The PRODUCER span of a submit; gives the headers that carry its context (none when nobody traces).

    `count`: how many jobs it submits when it is more than the one of `job_id`.
    """
    if not tracing_enabled():
        return contextlib.nullcontext(current_headers())
    attributes = _produced("submit", activity, job_id, destination)
    if count is not None:
        attributes[BATCH] = count
    return _carried(f"submit {activity}", attributes)


@contextlib.contextmanager
def _carried(name: str, attributes: Attributes) -> Iterator[dict[str, str]]:
    with produce(name, attributes):
        yield current_headers()


def starting(name: str, workflow_id: str, destination: str) -> contextlib.AbstractContextManager[dict[str, str]]:
    """The PRODUCER span of a workflow's start; gives the headers that carry its context (none when nobody traces)."""
    if not tracing_enabled():
        return contextlib.nullcontext(current_headers())
    return _carried(f"start {name}", _started(name, workflow_id, destination))


@contextlib.contextmanager
def replaying(record: JobRecord, destination: str) -> Iterator[None]:
    """The PRODUCER span of whoever runs an ended job again: in the caller's trace, linked to the job's."""
    if not tracing_enabled():
        yield
        return
    attributes = _produced("retry", record.activity, record.id, destination)
    last = next((attempt for attempt in reversed(record.attempts) if attempt.span_id), None)
    if last is not None:
        origin = of_attempt(record.spec.trace_id, last)
    else:
        parent = propagation.incoming(record.spec.headers, record.spec.trace_id)
        origin = trace.get_current_span(parent).get_span_context()
    with produce(f"retry {record.activity}", attributes, [Link(origin, {LINK: "replay_of"})]):
        yield


def current_headers() -> dict[str, str]:
    """The headers that carry the span that is current, and its baggage; none when there is none."""
    return propagation.outgoing(context_api.get_current())


@contextlib.contextmanager
def firing(
    schedule: str, name: str, run_id: str, destination: str, added_with: Mapping[str, str], *, workflow: bool
) -> Iterator[dict[str, str]]:
    """The PRODUCER span of a schedule's run, linked to the span in which the schedule was added; gives its headers.

    `name` is that of the activity, or of the workflow if it runs one.
    """
    if not tracing_enabled():
        yield current_headers()
        return
    attributes = _started(name, run_id, destination) if workflow else _produced("submit", name, run_id, destination)
    attributes[SCHEDULE] = schedule
    links = []
    if added_with:
        origin = propagation.incoming(added_with, trace_id_of(added_with, "schedule", schedule))
        links = [Link(trace.get_current_span(origin).get_span_context(), {LINK: "schedule"})]
    with produce(f"fire {schedule}", attributes, links):
        yield current_headers()


def _started(name: str, workflow_id: str, destination: str) -> Attributes:
    return {
        SYSTEM: "nats",
        OPERATION_NAME: "start",
        OPERATION_TYPE: "send",
        DESTINATION: destination,
        MESSAGE_ID: workflow_id,
        WORKFLOW_ID: workflow_id,
        WORKFLOW_NAME: name,
    }


def _produced(operation: str, activity: str, job_id: str | None, destination: str) -> Attributes:
    attributes: Attributes = {
        SYSTEM: "nats",
        OPERATION_NAME: operation,
        OPERATION_TYPE: "send",
        DESTINATION: destination,
        JOB_ACTIVITY: activity,
    }
    if job_id is not None:
        attributes[MESSAGE_ID] = attributes[JOB_ID] = job_id
    return attributes


@contextlib.contextmanager
def produce(
    name: str, attributes: Attributes, links: Sequence[Link] = (), kind: SpanKind = SpanKind.PRODUCER
) -> Iterator[None]:
    """A span around what is sent within it."""
    span = start(name, context_api.get_current(), kind, attributes, links)
    try:
        with trace.use_span(span, record_exception=True, set_status_on_exception=False):
            yield
    except Exception as error:
        fail(span, type(error).__qualname__, str(error))
        raise
    finally:
        end(span)
