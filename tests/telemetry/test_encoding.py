"""What is spelt quickly is what the library spells."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from turnout.telemetry import encoding
from turnout.telemetry.encoding import LONGEST
from turnout.telemetry.exporters import TRACES, resource
from turnout.telemetry.fast import LightProvider

KEYS = st.sampled_from(["a", "b", "turnout.job.id", "turnout.job.queue_wait"])
SCALARS = st.one_of(
    st.sampled_from([0, 1, -1, True, False, 0.0, 1.0, -0.0, "", "1", "True", "x" * LONGEST, "x" * (LONGEST + 1)]),
    st.text(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(KEYS, SCALARS, max_size=2), st.binary())
SPANS = st.lists(
    st.fixed_dictionaries(
        {
            "attributes": st.dictionaries(KEYS, VALUES, max_size=4),
            "kind": st.sampled_from([SpanKind.CONSUMER, SpanKind.CONSUMER, SpanKind.CONSUMER, SpanKind.INTERNAL]),
            "told": st.sampled_from(["", "", "", "event", "link", "status", "name"]),
            "remote": st.booleans(),
            "state": st.sampled_from([None, None, TraceState([("a", "1")])]),
            "provider": st.sampled_from([0, 0, 0, 1]),
        }
    ),
    max_size=8,
)


def ended(wanted: list[dict[str, Any]]) -> list[ReadableSpan]:
    """Spans as a worker ends them, light ones and others, of one or two programs."""
    exporter = InMemorySpanExporter()
    providers = [LightProvider(resource=resource(f"worker-{n}"), shutdown_on_exit=False) for n in range(2)]
    for provider in providers:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    for n, each in enumerate(wanted):
        parent = SpanContext(n + 1, n + 2, each["remote"], TraceFlags(1), each["state"])
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
        tracer = providers[each["provider"]].get_tracer("turnout", "1")
        span = tracer.start_span("run x", context, each["kind"], each["attributes"], start_time=n)
        match each["told"]:
            case "event":
                span.add_event("progress", {"done": 1})
            case "link":
                span.add_link(parent)
            case "status":
                span.set_status(StatusCode.ERROR, "bad")
            case "name":
                span.update_name("run y")
        span.end(n + 5)
    return list(exporter.get_finished_spans())


def told(request: Any) -> list[Any]:
    """What a collector learns: of each span who sent it, and all that is said of it, its attributes by name."""
    found = []
    for sent in request.resource_spans:
        for scope in sent.scope_spans:
            for span in scope.spans:
                span.attributes.sort(key=lambda each: each.key)
                said = [part.SerializeToString(deterministic=True) for part in (sent.resource, scope.scope, span)]
                found.append((*said, sent.schema_url, scope.schema_url))
    return sorted(found)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    """How an OTLP exporter of a worker spells its spans; what is changed in the library is put back."""
    monkeypatch.setattr(trace_exporter, "encode_spans", encode_spans)
    (made,) = TRACES.made("otlp")
    assert isinstance(made, SpanExporter)
    return vars(trace_exporter)["encode_spans"]


def test_a_collector_learns_the_same(quick: Any) -> None:
    """Be the spans light or not, of one resource or of several, and their attributes of whatever kind."""
    assert inspect.unwrap(quick) is encode_spans
    assert quick is not encode_spans

    @settings(max_examples=300)
    @given(SPANS)
    def the_same(wanted: list[dict[str, Any]]) -> None:
        spans = ended(wanted)
        assert told(quick(spans)) == told(encode_spans(spans))

    the_same()


def test_the_library_spells_one_of_each_batch(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many attempts there are, as long as there is nothing special about them."""
    seen: list[int] = []

    def counting(spans: Any) -> Any:
        seen.append(len(spans))
        return encode_spans(spans)

    wanted = {"attributes": {"a": 1}, "kind": SpanKind.CONSUMER, "told": "", "remote": True, "state": None}
    spans = ended([{**wanted, "provider": 0}] * 100)
    assert len(told(encoding._encode(counting, spans))) == 100
    assert seen == [1]


def test_what_cannot_be_told_costs_no_other_span(quick: Any) -> None:
    """Code in a job may set what OTLP has no place for; the library leaves out that attribute, and so is it here."""
    wanted = {"kind": SpanKind.CONSUMER, "told": "", "remote": True, "state": None, "provider": 0}
    values = [1, 2**64, "\ud800", float("nan"), 2]
    spans = ended([{**wanted, "attributes": {"a": value, "b": "kept"}} for value in values])
    found = told(quick(spans))
    assert len(found) == len(values)
    assert found == told(encode_spans(spans))


def test_it_is_done_once(quick: Any) -> None:
    """A second exporter, of metrics say, finds it done."""
    list(TRACES.made("otlp"))
    assert vars(trace_exporter)["encode_spans"] is quick


def test_a_release_that_spells_elsewhere_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs more there, and nothing else."""
    monkeypatch.delattr(trace_exporter, "encode_spans")
    assert len(list(TRACES.made("otlp"))) == 1
    assert not hasattr(trace_exporter, "encode_spans")
