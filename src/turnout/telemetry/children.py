"""How tracing goes into a child process and on there: the attempt's context, and where the spans are to go.

What is handed over is a part of the call's frame, JSON. In the child the context stays attached to its end. What sets
exporters up is imported where there are some: each child is a new process, which has to import all that it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry import context as context_api

from turnout import once
from turnout.telemetry import propagation
from turnout.telemetry.spans import JOB

FLUSH_S = 1.0
"""How long a child that has answered may take to send its spans: less than the worker then waits for its end."""


def for_child() -> dict[str, Any]:
    """What a child needs to go on in the current context. `service` is None when the worker's tracing is not ours."""
    from turnout.telemetry import setup

    context = context_api.get_current()
    return {
        "carrier": propagation.to_child(context),
        "job": context_api.get_value(JOB, context),
        "service": setup.services[-1] if setup.services else None,
        "flush_s": FLUSH_S,
        "warned": sorted(once.warned),
    }


def in_child(given: dict[str, Any]) -> Callable[[], None]:
    """Go on in the context that `for_child()` gave. Returns what sends the child's spans, in a bounded time."""
    once.warned.update(given["warned"])  # each child is a process, and would warn of what the worker has warned of
    end = _nothing
    if given["service"]:
        from turnout.telemetry import setup

        end = partial(setup.set_up(given["service"]), given["flush_s"])
    context = propagation.from_parent(given["carrier"])
    if given["job"]:
        context = context_api.set_value(JOB, given["job"], context)
    context_api.attach(context)
    return end


def _nothing() -> None:
    """The spans of the user's own provider are the user's to send."""
