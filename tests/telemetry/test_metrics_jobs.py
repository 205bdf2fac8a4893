"""Metrics of real jobs: each way for a job to go moves its own counts, and no others."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import until
from tests.telemetry.test_metrics import EXPORTER_LABELS, prometheus_name, samples, value
from turnout import Client, Fatal, JobCancelled, JobFaulted, RetryPolicy, Worker, activity, current_job, workflow
from turnout.core.failure import FaultReason
from turnout.core.record import Outcome
from turnout.nats.connection import Connection, ConnectOptions
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions
from turnout.telemetry import metrics, workflow_metrics
from turnout.telemetry.counts import OTHER
from turnout.telemetry.metrics_page import page
from turnout.testing.server import NatsServer

OUTCOMES = {*Outcome, *workflow_metrics.OUTCOMES, *workflow_metrics.VERDICTS, *get_args(workflow_metrics.Answered)}

TWICE = RetryPolicy(max_attempts=2, delay=0.05)


@pytest.fixture(autouse=True)
def _served() -> None:
    """From here on everything is counted."""
    page()


def moved(name: str) -> dict[str, float]:
    """What has been counted of an activity, without what is zero; histograms by their counts.

    How long its queue is was measured some time ago, and is left out.
    """
    found: dict[str, float] = {}
    for sample in samples(page().text(), lambda line: f'activity="{name}"' in line and "_bucket{" not in line):
        labels = {k: v for k, v in sample.labels.items() if k not in EXPORTER_LABELS and k not in ("activity", "node")}
        if sample.value and not sample.name.endswith(("_sum", "queue_depth", "oldest_age_seconds")):
            short = sample.name.removeprefix("turnout_").removesuffix("_total")
            found[" ".join([short, *labels.values()])] = sample.value
    return found


async def settles(name: str, expected: dict[str, float]) -> None:
    """A job's result may be there a moment before its worker has counted it."""

    async def counted() -> bool:
        return moved(name) == expected

    with contextlib.suppress(TimeoutError):
        await until(counted, 30)
    assert moved(name) == expected


async def test_a_job_that_completes(turnout_client: Client, turnout_worker: Any) -> None:
    """Submitted, started, completed, each once; one duration and one wait."""

    @activity
    async def counts_completed() -> None: ...

    async with turnout_worker(counts_completed):
        await (await turnout_client.submit(counts_completed)).result(timeout=30)
        await settles(
            "counts_completed",
            {
                "jobs_submitted": 1,
                "attempts_started": 1,
                "jobs_completed": 1,
                "attempt_duration_seconds_count completed": 1,
                "queue_wait_seconds_count": 1,
            },
        )


async def test_many_jobs_at_once(turnout_client: Client, turnout_worker: Any) -> None:
    """`submit_many` counts each of its jobs, with ids of one's own as well; joining one that exists counts nothing."""

    @activity
    async def counts_many() -> None: ...

    async with turnout_worker(counts_many):
        handles = await turnout_client.submit_many(counts_many, [{}] * 30)
        handles += await turnout_client.submit_many(counts_many, [{}] * 2, ids=["one", "two"])
        await turnout_client.submit(counts_many.options(id="one", if_exists="join"))
        await turnout_client.submit(counts_many.options(delay=3600))
        for handle in handles:
            await handle.result(timeout=30)
        await settles(
            "counts_many",
            {
                "jobs_submitted": 33,
                "attempts_started": 32,
                "jobs_completed": 32,
                "attempt_duration_seconds_count completed": 32,
                "queue_wait_seconds_count": 32,
            },
        )


async def test_a_job_of_a_workflow(turnout_client: Client) -> None:
    """Whoever submits it for the workflow counts it as a client counts its own, once; a local activity is no job."""

    @activity
    async def counts_asked() -> None: ...

    @workflow
    async def asks() -> None:
        await counts_asked()
        await counts_asked.options(local=True)()

    async with Worker(turnout_client, activities=[counts_asked], workflows=[asks]):
        await (await turnout_client.start(asks)).result(timeout=60)
        await settles(
            "counts_asked",
            {
                "jobs_submitted": 1,
                "attempts_started": 1,
                "jobs_completed": 1,
                "attempt_duration_seconds_count completed": 1,
                "queue_wait_seconds_count": 1,
            },
        )


