"""The CONSUMER span of an attempt: begun before the start is recorded, which names it, and ended by whoever ends the
attempt.

`begin()` gives an `AttemptSpan`. When nobody listens it is a silent one, which passes on the submitter's context and
does nothing else; when somebody does it is a `Recorded`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind

from turnout.core.failure import ErrorInfo, Stop, StopReason
from turnout.core.lifecycle import newer, record_of
from turnout.core.record import AttemptRecord, Delivery, JobRecord, JobState, Outcome, Progress, queue_wait
from turnout.telemetry import propagation, spans
from turnout.telemetry.spans import JOB, Attributes

START_AFTER_S = 1.0
"""An attempt that runs for so long shows with a span of its own, long before it ends."""

PROGRESS_EVERY_S = 10.0
"""How often progress becomes an event where no total says how much a tenth of it is."""

ERRORS = (Outcome.faulted, Outcome.timed_out, Outcome.lost)
"""The outcomes that are errors; an attempt that was cancelled or aborted did as it was told."""


class AttemptSpan:
    """What is told of an attempt: here to nobody. The code that runs in it passes on the submitter's context."""

    __slots__ = ("_context", "_token", "span")

    def __init__(self, span: Span, context: Context) -> None:
        self.span = span
        self._context = context

    def started(self, record: JobRecord) -> None:
        """The attempt has begun, and `record` says so."""

    def ended(self, record: JobRecord | None) -> None:
        """The attempt has ended and `record` says how; None: it was not ours any more, and others tell of it."""

    def progress(self, progress: Progress) -> None:
        """Any thread."""

    def checkpoint(self, size: int) -> None:
        """A checkpoint of so many bytes is stored."""

    def asked_to_stop(self, reason: StopReason) -> None:
        """The code is asked to stop: `JobContext.cancel_reason` says what the reasons are."""

    def lease_unconfirmed(self, for_s: float) -> None:
        """No extension of the lease was answered for so long; nothing is lost yet."""

    def __enter__(self) -> None:
        self._token = context_api.attach(self._context)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        context_api.detach(self._token)


class _Untraced(AttemptSpan):
    """Nobody listens, and the job came without a trace that could be passed on."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass


_UNTRACED = _Untraced(trace.INVALID_SPAN, Context())


class Recorded(AttemptSpan):
    """An attempt that somebody looks at."""

    __slots__ = ("_attributes", "_before", "_began_ns", "_done", "_progress_at", "_timer")

    def __init__(
        self, span: Span, context: Context, before: JobRecord | None, attributes: Attributes, began_ns: int
    ) -> None:
        super().__init__(span, context)
        self._before = before
        self._attributes = attributes
        self._began_ns = began_ns
        self._timer: asyncio.TimerHandle | None = None
        self._done = -1
        self._progress_at = 0.0

    def started(self, record: JobRecord) -> None:
        facts = self._attributes
        facts[spans.JOB_QUEUE_WAIT] = queue_wait(self._before, record)
        count(facts, record)
        if record.attempt != facts[spans.JOB_ATTEMPT]:
            # Others were at work since the record was read: what the span began with is out of date.
            facts[spans.JOB_ATTEMPT] = record.attempt
            self.span.set_attribute(spans.JOB_ATTEMPT, record.attempt)
            for link in links_of(record, len(record.attempts) - 1):
                self.span.add_link(link.context, link.attributes)
        self._timer = asyncio.get_running_loop().call_later(START_AFTER_S, self._show)

    def ended(self, record: JobRecord | None) -> None:
        if record is None or not record.attempts:
            return
        attempt = record.attempts[-1]
        facts: Attributes = {
            spans.JOB_STATE: record.state.value,
            spans.OUTCOME: attempt.outcome.value,
            spans.JOB_QUEUE_WAIT: self._attributes[spans.JOB_QUEUE_WAIT],
        }
        count(facts, record)
        self.span.set_attributes(facts)
        conclude(self.span, record, attempt)
        spans.end(self.span)

    def progress(self, progress: Progress) -> None:
        """An event for each tenth of the total, or one in ten seconds: what reports a million times has ten events."""
        if progress.total:
            tenth = int(min(max(progress.done / progress.total, 0.0), 1.0) * 10)
            if tenth <= self._done:
                return
            self._done = tenth
        else:
            now = time.monotonic()
            if now - self._progress_at < PROGRESS_EVERY_S:
                return
            self._progress_at = now
        attributes: Attributes = {"turnout.progress.done": progress.done}
        if progress.total is not None:
            attributes["turnout.progress.total"] = progress.total
        if progress.message:
            attributes["turnout.progress.message"] = progress.message
        spans.event(self.span, "progress", attributes)

    def checkpoint(self, size: int) -> None:
        spans.event(self.span, "checkpoint", {"turnout.checkpoint.size": size})

    def asked_to_stop(self, reason: StopReason) -> None:
        spans.event(self.span, _STOP_EVENTS[reason.stop], {"turnout.reason": reason.detail or reason.stop.value})

    def lease_unconfirmed(self, for_s: float) -> None:
        spans.event(self.span, "lease unconfirmed", {"turnout.lease.unconfirmed": for_s})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        if self._timer is not None:
            self._timer.cancel()

    def _show(self) -> None:
        """A span that has ended: the attempt's own is not seen before its end, which may be days away."""
        facts = {**self._attributes, spans.JOB_STATE: JobState.running.value}
        shown = spans.start(
            f"start {facts[spans.JOB_ACTIVITY]}", self._context, SpanKind.INTERNAL, facts, start_time=self._began_ns
        )
        spans.end(shown)


