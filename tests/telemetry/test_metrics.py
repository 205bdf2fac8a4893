"""Counting: what is kept, under which labels, and who gets it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from opentelemetry import metrics as api
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.values import job_record
from turnout.core.changes import changes
from turnout.core.failure import FaultReason
from turnout.core.record import AttemptRecord, JobRecord, JobState, Outcome
from turnout.telemetry import metrics
from turnout.telemetry.counts import LONG_S, NAMES_MAX, Histogram, Metric
from turnout.telemetry.metrics_page import page

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
EXPORTER_LABELS = {"otel_scope_name", "otel_scope_version", "otel_scope_schema_url", "le"}


def write(before: JobRecord | None, after: JobRecord) -> None:
    """Count the write of `after` over `before`."""
    metrics.saved(before, after, changes(before, after))


def samples(text: str, wanted: Callable[[str], bool]) -> Iterator[Sample]:
    """Those of the wanted lines. Who waits for a count reads its lines again and again, and most lines are buckets."""
    for family in text_string_to_metric_families("\n".join(filter(wanted, text.splitlines()))):
        yield from family.samples


def read(text: str, wanted: Callable[[str], bool] = lambda line: "_bucket{" not in line) -> Series:
    """The samples of a page but for buckets, without the labels that the exporter adds."""
    return {
        (sample.name, frozenset((k, v) for k, v in sample.labels.items() if k not in EXPORTER_LABELS)): sample.value
        for sample in samples(text, wanted)
    }


def value(name: str, **labels: str) -> float:
    return read(page().text(), lambda line: line.startswith((name + "{", name + " "))).get(
        (name, frozenset(labels.items())), 0.0
    )


def prometheus_name(metric: Metric) -> str:
    """The name of a metric on the page."""
    name = metric.name.replace(".", "_")
    if metric.unit == "s":
        name += "_seconds"
    return f"{name}_total" if metric.kind == "counter" else name


def test_a_series_begins_at_zero() -> None:
    """Every count of an activity that is served is there before anything has happened: a rate needs a beginning."""
    metrics.serve(["served"])
    found = read(page().text())
    for counter in metrics.COUNTERS:
        labels = counter.metric.labels
        if labels == ("activity",):
            assert found[prometheus_name(counter.metric), frozenset({("activity", "served")})] == 0
    for reason in FaultReason.__members__:
        labels_of = frozenset({("activity", "served"), ("reason", reason)})
        assert found["turnout_jobs_faulted_total", labels_of] == 0
    assert ("turnout_registry_conflicts_total", frozenset()) in found


def test_threads_count_together() -> None:
    """No count is lost when worker, supervisor and lease thread count at once."""
    page()

    def submit_many() -> None:
        for _ in range(5000):
            metrics.submitted("threads")

    before = value("turnout_jobs_submitted_total", activity="threads")
    threads = [threading.Thread(target=submit_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value("turnout_jobs_submitted_total", activity="threads") - before == 20_000


def test_names_that_this_process_has_nothing_to_do_with_are_one() -> None:
    """Whoever publishes under ten thousand names makes one series of them, not ten thousand."""
    page()
    before = value("turnout_jobs_cancelled_total", activity="other")
    for number in range(100):
        write(None, job_record("j", f"unheard{number}", JobState.cancelled))
    assert value("turnout_jobs_cancelled_total", activity="other") - before == 100
    assert "unheard" not in page().text()


def test_labels_are_bounded() -> None:
    """A process that submits under a thousand names has two hundred series, and one for all the others."""
    before = len(metrics.SUBMITTED.read())
    for number in range(1000):
        metrics.submitted(f"name{number}")
    assert len(metrics.SUBMITTED.read()) - before <= NAMES_MAX + 1
    assert value("turnout_jobs_submitted_total", activity="other") >= 800


def test_a_reason_that_nobody_foresaw_is_other() -> None:
    """What a record of another version gives as its reason does not become a label."""
    metrics.know(["known"])
    write(None, job_record("j", "known", JobState.faulted, reason="said by job 4711"))
    assert value("turnout_jobs_faulted_total", activity="known", reason="other") == 1
    assert "4711" not in page().text()


def test_the_buckets_reach_from_a_millisecond_to_a_day() -> None:
    """A job that takes a millisecond and one that takes a day fall into buckets of their own."""
    page()
    metrics.know(["buckets"])
    for seconds in (0.0005, 80_000.0):
        begun = job_record("j", "buckets", JobState.running, attempt=1, attempts=(AttemptRecord(1, 1, "n", 0.0),))
        ended = AttemptRecord(1, 1, "n", 0.0, Outcome.completed, seconds)
        write(begun, job_record("j", "buckets", JobState.completed, attempt=1, attempts=(ended,)))
    counts = {
        sample.labels["le"]: sample.value
        for sample in samples(page().text(), lambda line: 'activity="buckets"' in line)
        if sample.name == "turnout_attempt_duration_seconds_bucket"
    }
    assert (counts["0.001"], counts["43200.0"], counts["86400.0"]) == (1, 1, 2)
    assert len(counts) < 30


def test_an_odd_sdk_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """What a program's own provider raises is a warning, once; the job's write goes on."""

    class Odd(api.NoOpHistogram):
        def record(self, *_: object, **__: object) -> None:
            raise RuntimeError("odd")

    class OddMeter(api.NoOpMeter):
        def create_histogram(self, name: str, *_: object, **__: object) -> Odd:
            return Odd(name)

    wait = Histogram(metrics.QUEUE_WAIT.metric, LONG_S)
    wait.make(OddMeter("odd"))
    wait.record(1.0, ("a",))
    wait.record(1.0, ("a",))
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["WARNING"]


def test_queues_and_nodes_are_told_while_they_are_watched() -> None:
    """What several supervisors or workers of a process tell is added up; what is over is told no more."""
    limits = {"api": metrics.LimitUse(2, 7)}
    metrics.know(["watched"])
    use = metrics.NodeUse({"watched": 2, "idle": 0}, 5)
    forgets = [
        metrics.watch_node("n-1", lambda: use),
        metrics.watch_queues(lambda: {"watched": metrics.QueueState(3, 60.0)}),
        metrics.watch_queues(lambda: {"watched": metrics.QueueState(4, 20.0)}),
        metrics.watch_limits(lambda: limits),
        metrics.watch_limits(lambda: limits),
    ]
    assert value("turnout_limit_held", limit="api") == 4
    assert value("turnout_limit_waiting", limit="api") == 14
    assert value("turnout_jobs_running", activity="watched", node="n-1") == 2
    assert value("turnout_node_slots", node="n-1", state="used") == 2
    assert value("turnout_node_slots", node="n-1", state="free") == 3
    assert value("turnout_queue_depth", activity="watched") == 7
    assert value("turnout_queue_oldest_age_seconds", activity="watched") == 60
    for forget in forgets:
        forget()
    assert not [key for key in read(page().text()) if ("activity", "watched") in key[1] and "queue_depth" in key[0]]
    assert 'node="n-1"' not in page().text()
    assert 'limit="api"' not in page().text()


SDK_OF_A_PROGRAM = """
from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from turnout.core.changes import changes
from turnout.core.record import JobRecord, JobState
from turnout.core.spec import JobSpec
from turnout.telemetry import metrics
from turnout.telemetry.on_saved import on_saved

