"""Setting up OpenTelemetry metrics where we are a program and not a library: at the command line.

Metrics are sent when an exporter is named in OTEL_METRICS_EXPORTER or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is given.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from turnout.telemetry import dedupe, metrics
from turnout.telemetry.exporters import METRICS, End, ending, noisy_loggers, nothing, resource

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader


logger = logging.getLogger("turnout.telemetry")


def set_up(service: str) -> End:
    """Send metrics as the environment says, as `service` unless it says otherwise.

    Returns what ends it: it sends what was counted last, within two seconds. An exporter that is missing, or a
    collector that is away, is one warning: jobs come first.
    """
    names = METRICS.wanted(os.environ)
    if not names or metrics.provided():
        return nothing  # the module that is served has set up its own
    readers = [reader for name in names for reader in _readers(name)]
    if not readers:
        return nothing
    from opentelemetry import metrics as api
    from opentelemetry.sdk.metrics import MeterProvider

    provider = MeterProvider(readers, resource=resource(service), shutdown_on_exit=False)
    api.set_meter_provider(provider)
    metrics.listen()
    return ending(provider.shutdown)


def _readers(name: str) -> Iterator[MetricReader]:
    # The SDK is imported only where somebody wants metrics: it takes a while, and memory.
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricReader, PeriodicExportingMetricReader

    # stdout is for the output of the program.
    for made in [ConsoleMetricExporter(out=sys.stderr)] if name == "console" else METRICS.made(name):
        dedupe.dedupe_logs({*noisy_loggers(made), "opentelemetry.sdk.metrics._internal.export"}, _words)
        try:
            # Some are readers: those that are asked for metrics instead of sending them.
            yield made if isinstance(made, MetricReader) else PeriodicExportingMetricReader(made)
        except ValueError as error:
            logger.warning("no metrics: the OTEL_METRIC_EXPORT_* settings are not usable: %s", error)


def _words(record: logging.LogRecord) -> tuple[str, str]:
    """What we say of a complaint of those who send."""
    hint = "is there a collector that takes metrics? Jobs go on; told once, then at debug"
    return "metrics not sent", f"metrics cannot be sent: {record.getMessage()} ({hint})"