_STOP_EVENTS = {
    Stop.cancelled: "cancel requested",
    Stop.node_stopping: "abort requested",
    Stop.timed_out: "timeout",
    Stop.lease_lost: "lease lost",
}


def begin(record: JobRecord | None, delivery: Delivery, node: str, destination: Callable[[str], str]) -> AttemptSpan:
    """The span of the attempt that this delivery may lead to; `record` is the job's as it was last read.

    `destination` names the subject of an activity's jobs.
    """
    if not spans.tracing_enabled():
        headers = delivery.spec.headers if record is None or newer(delivery, record) else record.spec.headers
        if not headers:
            return _UNTRACED
        trace_id = (record.spec.trace_id if record is not None else "") or delivery.spec.trace_id
        context = propagation.incoming(headers, trace_id)
        return AttemptSpan(trace.get_current_span(context), context)
    queued = record_of(delivery, record) if record is None or newer(delivery, record) else record
    parent = propagation.incoming(queued.spec.headers, queued.spec.trace_id)
    links = links_of(queued, len(queued.attempts))
    if delivery.scheduled and not queued.attempt:
        links += scheduled_by(queued, parent)
    attributes = attributes_of(queued, queued.attempt + 1, node, destination(queued.activity))
    began_ns = time.time_ns()
    span = spans.start(f"run {queued.activity}", parent, SpanKind.CONSUMER, attributes, links, began_ns)
    inside = trace.set_span_in_context(span, parent)
    if not span.is_recording():  # a sampler has decided against it
        return AttemptSpan(span, inside)
    return Recorded(span, context_api.set_value(JOB, attributes, inside), record, attributes, began_ns)


def attributes_of(record: JobRecord, number: int, node: str, destination: str) -> Attributes:
    """What is known of an attempt when it begins."""
    facts: Attributes = {
        spans.SYSTEM: "nats",
        spans.OPERATION_NAME: "run",
        spans.OPERATION_TYPE: "process",
        spans.DESTINATION: destination,
        spans.CONSUMER: record.activity,
        spans.MESSAGE_ID: record.id,
        spans.JOB_ID: record.id,
        spans.JOB_ACTIVITY: record.activity,
        spans.JOB_ATTEMPT: number,
        spans.NODE_ID: node,
    }
    parent = record.spec.options.parent
    if parent is not None:
        facts[spans.WORKFLOW_ID] = parent.id
        facts[spans.WORKFLOW_NAME] = parent.name
        facts[spans.WORKFLOW_RUN] = parent.run
    return facts


def links_of(record: JobRecord, index: int) -> list[Link]:
    """The link to the attempt before the one at `index` of the list, the last one of an earlier life if that is it."""
    if not 0 < index <= len(record.attempts):
        return []
    before = record.attempts[index - 1]
    generation = record.attempts[index].generation if index < len(record.attempts) else record.generation
    kind = "previous_attempt" if before.generation == generation else "replay_of"
    return [Link(spans.of_attempt(record.spec.trace_id, before), {spans.LINK: kind})] if before.span_id else []


def scheduled_by(record: JobRecord, parent: Context) -> list[Link]:
    """The link from the first attempt of a job with a delay or an instant to whoever submitted it, if that is known."""
    if not propagation.traced(record.spec.headers):
        return []
    return [Link(trace.get_current_span(parent).get_span_context(), {spans.LINK: "scheduled_by"})]


def conclude(span: Span, record: JobRecord, attempt: AttemptRecord) -> None:
    """The error that the attempt has ended with, if with any, and when the next one is due."""
    if attempt.outcome in ERRORS:
        spans.tell_error(span, attempt.error or ErrorInfo(attempt.outcome.value, ""))
    if record.state is JobState.retrying:
        delay = max((record.due_at or 0.0) - (attempt.ended_at or 0.0), 0.0)
        spans.event(span, "retry", {"turnout.retry.delay": delay, spans.JOB_FAILURES: record.failures})


def count(facts: Attributes, record: JobRecord) -> None:
    """What went wrong so far; a job of which nothing did carries no zeros about, each of which is spelt and sent."""
    if record.failures:
        facts[spans.JOB_FAILURES] = record.failures
    if record.losses:
        facts[spans.JOB_LOSSES] = record.losses
    if record.aborts:
        facts[spans.JOB_ABORTS] = record.aborts
