"""What telemetry makes of a record that was written: the one place that sees every change of every job."""

from __future__ import annotations

import logging
from collections.abc import Callable

from turnout.core.changes import Change, Changes
from turnout.core.record import JobRecord
from turnout.once import warn_once
from turnout.telemetry import losses, metrics, outside, spans
from turnout.telemetry.counts import Ears

logger = logging.getLogger("turnout.telemetry")

_LOST = Change.lost


def on_saved(before: JobRecord | None, after: JobRecord, changes: Changes, destination: Callable[[str], str]) -> None:
    """`after` was stored over `before` by this process. Quick, and never raises.

    `destination` names the subject of an activity's jobs.
    """
    if Ears.open:
        metrics.saved(before, after, changes)
    if before is None or not spans.tracing_enabled():
        return
    try:
        if _LOST in changes.all:
            losses.tell(before, after, destination)
        elif before.outside is not None and changes.ended is not None:
            outside.tell(after, changes.ended, destination)
    except Exception as error:  # what a program's own sampler or exporter raises must not stop who writes the end down
        warn_once(logger, "ends", "the span of an attempt that others have ended could not be emitted: %r", error)
