"""Tracing is on where the environment asks for it, and only there."""

from __future__ import annotations

import signal
import time

import pytest

from tests.cli.collectors import troubled_workers
from tests.cli.conftest import Cli, first_document
from tests.support.otlp import OtlpReceiver
from turnout.telemetry.exporters import TRACES
from turnout.telemetry.setup import BATCH_SPANS, QUEUE_SPANS_MAX, SPAN_BYTES, queue_size


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
    assert TRACES.wanted(environment) == names


def test_spans_go_over_http_and_none_is_left_behind(cli: Cli) -> None:
    """Submitter and worker send their spans to the OTLP endpoint, the last ones when they end."""
    with OtlpReceiver() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with cli.process("worker", "shop:add", "-o", "json", env=env) as worker:
            first_document(worker)
            info = cli.json("job", "submit", "add", '{"a": 1}', "--wait", env=env)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        assert {(span.name, span.service, span.trace_id) for span in collector.spans} == {
            ("submit add", "turnout-cli", info["trace_id"]),
            ("run add", "turnout-worker", info["trace_id"]),
        }


ORDERS = {
    "stop": [signal.SIGTERM],
    "abort": [signal.SIGQUIT],
    "abort-after-stop": [signal.SIGTERM, signal.SIGTERM],
}


@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS)
def test_what_is_left_is_sent_at_a_stop_and_at_an_abort(cli: Cli, orders: list[signal.Signals]) -> None:
    """The span of the attempt that the order ended is there, though the next batch was not due for an hour."""
    with OtlpReceiver() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        grace = "0" if len(orders) == 1 else "60"
        with cli.process("worker", "shop", "--grace", grace, "-o", "json", env=env) as worker:
            first_document(worker)
            job_id = cli("job", "submit", "checkpointed", "{}").stdout.strip()
            cli.until(job_id, lambda info: info.checkpoint is not None)
            for order in orders:
                worker.send_signal(order)
                assert any("SIG" in line for line in worker.stderr)  # two that come at once are one to the kernel
            assert worker.wait(30) == 0
        [span] = [span for span in collector.spans if span.name == "run checkpointed"]
        assert span.attributes["turnout.attempt.outcome"] == "aborted"
        assert not span.error


def test_spans_of_child_processes_are_in_the_trace(cli: Cli) -> None:
    """A span made in a child process is a child of the attempt's, carries the job, and is sent before that ends."""
    with OtlpReceiver() as collector:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        with cli.process("worker", "spanning", "-o", "json", env=env) as worker:
            first_document(worker)
            info = cli.json("job", "submit", "spanning", "{}", "--wait")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        spans = {span.name: span for span in collector.spans}
    inside, attempt = spans["inside"], spans["run spanning"]
    assert (inside.span_id, inside.parent_id, inside.trace_id) == (info["result"], attempt.span_id, info["trace_id"])
    assert inside.service == "turnout-worker"
    assert inside.attributes == {
        "turnout.job.id": info["id"],
        "turnout.job.activity": "spanning",
        "turnout.job.attempt": 1,
        "turnout.node.id": attempt.attributes["turnout.node.id"],
    }


def test_children_do_not_repeat_what_the_worker_has_told(cli: Cli) -> None:
    """With no collector there, jobs in child processes run as ever, and at most the first of them complains as well."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    with cli.process("worker", "spanning", "-o", "json", env=env) as worker:
        first_document(worker)
        cli("job", "submit", "spanning", "{}", "--wait")
        others = [cli("job", "submit", "spanning", "{}").stdout.strip() for _ in range(3)]
        for job_id in others:
            cli("job", "result", job_id)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        said = worker.stderr.read()
    assert 1 <= said.count("cannot be sent") <= 2, said


def test_a_collector_in_trouble_costs_no_job_and_one_warning(cli: Cli) -> None:
    """It refuses, says nothing, or is not there: jobs run, the worker says so once, and it ends in time."""

    def environment(url: str) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }

    with troubled_workers(cli, "shop:add", environment) as troubled:
        for each in troubled:
            first_document(each.worker)
        begun_at = time.monotonic()
        while time.monotonic() - begun_at < 2:  # many batches, and the end of the first one's patience
            for each in troubled:
                each.cli("job", "submit", "add", '{"a": 1}', "--wait")
        for each in troubled:
            each.worker.send_signal(signal.SIGTERM)
        for each in troubled:
            assert each.worker.wait(30) == 0, each.answer
            said = each.worker.stderr.read()
            told = [line for line in said.splitlines() if "cannot be sent" in line]
            assert len(told) == 1, f"{each.answer}: {said}"
            assert "opentelemetry" not in said
            assert "Traceback" not in said


@pytest.mark.parametrize(
    "env",
    [
        {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100"},
        {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1000000"},
        {"OTEL_BSP_SCHEDULE_DELAY": "-1"},
    ],
)
def test_settings_that_make_no_sense_cost_no_job(cli: Cli, env: dict[str, str]) -> None:
    """Sizes that do not fit together are told of, and the spans are sent."""
    with OtlpReceiver() as collector:
        done = cli("job", "submit", "add", "{}", env=env | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
        assert [span.name for span in collector.spans] == ["submit add"]
    assert "OTEL_BSP_" in done.stderr


def test_the_queue_of_spans_fits_the_memory() -> None:
    """A busy worker's spans wait in at most a fiftieth of the memory, or of the container's; never in less than two
    batches."""
    assert queue_size(64 * 2**30) == QUEUE_SPANS_MAX
    assert queue_size(2**30) * SPAN_BYTES <= 2**30 / 50
    assert queue_size(2**20) == 2 * BATCH_SPANS


def test_a_collector_that_is_away_holds_nobody_up(cli: Cli) -> None:
    """Where no collector answers the program ends all the same, soon, with its own exit code."""
    begun_at = time.monotonic()
    cli("job", "submit", "add", "{}", env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert time.monotonic() - begun_at < 9


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
