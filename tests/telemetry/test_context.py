"""What travels with a job besides its trace, and what is dropped of it without harm."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators import textmap
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from tests.support.rawsocket import raw_publish
from tests.support.waiting import until
from tests.telemetry.child_activities import passing_on_in_a_child
from turnout import Client, JobNotFound, activity, wire
from turnout.telemetry import propagation
from turnout.testing import NatsServer

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@activity
async def passing_on() -> dict[str, str]:
    """The headers that code inside a job would send on."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


@activity(run_in="thread")
def passing_on_in_a_thread() -> dict[str, str]:
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


async def run_bare(client: Client, server: NatsServer, headers: Mapping[str, str], job_id: str = "bare") -> Any:
    """The result of a job that was put there with a bare publish."""
    raw_publish(server.url, f"{client.namespace}.jobs.passing_on", b"", {"Nats-Msg-Id": job_id, **headers})

    async def there() -> bool:
        try:
            return bool(await client.job(job_id).info())
        except JobNotFound:
            return False

    await until(there)
    return await client.job(job_id).result(timeout=30)


@pytest.fixture(params=[False, True], ids=["without-sdk", "with-sdk"])
def maybe_traced(request: pytest.FixtureRequest) -> None:
    """The same with and without an SDK."""
    if request.param:
        request.getfixturevalue("spans")


@pytest.fixture
def caller() -> Iterator[None]:
    """A caller with baggage and, where there is an SDK, a span of its own."""
    token = context.attach(baggage.set_baggage("tenant", "blue öst"))
    try:
        yield
    finally:
        context.detach(token)


@pytest.mark.usefixtures("maybe_traced")
async def test_baggage_goes_with_the_job_and_on_from_it(
    turnout_client: Client, turnout_worker: Any, caller: None
) -> None:
    """What the submitter carries, the code carries: on the loop, in a thread, in a child process."""
    ways = (passing_on, passing_on_in_a_thread, passing_on_in_a_child)
    async with turnout_worker(*ways):
        for each in ways:
            handle = await turnout_client.submit(each)
            headers: Any = await handle.result(timeout=30)
            assert headers["baggage"] == "tenant=blue+%C3%B6st"
            assert headers["traceparent"].split("-")[1] == (await handle.info()).trace_id


@pytest.mark.usefixtures("maybe_traced")
async def test_headers_are_read_in_any_case(
    turnout_client: Client, turnout_worker: Any, nats_server: NatsServer
) -> None:
    """A bare publish says TraceParent, TRACESTATE and Baggage as it likes."""
    async with turnout_worker(passing_on):
        sent = {"TraceParent": PARENT, "TRACESTATE": "a=1,b=2", "Baggage": "k=v"}
        headers = await run_bare(turnout_client, nats_server, sent)
    assert headers["traceparent"].split("-")[1] == TRACE
    assert headers["tracestate"] == "a=1,b=2"
    assert headers["baggage"] == "k=v"


@pytest.mark.parametrize("heeded", [True, False])
async def test_a_publisher_decides_whether_its_job_is_traced_unless_the_worker_does(
    turnout_client: Client,
    turnout_worker: Any,
    nats_server: NatsServer,
    spans: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
    heeded: bool,
) -> None:
    """A `traceparent` that says "not sampled" hides a job; from a sampler that asks nobody it hides nothing."""
    if not heeded:
        monkeypatch.setattr(trace.get_tracer_provider(), "sampler", sampling.ALWAYS_ON)
    async with turnout_worker(passing_on):
        await run_bare(turnout_client, nats_server, {"traceparent": PARENT[:-2] + "00"})
    # The worker has stopped: whatever it tells is told.
    told = [span for span in spans.get_finished_spans() if span.kind is SpanKind.CONSUMER]
    assert len(told) == (0 if heeded else 1)
    assert (await turnout_client.job("bare").info()).trace_id == TRACE


