"""Metrics of `turnout worker` and `turnout supervisor`: the page they serve, and what they send."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.collectors import troubled_workers
from tests.cli.conftest import Cli, first_document
from tests.cli.test_health import Health, until
from tests.support.otlp import OtlpReceiver
from tests.telemetry.test_metrics import prometheus_name, read
from turnout import Client
from turnout.definition.activity import activity_ref
from turnout.telemetry import metrics
from turnout.telemetry.exporters import METRICS
from turnout.testing.server import NatsServer

ROOT = Path(__file__).parents[2]
SERVED = ("worker", "metered", "--health-port", "127.0.0.1:0", "-o", "json", "--name")
ENDINGS = ("_bucket", "_sum", "_count")


class Scraped:
    """A page of metrics, as Prometheus understands it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = read(text)
        self.names = {name for name, _ in self.samples} | set(re.findall(r"^(\w+_bucket)\{", text, re.M))

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples.get((f"turnout_{name}", frozenset(labels.items())))


def scrape(health: Health) -> Scraped:
    code, text = health.get("/metrics")
    assert code == 200
    return Scraped(text)


def begin(cli: Cli, activity: str, payload: str = "{}") -> str:
    job_id = cli("job", "submit", activity, payload).stdout.strip()
    cli.until(job_id, lambda info: info.state == "running")
    return job_id


def submit_groups(cli: Cli) -> None:
    """One that ends and is followed, one whose members wait for their time."""

    async def submit() -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client:
            await client.submit_group("summarize", [{"ended": []}, {"ended": []}], then="summarize")
            await client.submit_group([(activity_ref("stay").options(delay=3600), {}) for _ in range(3)])

    asyncio.run(submit())


@pytest.fixture(scope="module")
def survivor(server: NatsServer) -> Iterator[Scraped]:
    """The page of a worker that has seen jobs end in every way, one of them on a node that was killed."""
    cli = Cli(server.url, "metered")
    ids: list[str] = []
    with cli.process(*SERVED, "victim") as victim:
        first_document(victim)
        ids.append(begin(cli, "stay"))
        cli("workflow", "start", "listening", "--id", "listener")
        until(lambda: cli.json("workflow", "show", "listener")["waiting"])
        victim.kill()
    with cli.process(*SERVED, "survivor", "--grace", "0") as worker:
        health = Health(first_document(worker)["health_port"])
        for activity, code in (("add", 0), ("fail", 1)):
            payload = '{"a": 1}' if activity == "add" else "{}"
            ids.append(cli.json("job", "submit", activity, payload, "--wait", code=code)["id"])
        ids.append(begin(cli, "stay"))
        cli("job", "cancel", ids[-1])
        cli("workflow", "signal", "listener", "word", '"hush"')
        assert cli("workflow", "result", "listener", "--timeout", "60").stdout.strip() == '"hush"'
        submit_groups(cli)
        until(lambda: scrape(health).value("groups_followed_total", activity="summarize"), 60)
        until(lambda: scrape(health).value("groups_open", activity="stay"), 60)
        cli("workflow", "start", "broken")
        cli("workflow", "start", "Counting", "--id", "counted")
        assert cli("workflow", "update", "counted", "add").stdout.strip() == "1"
        assert cli("workflow", "query", "counted", "total").stdout.strip() == "1"
        until(lambda: scrape(health).value("workflows_open", workflow="broken", state="stuck"), 60)
        until(lambda: scrape(health).value("jobs_cancelled_total", activity="stay"))
        until(lambda: scrape(health).value("jobs_completed_total", activity="stay"), 60)
        until(lambda: scrape(health).value("queue_depth", activity="add") is not None, 60)
        until(lambda: scrape(health).value("limit_held", limit="stays") is not None, 60)
        page = scrape(health)
        for job_id in (*ids, "listener", "counted"):
            assert job_id not in page.text
        yield page
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0


def test_the_survivor_counts_the_lost_attempt(survivor: Scraped) -> None:
    """What a killed node can't count any more is counted by the one that finds it dead, once."""
    assert survivor.value("attempts_lost_total", activity="stay") == 1
    assert survivor.value("attempt_duration_seconds_count", activity="stay", outcome="lost") == 1
    assert survivor.value("jobs_completed_total", activity="stay") == 1
    assert survivor.value("jobs_cancelled_total", activity="stay") == 1
    assert survivor.value("attempts_started_total", activity="stay") == 2


