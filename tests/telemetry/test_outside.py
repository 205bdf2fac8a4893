"""How an attempt ended that its code has left to others is told by whoever writes that down."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.waiting import until
from turnout import Client, CompleteLater, JobCancelled, JobFaulted, RetryPolicy, activity

POLICY = RetryPolicy(max_attempts=2, delays=[0.05])


@activity(retry=POLICY)
async def ask_somebody() -> str:
    raise CompleteLater


@activity(retry=RetryPolicy.none())
async def ask_in_vain() -> str:
    raise CompleteLater(0.2)


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    found = [span for span in spans.get_finished_spans() if span.name == name]
    return sorted(found, key=lambda span: span.start_time or 0)


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def left_to_others(handle: Any, attempt: int) -> None:
    """Wait until this attempt's code is done."""

    async def left() -> bool:
        info = await handle.info()
        return info.state == "running" and info.attempt == attempt and info.node is None

    await until(left)


async def test_each_end_is_told_below_its_attempt(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter
) -> None:
    """A failure that is retried, and the result then: in the job's trace, each once, with the attempt's own times."""
    async with turnout_worker(ask_somebody):
        handle = await turnout_client.submit(ask_somebody)
        await left_to_others(handle, 1)
        await handle.fail("nobody at home")
        await left_to_others(handle, 2)
        with trace.get_tracer("user").start_as_current_span("elsewhere"):
            await handle.complete("yes")
        assert await handle.result(timeout=30) == "yes"

        async def told() -> bool:
            return len(named(spans, "run ask_somebody")) == 2

        await until(told)
    codes, ends = named(spans, "run ask_somebody"), named(spans, "outside ask_somebody")
    info = await handle.info()
    assert len(ends) == 2
    for code, end, attempt in zip(codes, ends, info.attempts, strict=True):
        assert (end.kind, code.kind) == (SpanKind.INTERNAL, SpanKind.CONSUMER)
        assert end.parent is not None
        assert (end.parent.span_id, end.context.trace_id) == (code.context.span_id, int(info.trace_id, 16))
        assert attempt.ended_at is not None
        times = [attempt.started_at.timestamp(), attempt.ended_at.timestamp()]
        assert [(end.start_time or 0) / 1e9, (end.end_time or 0) / 1e9] == pytest.approx(times, abs=1e-3)
        assert facts(code)["turnout.attempt.outcome"] == "running"
        assert facts(end)["turnout.job.attempt"] == attempt.number
    failed, completed = ends
    assert [facts(each)["turnout.attempt.outcome"] for each in ends] == ["faulted", "completed"]
    assert [facts(each)["turnout.job.state"] for each in ends] == ["retrying", "completed"]
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "nobody at home")
    assert [event.name for event in failed.events] == ["exception", "retry"]
    assert completed.status.status_code is not StatusCode.ERROR


async def test_silence_and_a_cancel_are_told_as_well(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter
) -> None:
    """One of which nothing was heard is an error, one that is cancelled is none."""
    async with turnout_worker(ask_somebody, ask_in_vain):
        vain, cancelled = await turnout_client.submit(ask_in_vain), await turnout_client.submit(ask_somebody)
        await left_to_others(cancelled, 1)
        await cancelled.cancel("never mind")
        with pytest.raises(JobCancelled):
            await cancelled.result(timeout=30)
        with pytest.raises(JobFaulted):
            await vain.result(timeout=60)
    [silent], [stopped] = named(spans, "outside ask_in_vain"), named(spans, "outside ask_somebody")
    assert (facts(silent)["turnout.attempt.outcome"], facts(silent)["error.type"]) == ("timed_out", "TimeoutError")
    assert silent.status.status_code is StatusCode.ERROR
    assert facts(stopped)["turnout.attempt.outcome"] == "cancelled"
    assert stopped.status.status_code is not StatusCode.ERROR
