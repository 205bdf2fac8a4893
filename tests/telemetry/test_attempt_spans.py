"""What the span of an attempt tells: its attributes, its links, its events, and what counts as an error."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode
from pydantic import BaseModel

from tests.support.waiting import until
from turnout import Client, JobCancelled, JobFaulted, RetryPolicy, activity, current_job
from turnout.core.failure import LEASE_LOST
from turnout.core.record import Progress
from turnout.telemetry import attempts
from turnout.telemetry.attempts import Recorded
from turnout.telemetry.spans import submitting

gates: dict[str, asyncio.Event] = {}


@activity(retry=RetryPolicy(max_attempts=2, delays=[0.25]))
async def second_time() -> int:
    if current_job().attempt % 2:
        raise ValueError("not yet")
    return current_job().attempt


@activity(retry=RetryPolicy.none())
async def ends(how: str = "", key: str = "") -> None:
    job = current_job()
    if key:
        job.progress(1, 10)
        await gates[key].wait()
    if how == "checkpoint":
        await job.checkpoint({"at": 12})
    if how == "fail":
        raise RuntimeError("broken")


@activity(timeout=0.2, retry=RetryPolicy.none())
async def slow() -> None:
    await asyncio.Event().wait()


def of_kind(spans: InMemorySpanExporter, kind: SpanKind) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.kind is kind]


async def attempts_of(spans: InMemorySpanExporter, count: int) -> list[ReadableSpan]:
    """The CONSUMER spans, when there are so many: a span ends a little after its job's record."""

    async def all_there() -> list[ReadableSpan] | None:
        found = of_kind(spans, SpanKind.CONSUMER)
        return found if len(found) >= count else None

    found = await until(all_there)
    assert found is not None
    assert len(found) == count
    return found


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def events(span: ReadableSpan) -> dict[str, dict[str, Any]]:
    return {event.name: dict(event.attributes or {}) for event in span.events}


async def test_spans_carry_what_the_conventions_and_turnout_name(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter
) -> None:
    """Submit and attempt: system, operation, destination, id, consumer; job, attempt, state, counters, wait, node."""
    async with turnout_worker(second_time, name="w") as worker:
        handle = await turnout_client.submit(second_time)
        await handle.result(timeout=30)
        first, second = await attempts_of(spans, 2)
    [submit] = of_kind(spans, SpanKind.PRODUCER)
    subject = f"{turnout_client.namespace}.jobs.second_time"
    assert facts(submit) == {
        "messaging.system": "nats",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": subject,
        "messaging.message.id": handle.id,
        "turnout.job.id": handle.id,
        "turnout.job.activity": "second_time",
    }
    common = {
        "messaging.system": "nats",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": subject,
        "messaging.consumer.group.name": "second_time",
        "messaging.message.id": handle.id,
        "turnout.job.id": handle.id,
        "turnout.job.activity": "second_time",
        "turnout.job.failures": 1,
        "turnout.node.id": worker.id,
    }
    waits = [facts(span).pop("turnout.job.queue_wait") for span in (first, second)]
    assert all(0 <= wait < 5 for wait in waits)
    assert facts(first) == {
        **common,
        "turnout.job.attempt": 1,
        "turnout.job.state": "retrying",
        "turnout.attempt.outcome": "faulted",
        "turnout.job.queue_wait": waits[0],
        "error.type": "ValueError",
    }
    assert facts(second) == {
        **common,
        "turnout.job.attempt": 2,
        "turnout.job.state": "completed",
        "turnout.attempt.outcome": "completed",
        "turnout.job.queue_wait": waits[1],
    }
    assert events(first)["retry"] == {"turnout.retry.delay": pytest.approx(0.25, rel=0.2), "turnout.job.failures": 1}
    assert events(first)["exception"]["exception.type"] == "ValueError"
    assert events(first)["exception"]["exception.message"] == "not yet"
    assert "second_time" in events(first)["exception"]["exception.stacktrace"]
    assert not second.events


async def test_many_jobs_of_one_submit_are_counted(turnout_client: Client, spans: InMemorySpanExporter) -> None:
    """One PRODUCER span says how many there are, and names none of them."""
    await turnout_client.submit_many(ends, [{}, {}, {}])
    [submit] = of_kind(spans, SpanKind.PRODUCER)
    assert facts(submit)["messaging.batch.message_count"] == 3
    assert "turnout.job.id" not in facts(submit)


