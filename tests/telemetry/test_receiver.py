"""The collector that tests use tells what was really sent."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.support.otlp import Answer, OtlpReceiver


def emit(collector: OtlpReceiver, compression: Compression = Compression.NoCompression) -> None:
    """A parent and its child, which fails, through the real exporter."""
    provider = TracerProvider(resource=Resource.create({"service.name": "me"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{collector.url}/v1/traces", timeout=0.5, compression=compression)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("mine")
    with tracer.start_as_current_span("parent", kind=trace.SpanKind.PRODUCER, attributes={"n": 1, "l": ["a", "b"]}):
        parent = trace.get_current_span().get_span_context()
        try:
            with tracer.start_as_current_span("child", links=[trace.Link(parent, {"why": "so"})]):
                raise KeyError("gone")
        except KeyError:
            pass
    provider.shutdown()


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_it_tells_what_was_sent(compression: Compression) -> None:
    """Ids, kinds, times, attributes, links, events, status and service come out as they went in, gzipped or not."""
    with OtlpReceiver() as collector:
        emit(collector, compression)
        child, parent = collector.wait_for(lambda spans: len(spans) == 2)
    assert (parent.name, parent.kind, parent.parent_id) == ("parent", "PRODUCER", "")
    assert (child.name, child.kind, child.parent_id) == ("child", "INTERNAL", parent.span_id)
    assert child.trace_id == parent.trace_id
    assert parent.attributes == {"n": 1, "l": ["a", "b"]}
    assert parent.start <= child.start <= child.end <= parent.end
    assert [(link.span_id, link.attributes) for link in child.links] == [(parent.span_id, {"why": "so"})]
    assert [event.attributes["exception.type"] for event in child.events] == ["KeyError"]
    assert (child.error, parent.error, child.message) == (True, False, "KeyError: 'gone'")
    assert (child.service, child.scope) == ("me", "mine")


@pytest.mark.parametrize("answer", [400, 503, "hang"])
def test_it_can_be_unkind(answer: Answer) -> None:
    """A collector that refuses, or does not answer, has seen the request and keeps nothing of it."""
    with OtlpReceiver(answer) as collector:
        emit(collector)
        assert collector.requests >= 1
        assert collector.spans == []
