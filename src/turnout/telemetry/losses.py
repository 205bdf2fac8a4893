"""The span of an attempt whose node is dead: whoever counts the loss tells of it, under the id that the record names.

The compare-and-set that counts the loss lets one do so, and that one emits: once, or never when it dies itself.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from turnout.core.values import JobRecord, JobState, Outcome, queue_wait
from turnout.telemetry import propagation, spans
from turnout.telemetry.attempts import attributes_of, count, links_of, scheduled_by
from turnout.version import version

ERROR_TYPE = "lost"


def counted(before: JobRecord | None, after: JobRecord) -> bool:
    """Whether the write of `after` over `before` counts a loss. A letter that is put back brings old ones along."""
    return before is not None and after.losses > before.losses and after.generation == before.generation


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
    parent = propagation.incoming(after.headers, after.trace_id)
    links = links_of(after, index)
    if lost.number == 1 and lost.due_at is not None:
        links += scheduled_by(after, parent)
    wanted = int(lost.span_id, 16) if lost.span_id else None
    token = _wanted.set(wanted)
    try:
        tracer = _tracer_of(trace.get_tracer_provider())
        name = f"run {after.activity}"
        span = tracer.start_span(name, parent, SpanKind.CONSUMER, facts, links, _ns(lost.started_at))
    finally:
        _wanted.reset(token)
    spans.fail(span, ERROR_TYPE, lost.error.message if lost.error is not None else "")
    spans.end(span, _ns(lost.ended_at if lost.ended_at is not None else lost.started_at))


_wanted: contextvars.ContextVar[int | None] = contextvars.ContextVar("turnout_span_id", default=None)


class _Ids:
    """Gives a span the id that is wanted here and now; else what the provider's own generator gives."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def generate_span_id(self) -> int:
        wanted = _wanted.get()
        return wanted if wanted is not None else int(self._own.generate_span_id())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


@functools.lru_cache(maxsize=1)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    """A tracer of its own: the API can't choose a span's id, and SDKs let the generator of one tracer be replaced.

    Where an SDK has no such thing, the span gets a new id.
    """
    tracer = provider.get_tracer("turnout.losses", version())
    generator = getattr(tracer, "id_generator", None)
    if generator is not None:
        with contextlib.suppress(AttributeError):
            cast(Any, tracer).id_generator = _Ids(generator)
    return tracer


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
