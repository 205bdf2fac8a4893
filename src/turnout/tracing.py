"""For programs that set up OpenTelemetry themselves, where `turnout worker` would do it for them.

    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    from turnout.tracing import JobSpans

    provider = TracerProvider()
    provider.add_span_processor(JobSpans())      # user spans inside a job carry its id
    provider.add_span_processor(...)             # whatever exports
    trace.set_tracer_provider(provider)

turnout needs no more: it uses the OpenTelemetry API, and so whatever provider is there. It imports no SDK by itself;
this module does.
"""

from __future__ import annotations

from turnout.telemetry.processor import JobSpans

__all__ = ["JobSpans"]
