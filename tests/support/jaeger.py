"""A real Jaeger: built from tests/interop/jaeger, which repeats the replacement that Jaeger's own go.mod has.

Its v1 all-in-one, from the same source as v2 and with the same storage, receiver and query API: it builds in half the
time. Spans are kept in memory. Built like this it has no page to look at; its query API is whole.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import gobuild
from tests.support.otlp import Event, Link, Span

MODULE = gobuild.ROOT / "tests" / "interop" / "jaeger"
PACKAGE = "github.com/jaegertracing/jaeger/cmd/all-in-one"
START_TIMEOUT_S = 60.0

_MICROSECONDS = 1e-6
_UNUSED = ("collector.grpc-server", "collector.http-server", "collector.otlp.grpc", "query.grpc-server", "admin.http")


def build() -> Path:
    """The program of the version that go.mod pins."""
    return gobuild.build(MODULE, PACKAGE, "jaeger")


class Jaeger:
    """A Jaeger on free ports that lives until it is closed. `query_url` is its query API's."""

    def __init__(self, program: Path, log: Path) -> None:
        with _free() as query, _free() as otlp:
            self.query_url = f"http://127.0.0.1:{query.getsockname()[1]}"
            self.otlp_url = f"http://127.0.0.1:{otlp.getsockname()[1]}"
        ports = dict.fromkeys(_UNUSED, "127.0.0.1:0")
        ports |= {"query.http-server": self.query_url, "collector.otlp.http": self.otlp_url}
        arguments = [f"--{name}.host-port={url.removeprefix('http://')}" for name, url in ports.items()]
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [program, *arguments], stdout=file, stderr=subprocess.STDOUT, cwd=log.parent
            )
        self._await()

    def __enter__(self) -> Jaeger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a program send its spans there, and soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def services(self) -> list[str]:
        return list(self.get("/api/services") or [])

    def of_job(self, job_id: str) -> list[Span]:
        """The spans with the job's id of all traces that a search by it finds, in any service."""
        tags = json.dumps({"turnout.job.id": job_id})
        found: dict[str, Span] = {}
        for service in self.services():
            for trace in self.get("/api/traces", service=service, tags=tags) or []:
                found |= {span.span_id: span for span in _spans(trace)}
        return [span for span in found.values() if span.attributes.get("turnout.job.id") == job_id]

    def of_trace(self, trace_id: str) -> list[Span]:
        return [span for trace in self.get(f"/api/traces/{trace_id}") or [] for span in _spans(trace)]

    def get(self, path: str, **parameters: str) -> Any:
        """What the query API answers; None when it knows of no such thing."""
        try:
            with urllib.request.urlopen(
                f"{self.query_url}{path}?{urllib.parse.urlencode(parameters)}", timeout=30
            ) as page:
                return json.load(page)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def _await(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.services()
                with socket.create_connection(("127.0.0.1", int(self.otlp_url.rpartition(":")[2])), timeout=1):
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._process.kill()
                    raise RuntimeError(f"Jaeger does not start:\n{self._log.read_text()[-3000:]}") from None
                time.sleep(0.05)


def _free() -> socket.socket:
    """A free port, held until the socket is closed."""
    return socket.create_server(("127.0.0.1", 0))


def _spans(trace: dict[str, Any]) -> list[Span]:
    """The spans of a trace as the query API spells it: attributes are tags, parents and links are references."""
    return [_span(span, trace["processes"][span["processID"]]) for span in trace["spans"]]


def _span(raw: dict[str, Any], process: dict[str, Any]) -> Span:
    tags = _tags(raw["tags"])
    parents = [each for each in raw["references"] if each["refType"] == "CHILD_OF"]
    links = [each for each in raw["references"] if each["refType"] != "CHILD_OF"]
    kind = str(tags.pop("span.kind", "internal")).upper()
    status = str(tags.pop("otel.status_code", "UNSET"))
    start = raw["startTime"] * _MICROSECONDS
    return Span(
        trace_id=raw["traceID"],
        span_id=raw["spanID"],
        parent_id=parents[0]["spanID"] if parents else "",
        name=raw["operationName"],
        kind=kind,
        start=start,
        end=start + raw["duration"] * _MICROSECONDS,
        attributes=tags,
        events=tuple(_event(log) for log in raw["logs"]),
        links=tuple(Link(each["traceID"], each["spanID"], {}) for each in links),
        status=status,
        message=str(tags.pop("otel.status_description", "")),
        service=process["serviceName"],
        resource=_tags(process.get("tags", [])),
        scope=str(tags.pop("otel.scope.name", "")),
    )


def _event(log: dict[str, Any]) -> Event:
    fields = _tags(log["fields"])
    return Event(str(fields.pop("event", "")), log["timestamp"] * _MICROSECONDS, fields)


def _tags(tags: list[dict[str, Any]]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in tags}
