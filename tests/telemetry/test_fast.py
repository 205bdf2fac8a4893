"""The light span of an attempt is to everybody what the SDK's span would be."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from turnout.telemetry.fast import LightProvider, LightSpan, LightTracer
from turnout.telemetry.processor import JobSpans

FACTS: dict[str, str | float | bool] = {
    "messaging.system": "nats",
    "turnout.job.attempt": 1,
    "turnout.job.queue_wait": 0.25,
    "yes": True,
}
PARENT = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(1))
OTHER = SpanContext(9, 10, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("a", "1")]))
LIMITS = (
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
)


class Counting(IdGenerator):
    """The same ids in each provider."""

    def __init__(self) -> None:
        self.last = 100

    def generate_span_id(self) -> int:
        self.last += 1
        return self.last

    def generate_trace_id(self) -> int:
        return 1


class Choosy(sampling.Sampler):
    """Decides as it is told, and says so in an attribute and in the trace's state."""

    def __init__(self, decision: sampling.Decision) -> None:
        self.decision = decision

    def should_sample(
        self,
        parent_context: Any,
        trace_id: Any,
        name: Any,
        kind: Any = None,
        attributes: Any = None,
        *_: Any,
        **__: Any,
    ) -> sampling.SamplingResult:
        return sampling.SamplingResult(self.decision, {**attributes, "sampler": "choosy"}, TraceState([("b", "2")]))

    def get_description(self) -> str:
        return "choosy"


class Reading(SpanProcessor):
    """Reads what a processor may read of a span that begins."""

    def __init__(self) -> None:
        self.read: list[Any] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        assert isinstance(span, ReadableSpan)
        self.read.append((span.name, span.kind, dict(span.attributes or {}), span.parent, span.is_recording()))
        span.set_attribute("read", True)


def made(kind: type[TracerProvider], told: Callable[[trace.Span], object], **options: Any) -> tuple[Any, list[Any]]:
    """A span of an attempt of which `told` is told, as JSON when it has ended, and what a processor has read of it."""
    exporter, reading = InMemorySpanExporter(), Reading()
    provider = kind(id_generator=Counting(), shutdown_on_exit=False, **options)
    for processor in (JobSpans(), reading, SimpleSpanProcessor(exporter)):
        provider.add_span_processor(processor)
    context = trace.set_span_in_context(trace.NonRecordingSpan(PARENT), Context())
    span = provider.get_tracer("turnout", "1").start_span(
        "run x", context, SpanKind.CONSUMER, FACTS, [Link(OTHER, {"turnout.link": "scheduled_by"})], 1_000
    )
    assert isinstance(span, LightSpan | trace.NonRecordingSpan) == (kind is LightProvider or not span.is_recording())
    told(span)
    span.end(2_000)
    provider.shutdown()
    ended = exporter.get_finished_spans()
    found = json.loads(ended[0].to_json()) if ended else span.get_span_context()
    dropped = [(each.dropped_attributes, each.dropped_events, each.dropped_links) for each in ended]
    return found, [*reading.read, dropped]


def raised() -> Exception:
    try:
        raise ValueError("no")
    except ValueError as error:
        error.__traceback__ = None  # the lines of a traceback are of the place that told of it
        return error


def everything(span: trace.Span) -> None:
    span.set_attributes({"turnout.job.state": "completed", "turnout.job.attempt": 2})
    span.add_event("progress", {"turnout.progress.done": 1.0, "list": [1, 2]}, 1_500)
    span.add_event("checkpoint", None, 1_600)
    span.record_exception(raised(), {"more": 1}, 1_700)
    span.add_link(OTHER)
    span.add_link(SpanContext(0, 0, is_remote=False))
    span.update_name("run y")
    span.set_status(Status(StatusCode.ERROR, "bad"))
    span.set_status(StatusCode.UNSET)


def many_links(span: trace.Span) -> None:
    for n in range(300):
        span.add_link(OTHER, {"n": n})


