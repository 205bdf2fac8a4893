"""What is sent to workflows, in traces and metrics: where its sender's trace is, once, and counted by outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.waiting import until
from turnout import (
    Client,
    QueryFailed,
    UpdateFailed,
    UpdateRejected,
    Worker,
    WorkflowCancelled,
    WorkflowEnded,
    current_workflow,
    workflow,
)
from turnout.telemetry import workflow_metrics
from turnout.telemetry.counts import Ears
from turnout.testing import NatsServer
from turnout.wire.queries import Question, dump_question

ID = "turnout.workflow.id"


@workflow(fail_on=(ValueError,))
class Till:
    def __init__(self) -> None:
        self.sum = 0
        self.closes = asyncio.Event()

    @workflow.run
    async def run(self) -> int:
        await self.closes.wait()
        wf = current_workflow()
        await wf.wait_for(wf.all_handlers_finished)
        return self.sum

    @workflow.signal
    def close(self) -> None:
        self.closes.set()

    @workflow.query
    def total(self) -> int:
        return self.sum

    @workflow.query
    def wrong(self) -> int:
        raise LookupError("no such thing")

    @workflow.update
    async def add(self, amount: int) -> int:
        if amount > 100:
            raise ValueError("too much")
        self.sum += amount
        return self.sum

    @add.validator
    def check(self, amount: int) -> None:
        if amount < 0:
            raise ValueError("less than nothing")

    @workflow.update
    async def at_close(self) -> int:
        await self.closes.wait()
        return self.sum


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    found = [span for span in spans.get_finished_spans() if span.name == name]
    return sorted(found, key=lambda span: span.start_time or 0)


def below(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def own(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


async def test_a_query_is_in_its_askers_trace(turnout_client: Client, spans: InMemorySpanExporter) -> None:
    """Asked and answered: two spans below the caller; one that fails says why in both; without a trace none is told."""
    async with Worker(turnout_client, workflows=[Till]) as worker:
        handle = await turnout_client.start(Till.run)
        with trace.get_tracer("user").start_as_current_span("shop") as shop:
            assert await handle.query(Till.total) == 0
            with pytest.raises(QueryFailed):
                await handle.query(Till.wrong)
        question = Question(id=handle.id, query="total", payload="{}", traceparent="nonsense")
        names, connection = turnout_client.store.names, turnout_client.store.connection
        await connection.request(names.query("Till"), dump_question(question))

        async def both_told() -> bool:
            return bool(named(spans, "answer total") and named(spans, "answer wrong"))

        await until(both_told)
    [asked], [answered] = named(spans, "query total"), named(spans, "answer total")
    assert (asked.kind, answered.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    assert (below(asked), below(answered)) == (shop.get_span_context().span_id, own(asked))
    assert dict(answered.attributes or {}) == {
        "turnout.workflow.id": handle.id,
        "turnout.workflow.name": "Till",
        "turnout.workflow.handler": "total",
        "turnout.workflow.answer": "answered",
        "turnout.node.id": worker.id,
    }
    [asked], [answered] = named(spans, "query wrong"), named(spans, "answer wrong")
    for span in (asked, answered):
        assert span.status.status_code is StatusCode.ERROR
        assert "LookupError: no such thing" in (span.status.description or "")
    assert (answered.attributes or {})["turnout.workflow.answer"] == "failed"


async def test_an_update_is_in_its_askers_trace(turnout_client: Client, spans: InMemorySpanExporter) -> None:
    """Sent and handled, below the caller and linked to the run; told by whoever answers it, and not again on replay."""
    handle = await turnout_client.start(Till.run)
    with trace.get_tracer("user").start_as_current_span("shop") as shop:
        waits = await handle.start_update(Till.at_close)
    async with Worker(turnout_client, workflows=[Till]):
        assert await handle.update(Till.add, 5) == 5
        with pytest.raises(UpdateRejected):
            await handle.update(Till.add, -1)
        with pytest.raises(UpdateFailed):
            await handle.update(Till.add, 101)
    assert named(spans, "handle at_close") == []
    async with Worker(turnout_client, workflows=[Till]) as second:  # which replays all of it
        await handle.signal(Till.close)
        assert await waits.result(timeout=30) == 5
        assert await handle.result(timeout=30) == 5
    [sent], [handled] = named(spans, "update at_close"), named(spans, "handle at_close")
    assert (sent.kind, handled.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert (below(sent), below(handled)) == (shop.get_span_context().span_id, own(sent))
    [run] = named(spans, "workflow Till")
    assert [link.context.span_id for link in handled.links] == [own(run)]
    assert (handled.attributes or {})["turnout.node.id"] == second.id
    added = named(spans, "handle add")
    assert [(each.attributes or {})["turnout.workflow.answer"] for each in added] == ["answered", "rejected", "failed"]
    assert [each.status.status_code is StatusCode.ERROR for each in added] == [False, False, True]
    assert [below(each) for each in added] == [own(each) for each in named(spans, "update add")]
    assert all((each.attributes or {})["turnout.workflow.run"] == 1 for each in [handled, *added])


async def test_an_update_that_rides_along_is_below_the_start(
    turnout_client: Client, spans: InMemorySpanExporter
) -> None:
    """`with_update`: the span that starts the workflow is that of the update as well."""
    async with Worker(turnout_client, workflows=[Till]):
        handle = await turnout_client.start(Till.run.with_update(Till.add, 3))
        assert await handle.first_update.result(timeout=30) == 3
    [start], [handled] = named(spans, "start Till"), named(spans, "handle add")
    assert below(handled) == own(start)


async def test_a_bare_update_is_below_the_run(turnout_client: Client, spans: InMemorySpanExporter) -> None:
    """What somebody publishes without a trace, or with one that is none, is in the workflow's."""
    names, connection = turnout_client.store.names, turnout_client.store.connection
    async with Worker(turnout_client, workflows=[Till]):
        handle = await turnout_client.start(Till.run)
        subject = names.input("Till", handle.id, "update", "add")
        await connection.store(subject, b'{"amount": 1}', {"Nats-Msg-Id": "u1", "traceparent": "x" * 5000})
        await until(lambda: _has(handle, 1))
        await handle.signal(Till.close)
        assert await handle.result(timeout=30) == 1
    [run], [handled] = named(spans, "workflow Till"), named(spans, "handle add")
    assert (below(handled), list(handled.links)) == (own(run), [])


