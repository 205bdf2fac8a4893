"""The span of an attempt whose node is dead: whoever counts the loss tells of it, under the id that the record names.

The compare-and-set that counts the loss lets one do so, and that one emits: once, or never when it dies itself.
"""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.trace import SpanKind

from turnout.core.record import JobRecord, JobState, Outcome, queue_wait
from turnout.telemetry import chosen_ids, propagation, spans
from turnout.telemetry.attempts import attributes_of, count, links_of, scheduled_by

ERROR_TYPE = "lost"


def tell(before: JobRecord, after: JobRecord, destination: Callable[[str], str]) -> None:
    """Emit the span of the attempt that `after` says is lost."""
    number = before.attempt
    index = next((i for i, each in enumerate(after.attempts) if each.number == number), None)
    if index is None:
        return
    lost = after.attempts[index]
    facts = attributes_of(after, lost.number, lost.node, destination(after.activity))
    facts[spans.OUTCOME] = Outcome.lost.value
    # The same write may have begun the next attempt; between the two the job was queued.
    again = after.state is JobState.running
    facts[spans.JOB_STATE] = (JobState.queued if again else after.state).value
    facts[spans.JOB_QUEUE_WAIT] = queue_wait(None, before)
    count(facts, after)
    parent = propagation.incoming(after.spec.headers, after.spec.trace_id)
    links = links_of(after, index)
    if lost.number == 1 and lost.due_at is not None:
        links += scheduled_by(after, parent)
    with chosen_ids.tracer_for("turnout.losses", lost.span_id) as tracer:
        name = f"run {after.activity}"
        span = tracer.start_span(name, parent, SpanKind.CONSUMER, facts, links, spans.ns(lost.started_at))
    spans.fail(span, ERROR_TYPE, lost.error.message if lost.error is not None else "")
    spans.end(span, spans.ns(lost.ended_at if lost.ended_at is not None else lost.started_at))
