"""What telemetry makes of a record that was written: the one place that sees every change of every job."""

from __future__ import annotations

from turnout.core.values import JobRecord


def saved(before: JobRecord | None, after: JobRecord) -> None:
    """`after` was stored over `before` by this process. Quick, and never raises."""
