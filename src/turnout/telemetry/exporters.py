"""The exporters that OpenTelemetry's environment variables name, and what else is the same for traces and metrics.

The SDK is imported by whoever needs it, and only then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

import attrs

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

logger = logging.getLogger("turnout.telemetry")

END_TIMEOUT_S = 2.0


@attrs.frozen
class Signal:
    """What can be exported: `name` as the variables spell it, and the endpoints any of which switches it on."""

    name: str
    endpoints: tuple[str, ...]

    def wanted(self, environment: Mapping[str, str]) -> list[str]:
        """The names of the exporters that the environment asks for; none means that nothing is sent."""
        if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return []
        named = environment.get(f"OTEL_{self.name.upper()}_EXPORTER", "").strip()
        if not named:
            named = "otlp" if any(environment.get(variable) for variable in self.endpoints) else ""
        return [name for each in named.split(",") if (name := each.strip()) and name != "none"]

    def made(self, name: str) -> Iterator[Any]:
        """The exporter of this name. One that is missing, or can't be made, is a warning: jobs come first."""
        entry = self._entry(name, os.environ)
        found = next(iter(entry_points(group=f"opentelemetry_{self.name}_exporter", name=entry)), None)
        if found is None:
            remedy = "pip install 'turnout[otel]'" if entry == "otlp_proto_http" else "install the package that has it"
            logger.warning("no %s: the exporter %s is not installed; %s", self.name, entry, remedy)
            return
        try:
            exporter = found.load()()
            if self.name == "traces" and entry.startswith("otlp_"):
                _patch(exporter)
            yield exporter
        except Exception as error:  # somebody else's package, configured by somebody else
            logger.warning("no %s: the exporter %s cannot be used: %s", self.name, entry, error)

    def _entry(self, name: str, environment: Mapping[str, str]) -> str:
        """The exporter's entry point. `otlp` goes over HTTP unless a protocol is given."""
        if name != "otlp":
            return name
        variables = (f"OTEL_EXPORTER_OTLP_{self.name.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        protocol = next((environment[variable] for variable in variables if environment.get(variable)), "http/protobuf")
        return "otlp_proto_grpc" if protocol.strip() == "grpc" else "otlp_proto_http"


TRACES = Signal("traces", ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
METRICS = Signal("metrics", ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",))
"""Not the endpoint for all signals: who gives that one often has a collector of traces, which refuses metrics."""


def _patch(exporter: object) -> None:
    with contextlib.suppress(ImportError):  # of a release whose modules are elsewhere
        from turnout.telemetry.encoding import patch

        patch(exporter)


def noisy_loggers(exporter: object) -> set[str]:
    """The loggers of an exporter: those of the modules that it is made of."""
    return {base.__module__ for base in type(exporter).__mro__} - {"builtins", "abc"}


def resource(service: str) -> Resource:
    """What sends: `service`, unless the environment has a name for it."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    class Sender(Resource):
        """A resource is hashed for each span that is sent, by its JSON: here it is once."""

        def __init__(self, made: Resource) -> None:
            super().__init__(made.attributes, made.schema_url)
            self._hash = super().__hash__()

        def __hash__(self) -> int:
            return self._hash

    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Sender(Resource.create({} if named else {SERVICE_NAME: service}))


class End(Protocol):
    """Sends what is left, and ends the exporting; takes no longer than this."""

    def __call__(self, within_s: float = END_TIMEOUT_S) -> None: ...


def nothing(within_s: float = 0.0) -> None:
    """The end of what was never begun."""


def ending(shutdown: Callable[[], object]) -> End:
    """`shutdown`, waited for so long: a collector that is away must not hold up the end, and would for ten seconds."""

    def end(within_s: float = END_TIMEOUT_S) -> None:
        thread = threading.Thread(target=shutdown, daemon=True)
        thread.start()
        thread.join(within_s)

    return end
