"""A real SDK whose spans stay in the process, and warnings that are new in each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once

from turnout import once
from turnout.telemetry import group_metrics, metrics, workflow_metrics
from turnout.telemetry.counts import Known
from turnout.telemetry.fast import LightProvider


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Spans that end are kept here, of a provider as a worker has it; the program's own is put back afterwards."""
    exporter = InMemorySpanExporter()
    provider = LightProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    yield exporter
    provider.shutdown()


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process knew no activity, workflow, limit or group yet: beyond 200 of them each new one is `other`."""
    monkeypatch.setattr(metrics, "_known_limits", Known())
    for module in (metrics, group_metrics, workflow_metrics):
        monkeypatch.setattr(module, "_known", Known())


@pytest.fixture(autouse=True)
def nothing_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test sees the first warning of a kind."""
    monkeypatch.setattr(once, "warned", set())
