"""What a job logs is in its trace."""

from __future__ import annotations

import logging
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from turnout import Client, JobContextFilter, RetryPolicy, activity, current_job
from turnout.worker.log_buffer import EVENTS_MAX

ONCE = RetryPolicy.none()


@activity(retry=ONCE)
async def says(lines: int) -> None:
    for n in range(lines):
        current_job().log.warning("line %d", n)


@activity(retry=ONCE)
async def spans_inside() -> None:
    current_job().log.info("outside")
    with trace.get_tracer("user").start_as_current_span("inside"):
        current_job().log.info("inside")
        logging.getLogger("some.library").info("inside")


def attempt_of(spans: InMemorySpanExporter) -> ReadableSpan:
    [span] = [span for span in spans.get_finished_spans() if span.kind is SpanKind.CONSUMER]
    return span


async def test_lines_are_events_of_the_attempts_span(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter
) -> None:
    """Each line is an event with its level and message, up to a bound; what is beyond it is kept all the same."""
    async with turnout_worker(says):
        handle = await turnout_client.submit(says, lines=EVENTS_MAX + 10)
        await handle.result(timeout=30)
    events = [event for event in attempt_of(spans).events if event.name == "log"]
    assert [dict(event.attributes or {}) for event in events] == [
        {"level": "WARNING", "message": f"line {n}"} for n in range(EVENTS_MAX)
    ]
    assert len(await handle.logs()) == EVENTS_MAX + 10


async def test_a_line_carries_the_span_that_is_current(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter
) -> None:
    """A line inside a span of the user carries that span, any other the attempt's; the trace is the same."""
    records: list[logging.LogRecord] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, root = Kept(), logging.getLogger()
    handler.addFilter(JobContextFilter())
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        async with turnout_worker(spans_inside):
            handle = await turnout_client.submit(spans_inside)
            await handle.result(timeout=30)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    [inside] = [span for span in spans.get_finished_spans() if span.name == "inside"]
    attempt = attempt_of(spans)
    assert inside.context is not None
    assert attempt.context is not None
    of_it = [r for r in records if r.__dict__["turnout_job"] == handle.id]
    inner = [r for r in of_it if r.name != "turnout.attempts"]  # the worker's own
    found = [(r.getMessage(), r.__dict__["span_id"]) for r in inner]
    of = {"outside": f"{attempt.context.span_id:016x}", "inside": f"{inside.context.span_id:016x}"}
    assert found == [(message, of[message]) for message in ("outside", "inside", "inside")]
    assert {r.__dict__["trace_id"] for r in records if r.__dict__["turnout_job"]} == {(await handle.info()).trace_id}