TOLD: dict[str, Callable[[trace.Span], object]] = {
    "nothing": lambda span: None,
    "everything": everything,
    "a list": lambda span: span.set_attribute("list", ["a", "b"]),
    "no value": lambda span: span.set_attributes({"a": 1, "none": None, "": 2, "set": {1}}),  # type: ignore[dict-item]
    "no key": lambda span: span.set_attribute(5, "five"),  # type: ignore[arg-type]
    "many": lambda span: [span.set_attribute(f"k{n}", n) for n in range(300)],
    "many at once": lambda span: span.set_attributes({f"k{n}": n for n in range(300)}),
    "many events": lambda span: [span.add_event(f"e{n}", {"n": n}, n) for n in range(300)],
    "many links": many_links,
    "a long text": lambda span: (span.set_attribute("long", "x" * 50), span.add_event("e", {"long": "x" * 50}, 1)),
    "no status": lambda span: span.set_status("ERROR"),  # type: ignore[arg-type]
    "fine after all": lambda span: (span.set_status(StatusCode.OK), span.set_status(StatusCode.ERROR, "late")),
}


@pytest.mark.parametrize("limit", [None, *LIMITS])
@pytest.mark.parametrize("name", TOLD)
def test_it_is_what_the_sdk_would_make(name: str, limit: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is told of it, and whatever the limits are."""
    if limit is not None:
        monkeypatch.setenv(limit, "6")
    usual, light = made(TracerProvider, TOLD[name]), made(LightProvider, TOLD[name])
    assert light == usual
    assert usual[0]["attributes"]


@pytest.mark.parametrize("decision", sampling.Decision)
def test_the_sampler_decides(decision: sampling.Decision) -> None:
    """It is asked as the SDK asks it, and what it says is kept."""
    usual = made(TracerProvider, TOLD["nothing"], sampler=Choosy(decision))
    assert made(LightProvider, TOLD["nothing"], sampler=Choosy(decision)) == usual


def test_nothing_is_told_of_one_that_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    """It stays as it was when it ended, ends once, and the log says so."""

    def told_late(span: trace.Span) -> None:
        span.end(1_900)
        everything(span)

    with caplog.at_level(logging.WARNING, "turnout.telemetry"):
        late, _ = made(LightProvider, told_late)
    assert late == {**made(LightProvider, TOLD["nothing"])[0], "end_time": late["end_time"]}
    assert "has ended" in caplog.text


def test_threads_may_tell_of_it_at_once() -> None:
    """Code in a thread goes on telling while the loop ends its span: nobody's attribute is lost or raises."""
    switched_every_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(100):
            made(LightProvider, tell_from_two_threads)
    finally:
        sys.setswitchinterval(switched_every_s)


def tell_from_two_threads(span: trace.Span) -> None:
    def tell(name: str, value: Any) -> None:
        for n in range(20):
            span.set_attribute(f"{name}{n}", value)

    with ThreadPoolExecutor() as threads:
        for told in [threads.submit(tell, "plain", 1), threads.submit(tell, "list", [1])]:
            told.result()
    assert isinstance(span, ReadableSpan)
    assert len(span.attributes or {}) == len(FACTS) + len(["read"]) + 40


def test_everything_else_is_the_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans of other kinds, without a parent, of others; and all of them where the SDK counts what it makes."""
    provider = LightProvider(shutdown_on_exit=False)
    inside = trace.set_span_in_context(trace.NonRecordingSpan(PARENT), Context())
    tracer = provider.get_tracer("turnout", "1")
    assert isinstance(tracer, LightTracer)
    others = [
        tracer.start_span("submit x", inside, SpanKind.PRODUCER),
        tracer.start_span("run x", Context(), SpanKind.CONSUMER),
        provider.get_tracer("user").start_span("mine", inside, SpanKind.CONSUMER),
    ]
    with tracer.start_as_current_span("current", inside, SpanKind.CONSUMER) as span:
        others.append(span)
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    others.append(provider.get_tracer("turnout", "1").start_span("run x", inside, SpanKind.CONSUMER))
    assert all(isinstance(each, Span) for each in others)
