"""The span of how an attempt ended that its code had left to others: whoever writes the end down tells of it.

The attempt's own span has ended with its code. This one hangs below it and lasts as long as the attempt did.
"""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from turnout.core.record import AttemptRecord, JobRecord
from turnout.telemetry import propagation, spans
from turnout.telemetry.attempts import attributes_of, conclude, count


def tell(after: JobRecord, attempt: AttemptRecord, destination: Callable[[str], str]) -> None:
    """Emit the span of this attempt, whose end `after` has as somebody outside has told it, or as nobody has."""
    facts = attributes_of(after, attempt.number, attempt.node, destination(after.activity))
    facts[spans.JOB_STATE] = after.state.value
    facts[spans.OUTCOME] = attempt.outcome.value
    count(facts, after)
    below = propagation.incoming(after.spec.headers, after.spec.trace_id)
    if attempt.span_id:
        below = trace.set_span_in_context(trace.NonRecordingSpan(spans.of_attempt(after.spec.trace_id, attempt)), below)
    began, ended = attempt.started_at, attempt.ended_at or attempt.started_at
    span = spans.start(f"outside {after.activity}", below, SpanKind.INTERNAL, facts, start_time=spans.ns(began))
    conclude(span, after, attempt)
    spans.end(span, spans.ns(max(began, ended)))
