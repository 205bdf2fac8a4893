"""Setting up the OpenTelemetry SDK where we are a program and not a library: at the command line.

It follows the environment variables of OpenTelemetry. Tracing is on when one of them asks for it: an exporter is named
in OTEL_TRACES_EXPORTER, or an OTLP endpoint is given.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from turnout.telemetry import dedupe
from turnout.telemetry.exporters import TRACES, End, ending, noisy_loggers, nothing, resource

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger(__name__)

QUEUE_SPANS_MAX = 65_536
BATCH_SPANS = 1_024
SPAN_BYTES = 3_500
"""What the span of an attempt takes in memory."""

_SENDERS = {"opentelemetry.sdk.trace.export", "opentelemetry.sdk._shared_internal"}

services: list[str] = []
"""As what this process traces, if it was `set_up()` that said so: its child processes do the same."""


def set_up(service: str) -> End:
    """Trace as the environment says, as `service` unless it says otherwise.

    Returns what ends it: it sends the spans that are left, within two seconds. An exporter that is missing is a
    warning, and so is a collector that is away: jobs come first.
    """
    dedupe.dedupe_logs(dedupe.PROPAGATORS, dedupe.as_it_is)
    names = TRACES.wanted(os.environ)
    if not names:
        return nothing
    # The SDK is imported only where somebody traces: it takes a while, and memory.
    from opentelemetry import trace

    from turnout.telemetry.fast import LightProvider
    from turnout.telemetry.processor import JobSpans

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return nothing  # the module that is served has set up its own
    processors = [_batches(exporter) for name in names for exporter in _exporters(name)]
    if not processors:
        return nothing
    provider = LightProvider(resource=resource(service), shutdown_on_exit=False)
    for processor in (JobSpans(), *processors):
        provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    services.append(service)

    return ending(provider.shutdown)


def _batches(exporter: SpanExporter) -> SpanProcessor:
    """Sends spans from a thread of its own, in batches, unless OTEL_BSP_* says otherwise in sizes of ours.

    The SDK's own queue has 2,048 places: a worker that does thousands of jobs a second fills it between two batches,
    and what comes then is dropped. Its memory is used only while the collector takes less than is made. A batch must
    fit into what a collector takes at once, which over gRPC is 4 MiB: a thousand spans have less than one.
    """
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    queue = None if os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") else queue_size(_memory())
    batch = None if queue is None or os.environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") else BATCH_SPANS
    dedupe.dedupe_logs(noisy_loggers(exporter) | _SENDERS, _words)
    try:
        return BatchSpanProcessor(exporter, max_queue_size=queue, max_export_batch_size=batch)
    except ValueError as error:
        logger.warning("the OTEL_BSP_* settings do not fit together, turnout's own are used: %s", error)
        return BatchSpanProcessor(exporter, queue_size(_memory()), 5000, BATCH_SPANS, 30_000)


def queue_size(memory_bytes: int) -> int:
    """How many spans may wait: what a fiftieth of the memory holds, within reason."""
    return max(BATCH_SPANS * 2, min(QUEUE_SPANS_MAX, memory_bytes // 50 // SPAN_BYTES))


def _memory() -> int:
    """What this process may use, in bytes: the machine's, or its container's."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes)


def _words(record: logging.LogRecord) -> tuple[str, str]:
    """What we say of a complaint of those who send."""
    said = record.getMessage()
    if said.startswith("Queue full"):
        remedy = "raise OTEL_BSP_MAX_QUEUE_SIZE, or take a part of the traces only (OTEL_TRACES_SAMPLER)"
        return "overflow", f"spans are dropped, they come faster than the collector takes them: {remedy}; told once"
    remedy = "is there a collector where OTEL_EXPORTER_OTLP_ENDPOINT says?"
    return "traces", f"spans cannot be sent: {said}; {remedy} (jobs go on; told once)"


def _exporters(name: str) -> Iterator[SpanExporter]:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        yield ConsoleSpanExporter(out=sys.stderr)  # stdout is for the output of the program
        return
    yield from TRACES.made(name)
