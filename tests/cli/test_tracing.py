"""Tracing is on where the environment asks for it, and only there."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.cli.conftest import Cli, first_document
from turnout.telemetry.setup import wanted


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, []),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_the_environment_decides(environment: dict[str, str], names: list[str]) -> None:
    """An exporter or an endpoint switches tracing on; `none` and OTEL_SDK_DISABLED switch it off."""
    assert wanted(environment) == names


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """An OTLP endpoint: its address, and what was posted to it."""
    posted: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", posted
        server.shutdown()
        thread.join()


def test_spans_go_over_http_and_none_is_left_behind(cli: Cli, collector: tuple[str, list[tuple[str, bytes]]]) -> None:
    """Submitter and worker send their spans to the OTLP endpoint, the last ones when they end."""
    url, posted = collector
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    with cli.process("worker", "shop:add", "-o", "json", env=env) as worker:
        first_document(worker)
        info = cli.json("job", "submit", "add", '{"a": 1}', "--wait", env=env)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
    sent = b"".join(body for _, body in posted)
    assert {path for path, _ in posted} == {"/v1/traces"}
    for word in (b"submit add", b"run add", b"turnout-worker", b"turnout-cli", bytes.fromhex(info["trace_id"])):
        assert word in sent


def test_a_collector_that_is_away_holds_nobody_up(cli: Cli) -> None:
    """Where no collector answers the program ends all the same, soon, with its own exit code."""
    begun_at = time.monotonic()
    cli("job", "submit", "add", "{}", env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert time.monotonic() - begun_at < 6


def test_the_console_is_stderr(cli: Cli) -> None:
    """Spans for the console go to stderr: stdout is for the output. The service's name may be chosen."""
    done = cli("job", "submit", "add", "{}", env={"OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": "mine"})
    assert len(done.stdout.splitlines()) == 1
    assert '"submit add"' in done.stderr
    assert '"service.name": "mine"' in done.stderr


def test_a_missing_exporter_does_not_stop_jobs(cli: Cli) -> None:
    """An exporter that is not installed is a warning that says what to install."""
    done = cli("job", "submit", "add", "{}", env={"OTEL_TRACES_EXPORTER": "zipkin_of_old"})
    assert "zipkin_of_old is not installed" in done.stderr
