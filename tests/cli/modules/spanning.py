"""An activity in a child process that makes a span of its own."""

from opentelemetry import trace

from turnout import activity, current_job


@activity(run_in="process")
def spanning() -> str:
    """Make a span, say which."""
    with trace.get_tracer("user").start_as_current_span("inside") as span:
        current_job().log.info("inside")
    return f"{span.get_span_context().span_id:016x}"