@pytest.mark.usefixtures("maybe_traced")
@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"traceparent": "rubbish"}, "traceparent"),
        ({"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"}, "traceparent"),
        ({"traceparent": PARENT.upper()}, "traceparent"),
        ({"traceparent": PARENT + "-more"}, "traceparent"),
        ({"traceparent": "00-" + "a" * 600}, "traceparent"),
        ({"baggage": "k=" + "v" * 9000}, "baggage"),
        ({"baggage": "k=" + "v" * 50_000}, "baggage"),
        ({"baggage": ",".join(f"k{n}=v" for n in range(181))}, "baggage"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_makes_no_sense_is_dropped_with_one_warning(
    turnout_client: Client,
    turnout_worker: Any,
    nats_server: NatsServer,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
    kind: str,
) -> None:
    """The jobs run as if it had not been there, in the trace that derives from their identity."""
    caplog.set_level(logging.DEBUG, "turnout")
    async with turnout_worker(passing_on):
        for job_id in ("one", "two"):
            passed = await run_bare(turnout_client, nats_server, headers, job_id)
            derived = wire.trace_id_of({}, "passing_on", job_id)
            # Where nobody listens and no header is left, nothing is passed on.
            assert passed.get("traceparent", f"00-{derived}").split("-")[1] == derived
            assert "baggage" not in passed
            info = await turnout_client.job(job_id).info()
            assert (info.attempt, info.trace_id) == (1, derived)
    assert [record.levelname for record in caplog.records if kind in record.getMessage()].count("WARNING") == 1
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


@pytest.mark.usefixtures("maybe_traced")
async def test_a_submit_leaves_behind_what_is_too_much(
    turnout_client: Client, turnout_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Baggage beyond the limits neither fails a submit nor goes along; one warning for all of them."""
    large = context.get_current()
    for number in range(200):
        large = baggage.set_baggage(f"k{number}", "v", context=large)
    token = context.attach(large)
    try:
        async with turnout_worker(passing_on):
            for _ in range(2):
                handle = await turnout_client.submit(passing_on)
                assert "baggage" not in await handle.result(timeout=30)
    finally:
        context.detach(token)
    assert len([record for record in caplog.records if "baggage" in record.getMessage()]) == 1


class Broken(textmap.TextMapPropagator):
    """A propagator of a program's own, and what it does to headers."""

    def __init__(self, injects: Mapping[str, Any] | None) -> None:
        self._injects = injects

    def extract(self, carrier: Any, context: Context | None = None, getter: Any = None) -> Context:
        raise RuntimeError("no")

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None:
        if self._injects is None:
            raise RuntimeError("no")
        carrier.update(self._injects)

    @property
    def fields(self) -> set[str]:
        return {"traceparent"}


@pytest.mark.parametrize(
    "injects", [None, {"x": "v" * 100_000}, {"x": "one\r\ntwo"}, {"x": 1}], ids=["raises", "large", "lines", "number"]
)
async def test_a_broken_propagator_costs_no_job(
    turnout_client: Client,
    turnout_worker: Any,
    spans: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
    injects: Mapping[str, Any] | None,
) -> None:
    """The submit goes on with the trace alone, and the job runs."""
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", Broken(injects))
    with trace.get_tracer("user").start_as_current_span("caller") as span:
        handle = await turnout_client.submit(third)
    async with turnout_worker(third):
        assert await handle.result(timeout=30) == 3
    assert (await handle.info()).trace_id == f"{span.get_span_context().trace_id:032x}"


@activity
async def third() -> int:
    return 3


class Failing:
    """A sampler, or a processor, that raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


async def test_a_broken_sdk_costs_no_job(
    turnout_client: Client, turnout_worker: Any, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampler that raises costs the spans; jobs are submitted and run."""
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    monkeypatch.setattr(provider, "sampler", Failing())
    async with turnout_worker(third):
        handle = await turnout_client.submit(third)
        assert await handle.result(timeout=30) == 3
    assert not spans.get_finished_spans()


def test_without_headers_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job without trace headers costs no parsing; one with others only a look at their names."""
    monkeypatch.setattr(propagate, "extract", Failing())
    for headers in ({}, {"color": "blue"}):
        found = trace.get_current_span(propagation.incoming(headers, TRACE)).get_span_context()
        assert f"{found.trace_id:032x}" == TRACE


def test_all_nodes_derive_the_same_parent() -> None:
    """What stands in for a parent that nobody named depends on the trace alone."""
    ids = {trace.get_current_span(propagation.incoming({}, TRACE)).get_span_context().span_id for _ in range(2)}
    assert len(ids) == 1
    assert ids != {trace.get_current_span(propagation.incoming({}, TRACE[::-1])).get_span_context().span_id}


def test_a_child_process_gets_all_of_it() -> None:
    """Trace, state and baggage go to a child as they came."""
    came = propagation.incoming({"Traceparent": PARENT, "tracestate": "a=1", "baggage": "k=v"}, TRACE)
    there = propagation.from_parent(propagation.to_child(came))
    span = trace.get_current_span(there).get_span_context()
    assert (f"{span.trace_id:032x}", dict(span.trace_state)) == (TRACE, {"a": "1"})
    assert dict(baggage.get_all(there)) == {"k": "v"}
