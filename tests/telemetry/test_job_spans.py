"""The spans that a job's own code makes carry the job, and those in child processes are in its trace, too."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from turnout import Client, Worker, activity, current_job, workflow
from turnout.tracing import JobSpans

tracer = trace.get_tracer("user")


@activity
async def nested() -> None:
    with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner"):
        tracer.start_span("apart", context=Context()).end()


@activity(run_in="thread")
def threaded() -> None:
    tracer.start_span("in a thread").end()


@workflow
async def other() -> None:
    return None


@activity
async def starts_another() -> None:
    with trace.get_tracer("user").start_as_current_span("around"):
        await current_job().client.start(other.options(id="another"))


@activity
async def submits_another() -> str:
    return (await current_job().client.submit(nested)).id


@workflow
async def outer() -> None:
    await starts_another()


def processed_by_job_spans() -> None:
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(JobSpans())


async def test_spans_inside_a_job_carry_it(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter
) -> None:
    """Id, activity, attempt and node: on the loop, in a thread, and where a span begins with a context of its own."""
    processed_by_job_spans()
    trace.get_tracer("user").start_span("outside").end()
    async with turnout_worker(nested, threaded) as worker:
        jobs = {each.name: await turnout_client.submit(each) for each in (nested, threaded)}
        for handle in jobs.values():
            await handle.result(timeout=30)
    found = {span.name: dict(span.attributes or {}) for span in spans.get_finished_spans()}
    for name, of in (("outer", nested), ("inner", nested), ("apart", nested), ("in a thread", threaded)):
        assert found[name] == {
            "turnout.job.id": jobs[of.name].id,
            "turnout.job.activity": of.name,
            "turnout.job.attempt": 1,
            "turnout.node.id": worker.id,
        }
    assert found["outside"] == {}


async def test_what_submits_another_job_keeps_that_ones_id(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter
) -> None:
    """A search by the id of a job finds its submission, also where the code of another job has made it."""
    processed_by_job_spans()
    async with turnout_worker(nested, submits_another):
        other_id = await (await turnout_client.submit(submits_another)).result(timeout=30)
        await turnout_client.job(other_id).result(timeout=30)
    [submit] = [span for span in spans.get_finished_spans() if span.name == "submit nested"]
    attributes = dict(submit.attributes or {})
    assert (attributes["turnout.job.id"], attributes["turnout.job.activity"]) == (other_id, "nested")
    assert "turnout.job.attempt" not in attributes


async def test_spans_inside_a_workflows_activity_carry_both(
    turnout_client: Client, spans: InMemorySpanExporter
) -> None:
    """Of the workflow id, name and run; the span that starts another workflow keeps that one's id."""
    processed_by_job_spans()
    async with Worker(turnout_client, activities=[starts_another], workflows=[outer, other]):
        handle = await turnout_client.start(outer.options(id="this"))
        await handle.result(timeout=30)
    found = {span.name: dict(span.attributes or {}) for span in spans.get_finished_spans()}
    for name in ("run starts_another", "around"):
        attributes = found[name]
        of = [attributes[f"turnout.workflow.{key}"] for key in ("id", "name", "run")]
        assert of == ["this", "outer", 1]
        assert attributes["turnout.job.activity"] == "starts_another"
    started = found["start other"]
    assert (started["turnout.workflow.id"], started["turnout.workflow.name"]) == ("another", "other")
    assert "turnout.workflow.run" not in started
