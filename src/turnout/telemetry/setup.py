"""Setting up the OpenTelemetry SDK where we are a program and not a library: at the command line.

It follows the environment variables of OpenTelemetry. Tracing is on when one of them asks for it: an exporter is named
in OTEL_TRACES_EXPORTER, or an OTLP endpoint is given.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger(__name__)

END_TIMEOUT_S = 2.0
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_GROUP = "opentelemetry_traces_exporter"


def wanted(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The names of the exporters that the environment asks for; none means no tracing."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    named = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    if not named:
        named = "otlp" if any(environment.get(variable) for variable in _ENDPOINTS) else ""
    return [name for each in named.split(",") if (name := each.strip()) and name != "none"]


def set_up(service: str) -> Callable[[], None]:
    """Trace as the environment says, as `service` unless it says otherwise.

    Returns what ends it: it sends the spans that are left, within two seconds. An exporter that is missing is a
    warning: jobs come first.
    """
    names = wanted()
    if not names:
        return lambda: None
    # The SDK is imported only where somebody traces: it takes a while, and memory.
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return lambda: None  # the module that is served has set up its own
    exporters = [exporter for name in names for exporter in _exporters(name)]
    if not exporters:
        return lambda: None
    provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

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


def _exporters(name: str) -> Iterator[SpanExporter]:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        yield ConsoleSpanExporter(out=sys.stderr)  # stdout is for the output of the program
        return
    entry = _entry(name, os.environ)
    found = next(iter(entry_points(group=_GROUP, name=entry)), None)
    if found is None:
        remedy = "pip install 'turnout[otel]'" if entry == "otlp_proto_http" else "install the package that has it"
        logger.warning("no traces: the exporter %s is not installed; %s", entry, remedy)
        return
    try:
        yield found.load()()
    except Exception as error:  # somebody else's package, configured by somebody else
        logger.warning("no traces: the exporter %s cannot be used: %s", entry, error)


def _entry(name: str, environment: Mapping[str, str]) -> str:
    """The exporter's entry point. `otlp` goes over HTTP unless a protocol is given."""
    if name != "otlp":
        return name
    protocol = next((environment[variable] for variable in _PROTOCOLS if environment.get(variable)), "http/protobuf")
    return "otlp_proto_grpc" if protocol.strip() == "grpc" else "otlp_proto_http"
