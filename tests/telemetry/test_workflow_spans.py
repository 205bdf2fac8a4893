"""One trace for a workflow, told once, whatever replays. Real processes, a collector in the test."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags, set_span_in_context

from tests.support.otlp import OtlpReceiver, Span
from tests.support.waiting import until
from tests.telemetry.workflow_code import leg, trip, walk
from turnout import Client, Worker
from turnout.core.workflows.values import WorkflowState
from turnout.testing import NatsServer

TURNOUT = (sys.executable, "-m", "turnout")


def environment(url: str, namespace: str, collector: OtlpReceiver) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "TURNOUT_", "OTEL_"))}
    return kept | {"NATS_URL": url, "TURNOUT_NAMESPACE": namespace} | collector.environment


@contextlib.contextmanager
def working(env: dict[str, str], lines: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, whose log goes to this file."""
    command = (*TURNOUT, "worker", "tests.telemetry.workflow_code", "--log-format", "json")
    with lines.open("ab") as log:
        process = subprocess.Popen(command, env=env, stderr=log, cwd=Path(__file__).parents[2])
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)


def named(spans: list[Span], name: str) -> list[Span]:
    return sorted((span for span in spans if span.name == name), key=lambda span: span.start)


async def test_a_workflow_is_one_trace_whoever_replays_it(
    nats_server: NatsServer, turnout_client: Client, tmp_path: Path
) -> None:
    """Start, runs, timers, children and every attempt hang together; a worker that replays tells nothing again."""
    with OtlpReceiver() as collector:
        env = environment(nats_server.url, turnout_client.namespace, collector)
        handle = turnout_client.workflow("t-1")
        with working(env, tmp_path / "first"):
            subprocess.run([*TURNOUT, "workflow", "start", "trip", "--id", "t-1"], env=env, check=True, timeout=30)

            async def waits_for_the_word() -> bool:
                return [each.kind for each in (await handle.info()).waiting] == ["signal"]

            await until(waits_for_the_word, within_s=30)
        with working(env, tmp_path / "second"):
            await handle.signal("go", "now")
            assert await handle.result(timeout=30) == 7
        info = await handle.info()
        spans = collector.of_trace(info.trace_id)
    assert Counter(span.span_id for span in spans).most_common(1)[0][1] == 1
    [start] = named(spans, "start trip")
    first, second = named(spans, "workflow trip")
    legs = named(spans, "workflow leg")
    walks = named(spans, "run walk")
    [rest] = named(spans, "timer")
    [stroll] = named(spans, "local walk")
    assert (start.kind, start.attributes["turnout.workflow.id"]) == ("PRODUCER", "t-1")
    assert [first.parent_id, second.parent_id] == [start.span_id, start.span_id]
    assert [link.span_id for link in second.links] == [first.span_id]
    assert [each.attributes["turnout.workflow.run"] for each in (first, second)] == [1, 2]
    assert [each.attributes["turnout.workflow.state"] for each in (first, second)] == ["continued", "completed"]
    assert {each.parent_id for each in legs} == {second.span_id}
    assert len(legs) == 2
    assert (rest.parent_id, rest.end - rest.start >= 0.3) == (first.span_id, True)
    assert (stroll.parent_id, stroll.error) == (first.span_id, False)
    assert Counter(each.parent_id for each in walks) == {
        first.span_id: 3,  # one of them fails and is tried again
        **{each.span_id: 1 for each in legs},
    }
    assert [each.error for each in walks] == [False, True, False, False, False]
    assert first.start <= walks[0].start <= walks[2].end <= first.end <= second.start <= second.end
    assert [each.attributes["turnout.workflow.run"] for each in walks] == [1, 1, 1, 1, 1]  # a leg has but one
    of = [each.attributes["turnout.workflow.id"] for each in walks]
    assert of[:3] == ["t-1"] * 3
    assert set(of[3:]) == {each.attributes["turnout.workflow.id"] for each in legs}
    assert all({"turnout.workflow.id", "turnout.workflow.name"} <= set(each.attributes) for each in spans)
    assert info.state is WorkflowState.completed


async def test_lines_of_workflow_code_carry_the_workflow_and_are_silent_on_replay(
    nats_server: NatsServer, turnout_client: Client, tmp_path: Path
) -> None:
    """wf.log and the program's own loggers name id, run, trace and span; a worker that replays says nothing again."""
    with OtlpReceiver() as collector:
        env = environment(nats_server.url, turnout_client.namespace, collector)
        handle = await turnout_client.start("trip")

        async def waits_for_the_word() -> bool:
            return [each.kind for each in (await handle.info()).waiting] == ["signal"]

        with working(env, tmp_path / "first"):
            await until(waits_for_the_word, within_s=30)
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
    start, run = sorted(spans.get_finished_spans(), key=lambda span: span.start_time or 0)
    assert [start.name, run.name] == ["start nobody", "workflow nobody"]
    assert run.parent is not None
    assert start.context is not None
    assert run.parent.span_id == start.context.span_id
    assert dict(run.attributes or {})["turnout.workflow.state"] == "terminated"
    assert run.status.status_code is not StatusCode.ERROR


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