async def test_what_is_sent_is_in_its_senders_trace(turnout_client: Client, spans: InMemorySpanExporter) -> None:
    """Signal, cancel and terminate, below the caller; what a record takes is below that and linked to the run, once.
    None begins a trace of its own."""
    untraced = await turnout_client.start(Till.run)
    await untraced.signal(Till.close)
    await untraced.terminate()
    assert [span.name for span in spans.get_finished_spans()] == ["start Till", "workflow Till"]
    spans.clear()
    with trace.get_tracer("user").start_as_current_span("shop") as shop:
        async with Worker(turnout_client, workflows=[Till]):
            closed, stopped, killed = [await turnout_client.start(Till.run) for _ in range(3)]
            await closed.signal(Till.close)
            assert await closed.result(timeout=30) == 0
            await stopped.cancel("enough")
            with pytest.raises(WorkflowCancelled):
                await stopped.result(timeout=30)
        await killed.terminate("at once")
        with pytest.raises(WorkflowEnded):
            await killed.signal(Till.close)
    caller = shop.get_span_context().span_id
    (sent, late), [handled] = named(spans, "signal close"), named(spans, "handle close")
    [cancel], [heard] = named(spans, "cancel workflow"), named(spans, "handle cancel")
    [terminate] = named(spans, "terminate workflow")
    assert {below(each) for each in (sent, late, cancel, terminate)} == {caller}
    assert {each.kind for each in (sent, cancel, terminate)} == {SpanKind.PRODUCER}
    assert (below(handled), below(heard)) == (own(sent), own(cancel))
    for span, handle in ((handled, closed), (heard, stopped)):
        [run] = [each for each in named(spans, "workflow Till") if (each.attributes or {})[ID] == handle.id]
        assert [link.context.span_id for link in span.links] == [own(run)]
        assert (span.attributes or {})[ID] == handle.id
    assert late.status.status_code is StatusCode.ERROR
    assert not any(each.status.status_code is StatusCode.ERROR for each in (sent, handled, cancel, heard, terminate))


