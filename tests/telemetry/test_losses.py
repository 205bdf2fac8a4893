"""An attempt whose node died has its span all the same: once, with its own id and times, and the error `lost`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.crash.activities import wait_for
from tests.crash.fleet import Fleet, Process
from tests.support.otlp import OtlpReceiver, Span
from tests.support.proxy import Proxy
from tests.support.values import changed, job_record
from tests.support.waiting import until
from turnout import Client, JobInfo, activity, current_job
from turnout.core.events import Event, Lost, Received
from turnout.core.record import AttemptRecord, Delivery, JobRecord, JobState, Policy, Token
from turnout.store.perform import Performer
from turnout.testing import NatsServer

DEAD = Token("dead-000000", 1, 1, "n")
SPAN_ID = "00f067aa0ba902b7"
TTL_S = 2.0
LATER_S = 60.0
"""When the node is found dead, after the submit."""


@activity(lease=30, max_lost=1)
async def haul() -> None:
    """Never runs here."""


async def orphan(client: Client, **changes: Any) -> tuple[JobRecord, Delivery]:
    """A job whose record says that a node runs it which does not exist, and its message."""
    with trace.get_tracer("user").start_as_current_span("caller"):
        handle = await client.submit(haul)
    found = await client.store.queue.find("haul", handle.id)
    assert found is not None
    submitted_at = found.message.time
    attempt = AttemptRecord(1, 1, DEAD.node, submitted_at + 1.0, span_id=SPAN_ID, alone=True)
    record = job_record(
        id=handle.id,
        activity="haul",
        state=JobState.running,
        submitted_at=submitted_at,
        headers=found.spec.headers,
        message=found.message,
        token=DEAD,
        attempt=1,
        attempts=(attempt,),
        rules=haul.settings.rules,
        trace_id=found.spec.trace_id,
    )
    record = changed(record, **changes)
    await client.store.registry.save(record, 0)
    return record, found


def taken_over(found: Delivery) -> Event:
    """A worker was handed the message."""
    now = found.message.time + LATER_S
    return Received(delivery=found, node="b", nonce="m", now=now, rules=Policy(), span_id="b7ad6b7169203331")


def told_by_the_supervisor(found: Delivery) -> Event:
    """A supervisor found the node's key gone."""
    return Lost(token=DEAD, now=found.message.time + LATER_S)


@pytest.mark.parametrize("event", [taken_over, told_by_the_supervisor])
async def test_whoever_counts_the_loss_tells_of_it(
    turnout_client: Client, spans: InMemorySpanExporter, event: Any
) -> None:
    """Its id and times are the record's, its parent is the submitter; one that comes second tells nothing."""
    record, found = await orphan(turnout_client)
    performer = Performer(turnout_client.store)
    for _ in range(2):
        await performer.apply("haul", record.id, event(found))
    after = (await turnout_client.store.registry.load("haul", record.id)).record
    assert after is not None
    assert after.losses == 1
    [span] = lost(spans)
    [submit] = [span for span in spans.get_finished_spans() if span.kind is SpanKind.PRODUCER]
    assert span.context is not None
    assert span.attributes is not None
    assert submit.context is not None
    assert (f"{span.context.span_id:016x}", f"{span.context.trace_id:032x}") == (SPAN_ID, record.spec.trace_id)
    assert span.parent is not None
    assert span.parent.span_id == submit.context.span_id
    ended_at = after.attempts[0].ended_at
    times = [(span.start_time or 0) / 1e9, (span.end_time or 0) / 1e9]
    assert times == pytest.approx([record.attempts[0].started_at, ended_at], abs=1e-3)
    assert span.status.status_code is StatusCode.ERROR
    assert {key: value for key, value in span.attributes.items() if not key.startswith("messaging.")} == {
        "error.type": "lost",
        "turnout.job.id": record.id,
        "turnout.job.activity": "haul",
        "turnout.job.attempt": 1,
        "turnout.job.state": "queued",
        "turnout.job.queue_wait": pytest.approx(1.0, abs=1e-3),
        "turnout.job.losses": 1,
        "turnout.attempt.outcome": "lost",
        "turnout.node.id": DEAD.node,
    }
    assert span.attributes["messaging.destination.name"] == f"{turnout_client.namespace}.jobs.haul"


async def test_the_loss_that_ends_a_job_is_told_with_its_end(
    turnout_client: Client, spans: InMemorySpanExporter
) -> None:
    """One loss too many, or a cancel that had been asked for: the state is the job's last."""
    for changes, state in (({"losses": 1}, "faulted"), ({"cancel_request": "enough"}, "cancelled")):
        spans.clear()
        record, found = await orphan(turnout_client, **changes)
        await Performer(turnout_client.store).apply("haul", record.id, told_by_the_supervisor(found))
        [span] = lost(spans)
        assert span.attributes is not None
        assert span.attributes["turnout.job.state"] == state
        assert span.status.status_code is StatusCode.ERROR


async def test_an_attempt_that_was_not_traced_gets_a_new_span(
    turnout_client: Client, spans: InMemorySpanExporter
) -> None:
    """A dead node without an SDK left no span id: the loss is in the trace all the same."""
    attempt = AttemptRecord(1, 1, DEAD.node, time.time())
    record, found = await orphan(turnout_client, attempts=(attempt,))
    await Performer(turnout_client.store).apply("haul", record.id, told_by_the_supervisor(found))
    [span] = lost(spans)
    assert span.context is not None
    assert span.context.span_id