metrics.know(["mine"])
record = JobRecord(JobSpec("j", "mine"), JobState.cancelled)
on_saved(None, record, changes(None, record), str)                    # nobody listens: not counted
assert not metrics.CANCELLED.read() and not metrics.look()
metrics.submitted("mine")                      # counted at any rate, it costs nothing
reader = InMemoryMetricReader()
api.set_meter_provider(MeterProvider([reader]))
assert metrics.look()
on_saved(None, record, changes(None, record), str)
metrics.woke("n", 0.2)
found = {
    metric.name: metric.data.data_points[0]
    for resource in reader.get_metrics_data().resource_metrics
    for scope in resource.scope_metrics
    for metric in scope.metrics
}
assert found["turnout.jobs.submitted"].value == 1, found
assert found["turnout.jobs.cancelled"].value == 1
assert found["turnout.event_loop.lag"].count == 1
assert dict(found["turnout.jobs.cancelled"].attributes) == {"activity": "mine"}
import sys
assert "prometheus_client" not in sys.modules
"""


def test_a_programs_own_sdk_gets_them_all() -> None:
    """A provider that the program sets up after turnout was imported gets every metric, and nothing else is set up."""
    subprocess.run([sys.executable, "-c", SDK_OF_A_PROGRAM], check=True, timeout=60)


def test_nothing_of_an_sdk_is_imported_for_it() -> None:
    """A program that imports turnout, and watches nothing, carries no SDK and no Prometheus."""
    code = (
        "import turnout.node, turnout.supervisor.supervisor, sys;"
        "assert not [m for m in sys.modules if m.startswith(('opentelemetry.sdk.metrics', 'prometheus_client'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
