"""A collector for OTLP over HTTP in a process of its own, which keeps what it is sent and counts it when asked.

It reads nothing while a measurement runs: it shall take as little of the machine as a collector elsewhere.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import attrs

BODIES: list[bytes] = []


class Handler(BaseHTTPRequestHandler):
    """POST keeps a body, GET counts the spans in all of them."""

    protocol_version = "HTTP/1.1"  # the exporter keeps its connection

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            BODIES.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        self._answer(b"", "application/x-protobuf")

    def do_GET(self) -> None:
        self._answer(json.dumps(counted(BODIES)).encode(), "application/json")

    def log_message(self, *_: object) -> None:
        """Nobody wants to know."""

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def counted(bodies: list[bytes]) -> dict[str, int]:
    """How many different spans there are, and how many of them are attempts'."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    kinds: dict[bytes, int] = {}
    for body in bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                kinds |= {span.trace_id + span.span_id: span.kind for span in scope.spans}
    return {"spans": len(kinds), "attempts": list(kinds.values()).count(Span.SPAN_KIND_CONSUMER)}


@attrs.frozen
class Collector:
    """The collector's address, as OTEL_EXPORTER_OTLP_ENDPOINT wants it."""

    url: str

    def spans(self) -> dict[str, int]:
        with urllib.request.urlopen(self.url, timeout=60) as answer:
            found: dict[str, int] = json.load(answer)
        return found


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """A collector that runs until this is left."""
    command = [sys.executable, "-m", "bench.collector"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield Collector(child.stdout.readline().strip())
        finally:
            child.terminate()


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