def test_each_way_to_end_is_counted(survivor: Scraped) -> None:
    """What completed and what failed on this worker is there, each once, and nothing beside it."""
    assert survivor.value("jobs_completed_total", activity="add") == 1
    assert survivor.value("attempts_retried_total", activity="fail") == 1
    assert survivor.value("jobs_faulted_total", activity="fail", reason="failed") == 1
    for idle in ("jobs_cancelled_total", "attempts_lost_total", "attempts_aborted_total", "attempts_retried_total"):
        assert survivor.value(idle, activity="add") == 0


def test_workflows_are_counted(survivor: Scraped) -> None:
    """One was replayed here and has ended, one is stuck: each counted once, and told as open while it is."""
    assert survivor.value("workflow_loads_total", workflow="listening", source="replay") == 1
    assert survivor.value("workflow_replay_duration_seconds_count", workflow="listening") == 1
    assert survivor.value("workflow_task_duration_seconds_count", workflow="listening") == 1
    assert survivor.value("workflows_ended_total", workflow="listening", state="completed") == 1
    assert survivor.value("workflows_ended_total", workflow="listening", state="faulted") == 0
    for asked in ("query", "update"):
        name = f"workflow_{asked}_duration_seconds_count"
        assert survivor.value(name, workflow="Counting", outcome="answered") == 1
    assert survivor.value("workflows_stuck_total", workflow="broken", reason="code_raised") == 1
    assert survivor.value("workflows_open", workflow="broken", state="stuck") == 1
    assert survivor.value("workflows_open", workflow="listening", state="running") == 0


def test_groups_are_counted(survivor: Scraped) -> None:
    """One has finished and was followed, one is open with all of its members."""
    assert survivor.value("groups_finished_total", activity="summarize") == 1
    assert survivor.value("groups_followed_total", activity="summarize") == 1
    assert survivor.value("groups_open", activity="summarize") in (0, None)  # None where no look has seen it open
    assert survivor.value("groups_open", activity="stay") == 1
    assert survivor.value("group_members", activity="stay", state="open") == 3
    assert survivor.value("group_members", activity="stay", state="ended") == 0


def test_every_metric_is_on_the_page(survivor: Scraped) -> None:
    """Nothing is declared that a worker does not show, and nothing shown that is not declared."""
    shown = {name for name in survivor.names if name.startswith("turnout_")}
    declared = set()
    for metric in metrics.METRICS:
        name = prometheus_name(metric)
        declared |= {name + ending for ending in ENDINGS} if metric.kind == "histogram" else {name}
    assert shown == declared


@pytest.mark.parametrize("path", ["deploy/grafana/turnout.json", "deploy/prometheus/alerts.yml"])
def test_what_dashboard_and_alerts_name_is_there(survivor: Scraped, path: str) -> None:
    """Each metric, and each label, that the dashboard and the alerts ask for is really shown by a worker."""
    text = (ROOT / path).read_text()
    named = set(re.findall(r"\bturnout_\w+", text))
    assert len(named) > 5
    assert named <= survivor.names
    labels = {label for _, labels in survivor.samples for label, _ in labels}
    asked = {label.strip() for each in re.findall(r"\b(?:by|on) \(([^)]*)\)", text) for label in each.split(",")}
    assert asked - {"instance", "le"} <= labels


def test_a_scrape_is_answered_while_user_code_blocks_the_loop(cli: Cli) -> None:
    """A page comes while the event loop is blocked, and shows the job that blocks it."""
    with cli.process(*SERVED, "blocked", "--grace", "0") as worker:
        health = Health(first_document(worker)["health_port"])
        cli("job", "submit", "block", '{"seconds": 8}')
        health.until("/readyz", 503)
        page = scrape(health)
        assert [v for (name, at), v in page.samples.items() if name == "turnout_jobs_running" and v] == [1]
        assert health.get("/readyz")[0] == 503  # so it is blocked still


def test_a_lone_supervisor_tells_the_queues(cli: Cli) -> None:
    """Jobs of an activity whose workers have all gone are counted, with their age, on the supervisor's page."""
    with cli.process("worker", "metered", "-o", "json") as worker:
        first_document(worker)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    for number in range(3):
        cli("job", "submit", "add", json.dumps({"a": number}))
    with cli.process("supervisor", "--health-port", "127.0.0.1:0", "-o", "json") as supervisor:
        health = Health(first_document(supervisor)["health_port"])
        assert health.get("/livez") == (200, "ok\n")
        until(lambda: health.status()["supervisor"]["acting"], 30)
        until(lambda: scrape(health).value("queue_depth", activity="add") == 3, 30)
        assert health.get("/readyz") == (200, "ok\n")
        assert (scrape(health).value("queue_oldest_age_seconds", activity="add") or 0) > 0
        assert "/metrics" in health.get("/")[1]
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(30) == 0