async def test_losses_of_a_record_that_is_put_back_are_not_told_again(
    turnout_client: Client, spans: InMemorySpanExporter
) -> None:
    """A replay by the dead letter alone writes a record that has losses already."""
    record, found = await orphan(turnout_client, losses=1)
    await Performer(turnout_client.store).apply("haul", record.id, told_by_the_supervisor(found))
    assert len(lost(spans)) == 1
    loaded = await turnout_client.store.registry.load("haul", record.id)
    assert loaded.record is not None
    await turnout_client.store.registry.delete(loaded.record, loaded.revision, loaded.record.message)
    await turnout_client.job(record.id, haul).retry()
    assert len(lost(spans)) == 1


gates: dict[str, asyncio.Event] = {}


@activity(lease=2)
async def patient(key: str) -> int:
    """Its first attempt waits for its gate, whatever else it is told; the others need not."""
    attempt = current_job().attempt
    while attempt == 1 and not gates[key].is_set():
        try:
            await gates[key].wait()
        except asyncio.CancelledError:
            continue
    return attempt


async def test_who_was_cut_off_and_comes_back_ends_no_span(
    turnout_client: Client, turnout_worker: Any, nats_server: NatsServer, spans: InMemorySpanExporter
) -> None:
    """The lost attempt is told of once, by those who counted it, though its node still lives; one span an attempt."""
    key = turnout_client.namespace
    gates[key] = asyncio.Event()
    async with (
        Proxy(nats_server.port) as proxy,
        Client.connect(proxy.url, namespace=key) as cut_off,
        turnout_worker(patient, client=cut_off, name="far", liveness_ttl=TTL_S),
    ):
        handle = await turnout_client.submit(patient, key)
        await reaches(handle, lambda info: info.attempt == 1)
        async with turnout_worker(patient, name="near", liveness_ttl=TTL_S):
            await asyncio.sleep(TTL_S + 1)  # nobody calls another dead before it has been in order for a TTL
            proxy.block()
            assert await handle.result(timeout=30) == 2
            proxy.unblock()
            gates[key].set()
        far = [each for each in await turnout_client.nodes() if each.id.startswith("far")]
        assert len(far) <= 1
    attempts = [span for span in spans.get_finished_spans() if span.kind is SpanKind.CONSUMER]
    assert sorted(str((span.attributes or {})["turnout.attempt.outcome"]) for span in attempts) == ["completed", "lost"]
    numbers = [(span.attributes or {})["turnout.job.attempt"] for span in attempts]
    assert sorted(map(str, numbers)) == ["1", "2"]


async def test_a_lease_that_nobody_confirms_shows_in_the_span(
    turnout_client: Client, turnout_worker: Any, nats_server: NatsServer, spans: InMemorySpanExporter
) -> None:
    """Cut off for longer than the lease and shorter than the TTL: one event says so, and the attempt goes on."""
    key = turnout_client.namespace
    gates[key] = asyncio.Event()
    async with (
        Proxy(nats_server.port) as proxy,
        Client.connect(proxy.url, namespace=key) as cut_off,
        turnout_worker(patient, client=cut_off, liveness_ttl=30) as worker,
    ):
        handle = await turnout_client.submit(patient, key)
        await reaches(handle, lambda info: info.attempt == 1)
        proxy.block()
        await asyncio.sleep(4)  # twice the lease
        proxy.unblock()
        [attempt] = worker._runner.attempts

        async def told() -> bool:
            return any(event.name == "lease unconfirmed" for event in attempt._tracing.span.events)

        await until(told)  # it is told when the thread that keeps the leases is through again
        gates[key].set()
        assert await handle.result(timeout=30) == 1

        async def ended() -> list[ReadableSpan]:
            return lost(spans)

        [span] = await until(ended)
    [event] = [event for event in span.events if event.name == "lease unconfirmed"]
    assert event.attributes is not None
    silent_s = event.attributes["turnout.lease.unconfirmed"]
    assert isinstance(silent_s, float)
    assert silent_s > 2


class Traced(Fleet):
    """Worker processes that send their spans to a collector."""

    async def traced(self, name: str) -> Process:
        arguments = ["tests.telemetry.worker", self._url, self._namespace, name, str(TTL_S), "10"]
        return await self._spawn(name, ["-m", *arguments])


async def test_a_killed_nodes_attempt_is_one_span_that_others_hang_on(
    nats_server: NatsServer, turnout_client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL: the start span is there before, the attempt's own comes from the survivor, with its id and its error."""
    gate = tmp_path / "gate"
    with OtlpReceiver() as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        async with Traced(nats_server.url, turnout_client.namespace, tmp_path) as fleet:
            first = await fleet.traced("a")
            handle = await turnout_client.submit(wait_for, str(gate), str(tmp_path / "notes"))
            [start] = await asyncio.to_thread(collector.wait_for, lambda spans: of(spans, "start wait_for"))
            second = await fleet.traced("b")
            await first.kill()
            gate.touch()
            assert await handle.result(timeout=30) == second.node
            assert await second.terminate() == 0
        spans = of(collector.spans, "run wait_for")
        info = await handle.info()
    assert {span.trace_id for span in collector.spans} == {info.trace_id}
    dead, alive = sorted(spans, key=lambda span: span.attributes["turnout.job.attempt"])
    assert (dead.span_id, dead.error, dead.attributes["error.type"]) == (start.parent_id, True, "lost")
    assert (dead.attributes["turnout.node.id"], alive.attributes["turnout.node.id"]) == (first.node, second.node)
    assert dead.end > dead.start
    assert dead.parent_id == alive.parent_id
    assert [(link.span_id, link.attributes) for link in alive.links] == [
        (dead.span_id, {"turnout.link": "previous_attempt"})
    ]
    assert not alive.error


def lost(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.kind is SpanKind.CONSUMER]


def of(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


async def reaches(handle: Any, test: Any) -> JobInfo | None:
    async def check() -> JobInfo | None:
        info: JobInfo = await handle.info()
        return info if test(info) else None

    return await until(check, 60)