@pytest.mark.parametrize(
    ("error", "reason", "attempts"),
    [(ValueError("no"), "failed", 2), (Fatal("never"), "fatal", 1), (TimeoutError("its own"), "failed", 2)],
)
async def test_a_job_that_fails(
    turnout_client: Client, turnout_worker: Any, error: Exception, reason: str, attempts: int
) -> None:
    """A failure that is retried is one, and the last one makes a fault with its reason."""
    name = f"counts_{type(error).__name__}"

    @activity(name=name, retry=TWICE)
    async def fails() -> None:
        raise error

    async with turnout_worker(fails):
        with pytest.raises(JobFaulted):
            await (await turnout_client.submit(fails)).result(timeout=30)
        expected = {
            "jobs_submitted": 1,
            "attempts_started": attempts,
            "attempts_retried": attempts - 1,
            f"jobs_faulted {reason}": 1,
            "attempt_duration_seconds_count faulted": attempts,
            "queue_wait_seconds_count": attempts,
        }
        await settles(name, {key: count for key, count in expected.items() if count})


async def test_a_job_that_takes_too_long(turnout_client: Client, turnout_worker: Any) -> None:
    """A timeout is an outcome, and a reason, of its own."""

    @activity(timeout=0.1, retry=RetryPolicy.none())
    async def counts_timeout() -> None:
        await asyncio.sleep(60)

    async with turnout_worker(counts_timeout):
        with pytest.raises(JobFaulted):
            await (await turnout_client.submit(counts_timeout)).result(timeout=30)
        await settles(
            "counts_timeout",
            {
                "jobs_submitted": 1,
                "attempts_started": 1,
                "jobs_faulted timed_out": 1,
                "attempt_duration_seconds_count timed_out": 1,
                "queue_wait_seconds_count": 1,
            },
        )


async def test_a_bare_publish_that_can_not_be_read(turnout_client: Client, turnout_worker: Any) -> None:
    """It is faulted without a submission of ours, for its payload."""

    @activity
    async def counts_invalid(number: int) -> None: ...

    async with turnout_worker(counts_invalid):
        store = turnout_client.store
        await store.connection.store(store.names.bare("counts_invalid"), b'{"number": "x"}')

        async def ended() -> bool:
            return "jobs_faulted invalid_payload" in moved("counts_invalid")

        await until(ended)
        assert "jobs_submitted" not in moved("counts_invalid")


async def test_jobs_that_are_cancelled(turnout_client: Client, turnout_worker: Any) -> None:
    """One that waits and one that runs both count as cancelled, and as nothing else."""
    running = asyncio.Event()

    @activity
    async def counts_cancelled() -> None:
        running.set()
        await asyncio.sleep(60)

    waiting = await turnout_client.submit(counts_cancelled)
    await waiting.cancel("before")
    async with turnout_worker(counts_cancelled):
        handle = await turnout_client.submit(counts_cancelled)
        await asyncio.wait_for(running.wait(), 30)
        assert moved("counts_cancelled")["jobs_running"] == 1
        await handle.cancel("while it runs")
        with pytest.raises(JobCancelled):
            await handle.result(timeout=30)

        await settles(
            "counts_cancelled",
            {
                "jobs_submitted": 2,
                "attempts_started": 1,
                "jobs_cancelled": 2,
                "attempt_duration_seconds_count cancelled": 1,
                "queue_wait_seconds_count": 1,
            },
        )


async def test_a_job_whose_node_is_stopped(turnout_client: Client, turnout_worker: Any) -> None:
    """The attempt is aborted, which is no failure; the next one completes."""
    running = asyncio.Event()

    @activity
    async def counts_aborted() -> None:
        running.set()
        if current_job().attempt == 1:
            await asyncio.sleep(60)

    async with turnout_worker(counts_aborted) as first:
        handle = await turnout_client.submit(counts_aborted)
        await asyncio.wait_for(running.wait(), 30)
        await first.stop(grace=0)
        shown = [line for line in page().text().splitlines() if f'node="{first.id}"' in line]
        assert not [line for line in shown if "event_loop" not in line]
    async with turnout_worker(counts_aborted):
        await handle.result(timeout=30)
        await settles(
            "counts_aborted",
            {
                "jobs_submitted": 1,
                "attempts_started": 2,
                "attempts_aborted": 1,
                "jobs_completed": 1,
                "attempt_duration_seconds_count aborted": 1,
                "attempt_duration_seconds_count completed": 1,
                "queue_wait_seconds_count": 2,
            },
        )


