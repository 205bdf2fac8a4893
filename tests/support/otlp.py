"""A collector in the test: real OTLP over HTTP, decoded by the protocol's own classes, as unkind as a test wants it.

with OtlpReceiver() as collector:
    start_something(env=collector.environment)
    collector.wait_for(lambda spans: any(span.name == "submit add" for span in spans))
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal

import attrs
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2

Kind = Literal["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]
Answer = int | Literal["hang"]
"""The HTTP status of every answer, or none at all."""

_NANOSECONDS = 1e-9


@attrs.frozen
class Event:
    name: str
    time: float
    attributes: dict[str, Any]


@attrs.frozen
class Link:
    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@attrs.frozen
class Span:
    """One span as the collector got it. Ids in hex (`parent_id` is "" at the root), times in unix seconds."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: float
    end: float
    attributes: dict[str, Any]
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    status: str
    message: str
    service: str
    resource: dict[str, Any]
    scope: str

    @property
    def error(self) -> bool:
        return self.status == "ERROR"


class OtlpReceiver:
    """Takes /v1/traces and /v1/metrics on a free port, plain and gzipped.

    `answer` may be changed at any time: 200 takes in what comes, any other status refuses it, "hang" says nothing until
    it is changed again or the receiver is closed. `requests` counts whatever came, `refused` what was turned away.
    """

    def __init__(self, answer: Answer = 200) -> None:
        self.answer: Answer = answer
        self.requests = 0
        self.refused = 0
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self._spans: list[Span] = []
        self._changed = threading.Condition()
        self._closing = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def __enter__(self) -> OtlpReceiver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The endpoint, as OTEL_EXPORTER_OTLP_ENDPOINT wants it: without /v1/traces."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes a program send its spans here, and soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    @property
    def spans(self) -> list[Span]:
        """What has come so far, in the order of arrival."""
        with self._changed:
            return list(self._spans)

    def wait_for(self, predicate: Callable[[list[Span]], object], timeout: float = 60.0) -> list[Span]:
        """The spans as soon as the predicate holds for them. TimeoutError shows what there was instead."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not predicate(list(self._spans)):
                left = deadline - time.monotonic()
                if left <= 0:
                    shown = "\n".join(f"  {span.kind:9}{span.name} {span.attributes}" for span in self._spans)
                    raise TimeoutError(f"after {timeout:g} s still not: {predicate}; there are\n{shown}")
                self._changed.wait(left)
            return list(self._spans)

    def of_job(self, job_id: str) -> list[Span]:
        """The spans that carry the job's id."""
        return [span for span in self.spans if span.attributes.get("turnout.job.id") == job_id]

    def of_trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def take(self, path: str, body: bytes, headers: Mapping[str, str]) -> int | None:
        """Take one request in; its status, None for one that is not answered at all."""
        with self._changed:
            self.requests += 1
            self.headers.append(dict(headers))
            self._changed.notify_all()
            answer = self.answer
            while answer == "hang":
                if self._closing:
                    return None
                self._changed.wait(0.1)
                answer = self.answer
            if answer != 200:
                self.refused += 1
                return answer
        if headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if path == "/v1/traces":
            spans = decoded(body)
            with self._changed:
                self._spans.extend(spans)
                self._changed.notify_all()
            return 200
        if path == "/v1/metrics":
            request = ExportMetricsServiceRequest.FromString(body)
            with self._changed:
                self.metrics.append(request)
                self._changed.notify_all()
            return 200
        return 404


def decoded(body: bytes) -> list[Span]:
    """The spans of one OTLP request. DecodeError when it is none."""
    found = []
    for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            found += [_span(span, resource, scope_spans.scope.name) for span in scope_spans.spans]
    return found


def _span(span: trace_pb2.Span, resource: dict[str, Any], scope: str) -> Span:
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        start=span.start_time_unix_nano * _NANOSECONDS,
        end=span.end_time_unix_nano * _NANOSECONDS,
        attributes=_attributes(span.attributes),
        events=tuple(
            Event(event.name, event.time_unix_nano * _NANOSECONDS, _attributes(event.attributes))
            for event in span.events
        ),
        links=tuple(Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links),
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        message=span.status.message,
        service=str(resource.get("service.name", "")),
        resource=resource,
        scope=scope,
    )


def _attributes(pairs: Sequence[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return None if kind is None else getattr(value, kind)


def _handler(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                status = receiver.take(self.path, body, dict(self.headers))
            except (DecodeError, OSError, EOFError):
                status = 400
            if status is None:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
