"""Setting up OpenTelemetry metrics where we are a program and not a library: at the command line.

Metrics are sent when an exporter is named in OTEL_METRICS_EXPORTER or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is given. The
endpoint for all signals does not switch them on: many who give it have a collector of traces, which refuses metrics.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from turnout.once import warn_once
from turnout.telemetry import metrics

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource

logger = logging.getLogger(__name__)

END_TIMEOUT_S = 2.0
_ENDPOINT = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_GROUP = "opentelemetry_metrics_exporter"


def wanted(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The names of the exporters that the environment asks for; none means that no metrics are sent."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    named = environment.get("OTEL_METRICS_EXPORTER", "").strip()
    if not named:
        named = "otlp" if environment.get(_ENDPOINT) else ""
    return [name for each in named.split(",") if (name := each.strip()) and name != "none"]


def set_up(service: str) -> Callable[[], None]:
    """Send metrics as the environment says, as `service` unless it says otherwise.

    Returns what ends it: it sends what was counted last, within two seconds. An exporter that is missing, or a
    collector that is away, is one warning: jobs come first.
    """
    names = wanted()
    if not names or metrics.provided():
        return lambda: None  # the module that is served has set up its own
    readers = [reader for name in names for reader in _readers(name)]
    if not readers:
        return lambda: None
    from opentelemetry import metrics as api
    from opentelemetry.sdk.metrics import MeterProvider

    provider = MeterProvider(readers, resource=_resource(service), shutdown_on_exit=False)
    api.set_meter_provider(provider)
    metrics.listen()

    def end() -> None:
        # A collector that is away must not hold up the program's end: the exporter would try for ten seconds.
        thread = threading.Thread(target=provider.shutdown, daemon=True)
        thread.start()
        thread.join(END_TIMEOUT_S)

    return end


def _resource(service: str) -> Resource:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if named else {SERVICE_NAME: service})


def _readers(name: str) -> Iterator[MetricReader]:
    # The SDK is imported only where somebody wants metrics: it takes a while, and memory.
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricReader, PeriodicExportingMetricReader

    if name == "console":  # stdout is for the output of the program
        yield PeriodicExportingMetricReader(ConsoleMetricExporter(out=sys.stderr))
        return
    entry = _entry(name, os.environ)
    found = next(iter(entry_points(group=_GROUP, name=entry)), None)
    if found is None:
        remedy = "pip install 'turnout[otel]'" if entry == "otlp_proto_http" else "install the package that has it"
        logger.warning("no metrics: the exporter %s is not installed; %s", entry, remedy)
        return
    try:
        made = found.load()()
        _hush(made)
        # Some are readers: those that are asked for metrics instead of sending them.
        yield made if isinstance(made, MetricReader) else PeriodicExportingMetricReader(made)
    except Exception as error:  # somebody else's package, configured by somebody else
        logger.warning("no metrics: the exporter %s cannot be used: %s", entry, error)


def _entry(name: str, environment: Mapping[str, str]) -> str:
    """The exporter's entry point. `otlp` goes over HTTP unless a protocol is given."""
    if name != "otlp":
        return name
    protocol = next((environment[variable] for variable in _PROTOCOLS if environment.get(variable)), "http/protobuf")
    return "otlp_proto_grpc" if protocol.strip() == "grpc" else "otlp_proto_http"


class _Told(logging.Filter):
    """Lets an exporter complain once, in our words: it would at every try, and twice."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        warn_once(logger, "metrics", "metrics cannot be sent: %s (jobs go on; told once)", record.getMessage())
        return False


def _hush(exporter: object) -> None:
    modules = {base.__module__ for base in type(exporter).__mro__} | {"opentelemetry.sdk.metrics._internal.export"}
    for module in modules - {"builtins", "abc"}:
        logging.getLogger(module).addFilter(_Told())