async def test_labels_are_those_that_are_declared(turnout_client: Client, turnout_worker: Any) -> None:
    """No job's id is anywhere on the page, labels are the declared ones, and their values of closed sets."""

    @activity(retry=TWICE)
    async def counts_labels(fail: bool) -> None:
        if fail:
            raise ValueError(current_job().id)

    async with turnout_worker(counts_labels):
        handles = await turnout_client.submit_many(counts_labels, [{"fail": i % 2 == 0} for i in range(6)])
        for handle in handles:
            with_fault = asyncio.ensure_future(handle.result(timeout=30))
            await asyncio.wait({with_fault})
            with_fault.exception()
        text = page().text()
    for handle in handles:
        assert handle.id not in text
    declared = {prometheus_name(metric): set(metric.labels) for metric in metrics.METRICS}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name
            for suffix in ("_bucket", "_sum", "_count"):
                name = name if name in declared else name.removesuffix(suffix)
            assert set(sample.labels) - EXPORTER_LABELS == declared[name], sample
            if "outcome" in sample.labels:
                assert sample.labels["outcome"] in OUTCOMES
            if name == "turnout_jobs_faulted_total":
                assert sample.labels["reason"] in {*FaultReason, OTHER}


async def test_leases_are_extended_and_conflicts_counted(turnout_client: Client, turnout_worker: Any) -> None:
    """A job that outlives a third of its lease has it extended; a cancel beside a report is a lost compare-and-set."""
    extensions, conflicts = value("turnout_lease_extensions_total"), value("turnout_registry_conflicts_total")

    @activity(lease=1)
    async def counts_leases() -> None:
        for _ in range(200):
            await asyncio.sleep(0.1)

    async with turnout_worker(counts_leases):
        handle = await turnout_client.submit(counts_leases)

        async def extended() -> bool:
            return value("turnout_lease_extensions_total") >= extensions + 2

        await until(extended)
        await handle.cancel()
        with pytest.raises(JobCancelled):
            await handle.result(timeout=30)
        store = turnout_client.store
        loaded = await store.registry.load("counts_leases", handle.id)
        assert loaded.record is not None
        with pytest.raises(Exception, match="has changed"):
            await store.registry.save(loaded.record, loaded.revision - 1)
        assert value("turnout_registry_conflicts_total") > conflicts


async def test_a_connection_that_comes_back() -> None:
    """A lost connection that is there again is one reconnect."""
    with NatsServer() as server:
        connection = await Connection.open(ConnectOptions(servers=(server.url,)), name="test")
        before = value("turnout_connection_reconnects_total")
        server.restart()
        await connection.wait_up(timeout_s=30)

        async def again() -> bool:
            return value("turnout_connection_reconnects_total") == before + 1

        await until(again)
        await connection.close()


async def test_a_blocked_loop_shows_as_lag(turnout_client: Client, turnout_worker: Any) -> None:
    """Code that blocks the event loop for a second makes one wake-up late by about as much."""
    import time

    @activity
    async def counts_lag() -> None:
        time.sleep(1.0)

    async with turnout_worker(counts_lag) as worker:
        await (await turnout_client.submit(counts_lag)).result(timeout=30)

        async def late() -> bool:
            return value("turnout_event_loop_lag_seconds_sum", node=worker.id) > 0.6

        await until(late)


async def test_one_supervisor_tells_how_long_the_queues_are(turnout_client: Client, turnout_worker: Any) -> None:
    """Jobs with and without an id, that nobody has been handed, are counted by the one that acts; not by another."""

    @activity
    async def counts_queue() -> None: ...

    worker: Worker = await turnout_worker(counts_queue)
    await worker.stop()
    await turnout_client.submit_many(counts_queue, [{}] * 3)
    store = turnout_client.store
    await store.connection.store(store.names.bare("counts_queue"), b"{}")
    options = SupervisorOptions(liveness_ttl=5.0, sweep_every=0.5, look_every=0.1)
    two = [
        Supervisor(turnout_client.connect_options, store.names, name=name, options=options) for name in ("one", "two")
    ]
    tasks = [asyncio.create_task(supervisor.run()) for supervisor in two]

    async def told() -> bool:
        depth = value("turnout_queue_depth", activity="counts_queue")
        assert depth in (0, 4), "two tell it"
        return depth == 4

    try:
        await until(told)
        first = value("turnout_queue_oldest_age_seconds", activity="counts_queue")

        async def older() -> bool:
            return value("turnout_queue_oldest_age_seconds", activity="counts_queue") > max(first, 1.0)

        await until(older)
        await until(told)
        async with turnout_worker(counts_queue):

            async def empty() -> bool:
                return value("turnout_queue_depth", activity="counts_queue") == 0

            await until(empty)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert 'turnout_queue_depth{activity="counts_queue"' not in page().text()
