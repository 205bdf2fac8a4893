"""What becomes of a schedule's ticks can be seen: in traces, and in counts."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.waiting import until
from turnout import Client, Schedule, Worker, activity, workflow
from turnout.telemetry import metrics
from turnout.testing.fixtures import WorkerFactory


@activity
async def tidy() -> None: ...


@workflow
async def sweeping() -> None: ...


async def test_a_run_is_in_a_trace_of_its_own_linked_to_its_schedule(
    turnout_client: Client, turnout_worker: WorkerFactory, spans: InMemorySpanExporter
) -> None:
    """The span that begins a run names the schedule, and links to where it was added; the attempt hangs under it."""
    client = turnout_client
    async with turnout_worker(tidy):
        with trace.get_tracer("user").start_as_current_span("deploy") as deploy:
            schedule = await client.add_schedule("tidy", Schedule(every=1), tidy)
        run = await until(lambda: _completed(client))
        await schedule.delete()

        async def fired() -> bool:
            return {"fire tidy", "run tidy"} <= {span.name for span in spans.get_finished_spans()}

        await until(fired)
    found = [span for span in spans.get_finished_spans() if (span.attributes or {}).get("turnout.job.id") == run]
    (firing,) = [span for span in found if span.name == "fire tidy"]
    (attempt,) = [span for span in found if span.name == "run tidy"]
    assert (firing.attributes or {})["turnout.schedule.name"] == "tidy"
    assert [link.context.span_id for link in firing.links] == [deploy.get_span_context().span_id]
    assert attempt.parent is not None
    assert (attempt.parent.span_id, attempt.context.trace_id) == (firing.context.span_id, firing.context.trace_id)
    assert firing.context.trace_id != deploy.get_span_context().trace_id


async def test_a_run_that_is_a_workflow_is_found_by_its_id(turnout_client: Client, spans: InMemorySpanExporter) -> None:
    """The span that begins it names the workflow, as that of a client's start does, and no job: there is none."""
    async with Worker(turnout_client, workflows=[sweeping]):
        schedule = await turnout_client.add_schedule("sweep", Schedule(every=3600), sweeping)
        run = await schedule.trigger()
        await run.result(timeout=30)
        await schedule.delete()
    [firing] = [span for span in spans.get_finished_spans() if span.name == "fire sweep"]
    [ran] = [span for span in spans.get_finished_spans() if span.name == "workflow sweeping"]
    facts = dict(firing.attributes or {})
    assert (facts["turnout.workflow.id"], facts["turnout.workflow.name"]) == (run.id, "sweeping")
    assert "turnout.job.id" not in facts
    assert ran.parent is not None
    assert ran.parent.span_id == firing.context.span_id


async def _completed(client: Client) -> str | None:
    runs = [run for run in (await client.schedule("tidy").info()).recent if run.state == "completed"]
    return runs[0].id if runs else None


async def test_ticks_are_counted(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A run that was begun counts once."""

    def fired() -> float:
        return sum(metrics.FIRED.read().values())  # a process that knows very many activities tells them together

    before = fired()
    async with turnout_worker(tidy):
        await turnout_client.add_schedule("tidy", Schedule(every=1), tidy)
        await until(lambda: _completed(turnout_client))
        await turnout_client.schedule("tidy").pause()

        async def counted() -> bool:
            return fired() - before == len([info async for info in turnout_client.jobs(schedule="tidy")])

        await until(counted)
