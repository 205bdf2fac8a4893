"""One trace for a workflow, told once, whatever replays. Real processes, a collector in the test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags, set_span_in_context

from tests.support import trip as trip_story
from tests.support.otlp import OtlpReceiver
from tests.support.trip import environment, named, waits_for_the_word, working
from tests.support.waiting import until
from tests.telemetry.workflow_code import leg, trip, walk
from turnout import (
    Client,
    Fatal,
    JobFaulted,
    RetryPolicy,
    Worker,
    activity,
    current_workflow,
    workflow,
)
from turnout.testing import NatsServer


@activity
async def step() -> None:
    raise Fatal("a banana")


@workflow
async def slips() -> str:
    try:
        await step.options(local=True)()
    except JobFaulted as fault:
        return str(fault.info.error)
    return "upright"


@workflow(fail_on=(ValueError,))
async def stumbles() -> int:
    run = current_workflow().run
    if run == 1:
        raise ValueError("a stone")
    return run


async def test_a_workflow_is_one_trace_whoever_replays_it(
    nats_server: NatsServer, turnout_client: Client, tmp_path: Path
) -> None:
    """Start, runs, timers, children and every attempt hang together; a worker that replays tells nothing again."""
    with OtlpReceiver() as collector:
        env = trip_story.environment(nats_server.url, turnout_client.namespace, collector.environment)
        info = await trip_story.tell(turnout_client, env, tmp_path)
        spans = collector.of_trace(info.trace_id)
    trip_story.check(info, spans)


async def test_lines_of_workflow_code_carry_the_workflow_and_are_silent_on_replay(
    nats_server: NatsServer, turnout_client: Client, tmp_path: Path
) -> None:
    """wf.log and the program's own loggers name id, run, trace and span; a worker that replays says nothing again."""
    with OtlpReceiver() as collector:
        env = environment(nats_server.url, turnout_client.namespace, collector.environment)
        handle = await turnout_client.start("trip")
        with working(env, tmp_path / "first"):
            await until(lambda: waits_for_the_word(handle), within_s=30)
        with working(env, tmp_path / "second"):
            await handle.signal("go", "now")
            assert await handle.result(timeout=30) == 7
        info = await handle.info()
        [first, _] = named(collector.of_trace(info.trace_id), "workflow trip")
    said = {"turnout.workflow", "program"}
    lines = [
        [line for line in map(json.loads, (tmp_path / log).read_text().splitlines()) if line["logger"] in said]
        for log in ("first", "second")
    ]
    assert [[line["message"] for line in each] for each in lines] == [
        ["sets out", "a line of the program's own"],
        ["goes on"],
    ]
    for line in (*lines[0], *lines[1]):
        known = [line[name] for name in ("workflow", "workflow_name", "run", "trace_id", "span_id")]
        assert known == [handle.id, "trip", 1, info.trace_id, first.span_id]
    text = (tmp_path / "first").read_text()
    walked = [line for line in map(json.loads, text.splitlines()) if line["logger"] in {"turnout.job.walk", "strides"}]
    assert len(walked) == 2 * 5  # those of a job, of a local activity that fails once, of a job that fails once
    for line in walked:
        assert [line[name] for name in ("workflow", "workflow_name", "run", "activity")] == [
            *(handle.id, "trip", 1, "walk")
        ]


async def test_whoever_ends_a_workflow_tells_of_its_run(turnout_client: Client, spans: InMemorySpanExporter) -> None:
    """A client that terminates one without any worker tells of the run, once; who deletes it then tells nothing."""
    handle = await turnout_client.start("nobody")
    await handle.terminate("enough")
    await handle.delete()
    start, run = sorted(spans.get_finished_spans(), key=lambda span: span.name)  # the run's times are the server's
    assert [start.name, run.name] == ["start nobody", "workflow nobody"]
    assert run.parent is not None
    assert start.context is not None
    assert run.parent.span_id == start.context.span_id
    assert dict(run.attributes or {})["turnout.workflow.state"] == "terminated"
    assert run.status.status_code is not StatusCode.ERROR


async def test_a_run_that_waits_for_its_time_begins_with_it(
    turnout_client: Client, spans: InMemorySpanExporter
) -> None:
    """A delay and the pause before a retry are no timers of the code: nothing is told of a run before it begins. The
    run that failed says when the next one is due."""
    policy = RetryPolicy(max_attempts=2, delays=[0.3])
    async with Worker(turnout_client, activities=[walk], workflows=[stumbles]):
        handle = await turnout_client.start(stumbles.options(delay=0.3, retry=policy))
        assert await handle.result(timeout=30) == 2
    first, second = sorted(_named(spans, "workflow stumbles"), key=lambda span: span.start_time or 0)
    assert _named(spans, "timer") == []
    assert [event.name for event in first.events] == ["exception", "retry"]
    assert (first.events[1].attributes or {})["turnout.retry.delay"] == pytest.approx(0.3, abs=0.05)
    assert (second.start_time or 0) - (first.end_time or 0) >= 0.25e9
    assert not second.events


async def test_a_local_activity_that_fails_says_why(turnout_client: Client, spans: InMemorySpanExporter) -> None:
    """Its span has the exception as an event, with the stack, as the attempts of jobs have."""
    async with Worker(turnout_client, activities=[step], workflows=[slips]):
        assert await (await turnout_client.start(slips)).result(timeout=30) == "Fatal: a banana"
    [local] = _named(spans, "local step")
    [event] = local.events
    assert event.name == "exception"
    attributes = dict(event.attributes or {})
    assert (attributes["exception.type"], attributes["exception.message"]) == ("Fatal", "a banana")
    assert "in step" in str(attributes["exception.stacktrace"])
    assert local.status.status_code is StatusCode.ERROR


def _named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


async def test_a_workflow_of_a_trace_that_is_not_sampled_is_not_told(
    turnout_client: Client, spans: InMemorySpanExporter
) -> None:
    """What the starter has decided holds for its runs, its activities, its children and theirs."""
    unsampled = SpanContext(0xA1, 0xB2, is_remote=False, trace_flags=TraceFlags(0))
    token = attach(set_span_in_context(NonRecordingSpan(unsampled)))
    try:
        handle = await turnout_client.start(trip, run=2)
    finally:
        detach(token)
    async with Worker(turnout_client, activities=[walk], workflows=[trip, leg]):
        assert await handle.result(timeout=30) == 7
    assert (await handle.info()).trace_id == f"{0xA1:032x}"
    assert spans.get_finished_spans() == ()
