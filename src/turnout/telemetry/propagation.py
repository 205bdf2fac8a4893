"""How a trace and its baggage travel with a job: in headers, in whatever case they come.

Which headers those are is the program's choice of propagators; W3C Trace Context and Baggage unless it says otherwise
(https://www.w3.org/TR/trace-context/, https://www.w3.org/TR/baggage/). Nothing here raises: a header that makes no
sense costs the trace its parent, or the code its baggage, and the job goes on.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from turnout import wire
from turnout.core.record import derived_span_id
from turnout.once import warn_once

logger = logging.getLogger("turnout.telemetry")

BAGGAGE_BYTES = 8192
BAGGAGE_MEMBERS = 180
_MEMBER_BYTES = 4096

_W3C = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
_TRACE_ALONE = TraceContextTextMapPropagator()


_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Derived(trace.NonRecordingSpan):
    """The parent of jobs that name none: the same on all nodes. Made of the trace's id when somebody asks."""

    def __init__(self, trace_id: str) -> None:
        self._trace_id = trace_id
        self._made: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        if self._made is None:
            span = int(derived_span_id(self._trace_id), 16)
            self._made = SpanContext(int(self._trace_id, 16), span, True, _SAMPLED)
        return self._made


_NOTHING = Context()


def incoming(headers: Mapping[str, str], trace_id: str) -> Context:
    """The context of whoever submitted a job, with its baggage.

    Where the headers name no parent in the job's trace there is one that derives from the trace's id, so that the
    attempts on all nodes have the same.
    """
    context = _NOTHING
    if headers and (carrier := _carried(headers, trace_id)):
        context = _extract(carrier)
        found = trace.get_current_span(context).get_span_context()
        if found.is_valid and f"{found.trace_id:032x}" == trace_id:
            return context
    return trace.set_span_in_context(Derived(trace_id), context)


def below(trace_id: str, span_id: str, flags: str) -> Context:
    """The context of what runs below this span; the ids are hex digits."""
    context = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
    return trace.set_span_in_context(trace.NonRecordingSpan(context), _NOTHING)


def traced(headers: Mapping[str, str]) -> bool:
    """Whether whoever submitted the job has said in which trace."""
    return any(name.lower() == "traceparent" for name in headers)


def outgoing(context: Context) -> dict[str, str]:
    """The headers that carry `context` with a job."""
    if not context:
        return {}
    members = baggage.get_all(context)
    if members and _oversized(",".join(f"{quote_plus(k)}={quote_plus(str(v))}" for k, v in members.items())):
        _warn_of_baggage("is left behind")
        context = baggage.clear(context)
    headers: dict[str, str] = {}
    try:
        propagate.inject(headers, context)
        if _harmless(headers):
            return headers
        problem = "its headers are too large, or none"
    except Exception as error:  # propagators may be the program's own
        problem = repr(error)
    warn_once(logger, "propagator", "the propagators failed, jobs are submitted with their trace alone: %s", problem)
    headers = {}
    _TRACE_ALONE.inject(headers, context)
    return headers


def to_child(context: Context) -> dict[str, str]:
    """What carries `context` into a child process of ours, whatever propagators the program has chosen."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    return carrier


def from_parent(carrier: Mapping[str, str]) -> Context:
    """The context that `to_child` gave."""
    return _W3C.extract(carrier, Context())


def _carried(headers: Mapping[str, str], trace_id: str) -> dict[str, str]:
    """The headers by their names in lower case, if any of them is one of the propagators'; the first of each."""
    fields = _fields(propagate.get_global_textmap())
    if not any(name.lower() in fields for name in headers):
        return {}
    carrier: dict[str, str] = {}
    for name, value in headers.items():
        carrier.setdefault(name.lower(), value)
    if trace_id not in carrier.get("traceparent", trace_id):
        warning = "a job's traceparent makes no sense, its trace id derives from its identity: %.100r"
        warn_once(logger, "traceparent", warning, carrier.pop("traceparent"))
    if _oversized(carrier.get("baggage", "")):
        _warn_of_baggage("of a job is dropped")
        del carrier["baggage"]
    return carrier


def _extract(carrier: dict[str, str]) -> Context:
    try:
        return _extracted(propagate.get_global_textmap(), tuple(carrier.items()))
    except Exception as error:  # propagators may be the program's own
        warn_once(logger, "extract", "the propagators failed, jobs run without what their headers carry: %r", error)
        return Context()


@functools.lru_cache(maxsize=8)
def _fields(propagator: TextMapPropagator) -> set[str]:
    return propagator.fields


@functools.lru_cache(maxsize=256)
def _extracted(propagator: TextMapPropagator, carrier: tuple[tuple[str, str], ...]) -> Context:
    """All activities of a workflow carry the same."""
    return propagator.extract(dict(carrier), Context())


def _oversized(text: str) -> bool:
    if text.count(",") >= BAGGAGE_MEMBERS or len(text) > BAGGAGE_BYTES:
        return True
    return len(text) > _MEMBER_BYTES and any(len(member) > _MEMBER_BYTES for member in text.split(","))


def _warn_of_baggage(what: str) -> None:
    warn_once(
        logger,
        "baggage",
        "baggage %s: it may have %d members of %d bytes each, and %d bytes in all; the job is not affected",
        *(what, BAGGAGE_MEMBERS, _MEMBER_BYTES, BAGGAGE_BYTES),
    )


def _harmless(headers: Mapping[Any, Any]) -> bool:
    """Whether a message and a record can carry what a propagator gave."""
    size = 0
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str)) or not (name.isascii() and name.isprintable()):
            return False
        if "\r" in value or "\n" in value:
            return False
        size += len(name) + len(value)
    return size <= wire.HEADERS_KEPT_BYTES
