"""What child processes run for the tests of telemetry."""

from __future__ import annotations

from opentelemetry import propagate

from turnout import activity


@activity(run_in="process")
def passing_on_in_a_child() -> dict[str, str]:
    """The headers that code in a child process would send on."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