def test_a_submit_that_fails_is_an_error(spans: InMemorySpanExporter) -> None:
    """It shows in the submitter's trace, by the error's type."""

    def refused() -> None:
        with submitting("ends", "b", "turnout.jobs.ends"):
            raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        refused()
    failed = of_kind(spans, SpanKind.PRODUCER)[-1]
    assert failed.status.status_code is StatusCode.ERROR
    assert facts(failed)["error.type"] == "ValueError"


@pytest.mark.parametrize(
    ("how", "outcome", "error"),
    [
        ("fail", "faulted", "RuntimeError"),
        ("cancel", "cancelled", None),
        ("abort", "aborted", None),
        ("", "completed", None),
    ],
)
async def test_only_failures_are_errors(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter, how: str, outcome: str, error: str | None
) -> None:
    """A fault has ERROR and error.type; a cancel and an abort did as they were told, and say so in an event."""
    key = turnout_client.namespace
    gates[key] = asyncio.Event()
    worker = await turnout_worker(ends)
    handle = await turnout_client.submit(ends, how, key)

    async def runs() -> bool:
        return (await handle.info()).state == "running"

    await until(runs)
    match how:
        case "cancel":
            await handle.cancel("no longer wanted")
            with pytest.raises(JobCancelled):
                await handle.result(timeout=30)
        case "abort":
            await worker.stop(grace=0)
        case _:
            gates[key].set()
    [span] = await attempts_of(spans, 1)
    assert facts(span)["turnout.attempt.outcome"] == outcome
    assert facts(span).get("error.type") == error
    assert (span.status.status_code is StatusCode.ERROR) == (error is not None)
    if how == "cancel":
        assert events(span)["cancel requested"] == {"turnout.reason": "no longer wanted"}
        assert facts(span)["turnout.job.state"] == "cancelled"
    if how == "abort":
        assert events(span)["abort requested"] == {"turnout.reason": "node_stopping"}
        assert facts(span)["turnout.job.state"] == "queued"


async def test_a_timeout_is_an_error(turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter) -> None:
    """Its type is TimeoutError, and its outcome timed_out."""
    async with turnout_worker(slow):
        with pytest.raises(JobFaulted):
            await (await turnout_client.submit(slow)).result(timeout=30)
        [span] = await attempts_of(spans, 1)
    assert (facts(span)["turnout.attempt.outcome"], facts(span)["error.type"]) == ("timed_out", "TimeoutError")
    assert span.status.status_code is StatusCode.ERROR
    assert {"timeout", "exception"} <= set(events(span))


async def test_checkpoints_and_progress_are_events(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter
) -> None:
    """A checkpoint with its size in bytes, progress with how far it is."""
    key = turnout_client.namespace
    gates[key] = asyncio.Event()
    gates[key].set()
    async with turnout_worker(ends):
        await (await turnout_client.submit(ends, "checkpoint", key)).result(timeout=30)
        [span] = await attempts_of(spans, 1)
    assert events(span) == {
        "progress": {"turnout.progress.done": 1, "turnout.progress.total": 10},
        "checkpoint": {"turnout.checkpoint.size": len('{"at":12}')},
    }


async def test_a_delayed_job_links_to_who_scheduled_it(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter
) -> None:
    """Its first attempt does; how long the delay was is no waiting."""
    async with turnout_worker(second_time):
        handle = await turnout_client.submit(second_time.options(delay=1.0))
        await handle.result(timeout=30)
        first, second = await attempts_of(spans, 2)
        info = await handle.info()
    [submit] = of_kind(spans, SpanKind.PRODUCER)
    assert links(first) == [(id_of(submit), "scheduled_by")]
    assert links(second) == [(id_of(first), "previous_attempt")]
    since_submission = (info.attempts[0].started_at - info.submitted_at).total_seconds()
    assert facts(first)["turnout.job.queue_wait"] <= since_submission - 0.95


async def test_a_retried_job_links_to_the_life_before(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter
) -> None:
    """The retry is a PRODUCER span in its caller's own trace, linked to the job's; the attempts stay in the job's."""
    async with turnout_worker(ends):
        handle = await turnout_client.submit(ends, "fail")
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
        [before] = await attempts_of(spans, 1)
        with trace.get_tracer("user").start_as_current_span("operator") as operator:
            await handle.retry()
        with pytest.raises(JobFaulted):
            await handle.result(timeout=30)
        _, after = await attempts_of(spans, 2)
    retry = of_kind(spans, SpanKind.PRODUCER)[-1]
    assert retry.name == "retry ends"
    assert retry.context is not None
    assert retry.parent is not None
    assert retry.parent.span_id == operator.get_span_context().span_id
    assert links(retry) == [(id_of(before), "replay_of")]
    assert links(after) == [(id_of(before), "replay_of")]
    assert after.context is not None
    assert before.context is not None
    assert after.context.trace_id == before.context.trace_id != retry.context.trace_id