# --- sent -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, []),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x/v1/metrics"}, ["otlp"]),
        ({"OTEL_METRICS_EXPORTER": "otlp, console"}, ["otlp", "console"]),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, []),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_the_environment_decides(environment: dict[str, str], names: list[str]) -> None:
    """An exporter, or an endpoint for metrics, switches them on; the endpoint for all signals alone does not."""
    assert METRICS.wanted(environment) == names


def sent(receiver: OtlpReceiver) -> dict[str, Any]:
    """The newest of each metric that has arrived."""
    return {
        metric.name: metric
        for request in list(receiver.metrics)
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_metrics_reach_a_collector(cli: Cli) -> None:
    """Over OTLP, at the interval that the environment sets, and the last of them when the worker ends."""
    with OtlpReceiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_METRICS_EXPORTER": "otlp"}
        env |= {"OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_TRACES_EXPORTER": "none"}
        with cli.process("worker", "metered", "-o", "json", env=env) as worker:
            first_document(worker)
            until(lambda: "turnout.node.slots" in sent(receiver))
            cli("job", "submit", "add", '{"a": 1}', "--wait")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        found = sent(receiver)
        assert set(found) >= {"turnout.jobs.completed", "turnout.attempt.duration", "turnout.event_loop.lag"}
        completed = [
            point.as_int
            for point in found["turnout.jobs.completed"].sum.data_points
            if point.attributes[0].value.string_value == "add"
        ]
        assert completed == [1]
        [duration] = found["turnout.attempt.duration"].histogram.data_points
        assert (duration.count, duration.explicit_bounds[0]) == (1, 0.001)
        resource = {a.key: a.value.string_value for a in receiver.metrics[0].resource_metrics[0].resource.attributes}
        assert resource["service.name"] == "turnout-worker"


def test_a_collector_in_trouble_holds_nobody_up(cli: Cli) -> None:
    """One that refuses, hangs or is away: jobs run, the worker ends in time with 0, and one line of the log says it."""

    def environment(url: str) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{url}/v1/metrics",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
            "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "1",
        }

    with troubled_workers(cli, "metered", environment) as troubled:
        for each in troubled:
            first_document(each.worker)
            each.cli("job", "submit", "add", '{"a": 1}', "--wait")
            if each.answer is not None:
                until(lambda collector=each.collector: collector.requests > 0)  # type: ignore[misc]
        begun_at = time.monotonic()
        for each in troubled:
            each.worker.send_signal(signal.SIGTERM)
        for each in troubled:
            _, log = each.worker.communicate(timeout=30)
            assert each.worker.returncode == 0, each.answer
            assert time.monotonic() - begun_at < 25
            warnings = [line for line in log.splitlines() if " WARNING " in line or " ERROR " in line]
            warnings = [line for line in warnings if "event loop has been blocked" not in line]  # by a busy machine
            assert len(warnings) == 1, f"{each.answer}: {log}"
            assert "metrics cannot be sent" in warnings[0]
            assert "Traceback" not in log


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"OTEL_METRICS_EXPORTER": "abacus"}, "no metrics: the exporter abacus is not installed"),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "0"}, "no metrics: the OTEL_METRIC_EXPORT_"),
    ],
)
def test_a_setting_that_can_not_be_is_told(cli: Cli, env: dict[str, str], told: str) -> None:
    """An exporter that is not installed, or an interval of nothing, is a warning; the worker works."""
    with cli.process("worker", "metered", "-o", "json", env=env) as worker:
        first_document(worker)
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=30)
    assert told in log
    assert worker.returncode == 0


def test_verified_workflows_are_counted(server: NatsServer) -> None:
    """`--verify` finds code that depends on how often it has run: that is counted, and the workflow completes."""
    cli = Cli(server.url, "verified")
    arguments = ("counting", "--verify", "1", "--health-port", "127.0.0.1:0", "-o", "json")
    with cli.process("worker", *arguments) as worker:
        health = Health(first_document(worker)["health_port"])
        cli("workflow", "start", "taking_turns", "--id", "t-1")
        found = {"workflow": "taking_turns", "outcome": "different"}
        until(lambda: scrape(health).value("workflow_verifications_total", **found), 60)
        cli("workflow", "signal", "t-1", "word", '"on"')
        assert cli("workflow", "result", "t-1", "--timeout", "60").stdout.strip() == '"on"'
    assert "0<=x<=1" in cli.error("worker", "counting", "--verify", "1.5", code=2)