async def test_a_bare_signal_is_in_its_publishers_trace(turnout_client: Client, spans: InMemorySpanExporter) -> None:
    """Any publisher may send its `traceparent` along; without one nothing is told."""
    names, connection = turnout_client.store.names, turnout_client.store.connection
    trace_id, span_id = "1234567890abcdef1234567890abcdef", "1234567890abcdef"
    async with Worker(turnout_client, workflows=[Till]):
        handles = [await turnout_client.start(Till.run) for _ in range(2)]
        for handle, headers in zip(handles, ({"traceparent": f"00-{trace_id}-{span_id}-01"}, {}), strict=True):
            await connection.store(names.input("Till", handle.id, "signal", "close"), b"", headers)
            assert await handle.result(timeout=30) == 0
    [handled] = named(spans, "handle close")
    assert (handled.attributes or {})[ID] == handles[0].id
    assert handled.context is not None
    assert (handled.context.trace_id, below(handled)) == (int(trace_id, 16), int(span_id, 16))


async def _has(handle: Any, amount: int) -> bool:
    return bool(await handle.query(Till.total) == amount)


async def test_queries_and_updates_are_counted(turnout_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many, how long and what became of them; a replay counts nothing again."""
    monkeypatch.setattr(Ears, "open", True)

    def counts() -> dict[tuple[str, ...], int]:
        found = {
            ("query", *key[1:]): sum(n) for key, (n, _) in workflow_metrics.QUERY.read().items() if key[0] == "Till"
        }
        updates = workflow_metrics.UPDATE.read().items()
        return found | {("update", *key[1:]): sum(n) for key, (n, _) in updates if key[0] == "Till"}

    before = counts()
    handle = await turnout_client.start(Till.run)
    async with Worker(turnout_client, workflows=[Till]):
        await handle.update(Till.add, 5)
        for wrong in (-1, 101):
            with pytest.raises((UpdateRejected, UpdateFailed)):
                await handle.update(Till.add, wrong)
        await handle.query(Till.total)
        with pytest.raises(QueryFailed):
            await handle.query(Till.wrong)
    async with Worker(turnout_client, workflows=[Till]):
        await handle.query(Till.total)
    assert {key: number - before.get(key, 0) for key, number in counts().items()} == {
        ("query", "answered"): 2,
        ("query", "failed"): 1,
        ("update", "answered"): 1,
        ("update", "rejected"): 1,
        ("update", "failed"): 1,
    }


async def test_a_query_is_counted_once(
    turnout_client: Client, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose memory of the workflow was too old is asked again, and that is the same query."""
    monkeypatch.setattr(Ears, "open", True)
    monkeypatch.setattr("turnout.client.workflows.asker.TRY_S", (60.0, 60.0))  # a slow answer is no silence here

    def answered() -> int:
        return sum(sum(n) for key, (n, _) in workflow_metrics.QUERY.read().items() if key[:2] == ("Till", "answered"))

    handle = await turnout_client.start(Till.run)
    async with (
        Client.connect(nats_server.url, namespace=turnout_client.namespace) as other,
        Worker(turnout_client, workflows=[Till]),
        Worker(other, workflows=[Till]),
    ):
        before = answered()
        for number in range(20):  # each goes to either of them, and what it has in memory is of then
            await handle.update(Till.add, 1)
            assert await handle.with_timeout(60).query(Till.total) == number + 1
        assert answered() - before == 20