async def test_a_long_attempt_shows_before_its_end(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a second a short INTERNAL span, a child of the attempt's and with its attributes; a quick one has none."""
    monkeypatch.setattr(attempts, "START_AFTER_S", 0.1)
    key = turnout_client.namespace
    gates[key] = asyncio.Event()
    async with turnout_worker(ends, name="w") as worker:
        handle = await turnout_client.submit(ends, "", key)

        async def shown() -> list[ReadableSpan]:
            return of_kind(spans, SpanKind.INTERNAL)

        [start] = await until(shown)
        assert not of_kind(spans, SpanKind.CONSUMER)
        gates[key].set()
        await handle.result(timeout=30)
        [span] = await attempts_of(spans, 1)
    assert start.name == "start ends"
    assert start.parent is not None
    assert start.parent.span_id == id_of(span)
    assert start.start_time == span.start_time
    told = {key: value for key, value in facts(start).items() if key.startswith("turnout.")}
    assert told == {
        "turnout.job.id": handle.id,
        "turnout.job.activity": "ends",
        "turnout.job.attempt": 1,
        "turnout.job.state": "running",
        "turnout.job.queue_wait": facts(span)["turnout.job.queue_wait"],
        "turnout.node.id": worker.id,
    }


class Noting(trace.NonRecordingSpan):
    """A span that remembers its events."""

    def __init__(self) -> None:
        super().__init__(INVALID_SPAN.get_span_context())
        self.noted: list[tuple[str, Any]] = []

    def is_recording(self) -> bool:
        return True

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        self.noted.append((name, attributes))


def recorded() -> tuple[Noting, Recorded]:
    span = Noting()
    return span, Recorded(span, trace.set_span_in_context(span), None, {}, 0)


def test_progress_with_a_total_makes_an_event_for_each_tenth() -> None:
    """However often the code reports, and even if it goes back and forth, there are eleven at most."""
    span, told = recorded()
    for done in range(10_001):
        told.progress(Progress(done, 10_000))
    for done in (0, 5_000, 10_000, -5, 99_999):
        told.progress(Progress(done, 10_000))
    assert [attributes["turnout.progress.done"] for _, attributes in span.noted] == list(range(0, 10_001, 1_000))


def test_progress_without_a_total_makes_few_events() -> None:
    """One in ten seconds, with its message."""
    span, told = recorded()
    for done in range(1000):
        told.progress(Progress(done, None, "going"))
    assert span.noted == [("progress", {"turnout.progress.done": 0, "turnout.progress.message": "going"})]


def test_lease_trouble_is_told() -> None:
    """An extension that nobody answered for long, and a lease that is lost."""
    span, told = recorded()
    told.lease_unconfirmed(31.5)
    told.asked_to_stop(LEASE_LOST)
    assert [name for name, _ in span.noted] == ["lease unconfirmed", "lease lost"]


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def links(span: ReadableSpan) -> list[tuple[int, Any]]:
    return [(link.context.span_id, (link.attributes or {})["turnout.link"]) for link in span.links]


class Login(BaseModel):
    user: str
    age: int


@activity(retry=RetryPolicy.none())
async def log_in(login: Login, times: int = 1) -> None:
    Login.model_validate({"user": login.user, "age": login.user})


SECRET = "tr0ub4dor"


@pytest.mark.parametrize("login", [{"user": "ann", "age": SECRET}, {"user": SECRET, "age": 1}], ids=["payload", "code"])
async def test_what_does_not_fit_is_in_no_span(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter, login: dict[str, Any]
) -> None:
    """A payload that is refused, and a model of the code that refuses one, may hold a secret."""
    handle = await turnout_client.submit("log_in", {"login": login})
    async with turnout_worker(log_in):
        with pytest.raises(JobFaulted) as caught:
            await handle.result(timeout=30)
    [attempt] = await attempts_of(spans, 1)
    told = events(attempt)["exception"]
    assert told["exception.type"]
    assert SECRET not in f"{facts(attempt)} {events(attempt)} {caught.value}"
