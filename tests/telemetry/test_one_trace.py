"""One trace for each job, whatever became of its attempts. A real SDK, a real server."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.rawsocket import raw_publish
from tests.support.waiting import until
from turnout import Client, JobNotFound, RetryPolicy, activity, current_job
from turnout.testing import NatsServer


@activity(retry=RetryPolicy(max_attempts=3, delay=0.05))
async def third_time() -> int:
    with trace.get_tracer("user").start_as_current_span("inside"):
        if current_job().attempt < 3:
            raise ValueError("not yet")
    return current_job().attempt


def of_kind(spans: InMemorySpanExporter, kind: SpanKind) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.kind is kind]


async def test_every_attempt_is_a_child_of_the_submitter_and_linked_to_the_one_before(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter
) -> None:
    """One PRODUCER span, one CONSUMER span an attempt, all in one trace; failures are errors, user spans are inside."""
    async with turnout_worker(third_time):
        handle = await turnout_client.submit(third_time)
        assert await handle.result(timeout=30) == 3
    [submit] = of_kind(spans, SpanKind.PRODUCER)
    attempts = of_kind(spans, SpanKind.CONSUMER)
    info = await handle.info()
    assert submit.context is not None
    assert {f"{span.context.trace_id:032x}" for span in spans.get_finished_spans() if span.context} == {info.trace_id}
    assert [span.attributes["turnout.job.attempt"] for span in attempts if span.attributes] == [1, 2, 3]
    assert {span.parent.span_id for span in attempts if span.parent} == {submit.context.span_id}
    linked = [[link.context.span_id for link in span.links] for span in attempts]
    assert linked == [[], [attempts[0].context.span_id], [attempts[1].context.span_id]]
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    inside = [span for span in spans.get_finished_spans() if span.name == "inside"]
    assert [span.parent.span_id for span in inside if span.parent] == [
        span.context.span_id for span in attempts if span.context
    ]


async def test_the_attempts_of_a_bare_job_agree_on_a_trace(
    turnout_client: Client, turnout_worker: Any, nats_server: NatsServer, spans: InMemorySpanExporter
) -> None:
    """Without any header the trace derives from the job's identity, which every node knows."""
    raw_publish(nats_server.url, f"{turnout_client.namespace}.jobs.third_time", b"", {"Nats-Msg-Id": "bare"})
    handle = turnout_client.job("bare", third_time)

    async def there() -> bool:
        try:
            return bool(await handle.info())
        except JobNotFound:
            return False

    await until(there)
    async with turnout_worker(third_time):
        assert await handle.result(timeout=30) == 3
    attempts = of_kind(spans, SpanKind.CONSUMER)
    assert len(attempts) == 3
    assert {f"{span.context.trace_id:032x}" for span in attempts if span.context} == {(await handle.info()).trace_id}
    assert len({span.parent.span_id for span in attempts if span.parent}) == 1
