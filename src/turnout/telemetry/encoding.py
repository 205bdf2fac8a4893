"""The OTLP exporters spell each span by itself, and an attempt's is nearly that of the attempt before: ADR 10.

Light spans of which there is nothing but attributes to tell are spelt here, with OpenTelemetry's own message types. The
library spells all others, and one of each batch, beside which they go.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags
from opentelemetry.sdk.trace import ReadableSpan

from turnout.telemetry import spans
from turnout.telemetry.fast import LightSpan

REMEMBERED = 4096
LONGEST = 64
"""A longer text is not remembered: there may be many of them."""

_OF_ONE = frozenset({spans.JOB_ID, spans.MESSAGE_ID})
"""The attributes that no two jobs share."""

_LOCAL = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE = SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK | _LOCAL

Encode = Callable[[Sequence[ReadableSpan]], Any]


def patch(exporter: object) -> None:
    """From now on exporters of this kind spell light spans quickly. Those that are made otherwise stay as they are."""
    module = sys.modules[type(exporter).__module__]
    usual = getattr(module, "encode_spans", None)
    if usual is not None and not hasattr(usual, "__wrapped__"):
        quick = functools.partial(_encode, usual)
        vars(module)["encode_spans"] = functools.update_wrapper(quick, usual)


def _encode(usual: Encode, batch: Sequence[ReadableSpan]) -> Any:
    """The request that carries these spans."""
    simple = [span for span in batch if isinstance(span, LightSpan) and span.simple]
    if not simple:
        return usual(batch)
    first = simple[0]
    alike = [span for span in simple[1:] if span.resource is first.resource]
    quick = set(map(id, alike))
    request = usual([first, *(span for span in batch if id(span) not in quick and span is not first)])
    out = request.resource_spans[0].scope_spans[0].spans
    for span in alike:
        try:
            _encode_span(span, out.add())
        except Exception:  # of a value that can't be told: the library leaves that one out, and says so
            del out[-1]
            request.MergeFrom(usual([span]))
    return request


def _encode_span(span: LightSpan, into: Span) -> None:
    own, parent = span.get_span_context(), span.parent
    into.trace_id = own.trace_id.to_bytes(16, "big")
    into.span_id = own.span_id.to_bytes(8, "big")
    into.parent_span_id = parent.span_id.to_bytes(8, "big")
    into.name = span.name
    into.kind = Span.SPAN_KIND_CONSUMER
    into.start_time_unix_nano = span.start_time or 0
    into.end_time_unix_nano = span.end_time or 0
    into.status.SetInParent()
    into.flags = _REMOTE if parent.is_remote else _LOCAL
    known = []
    for key, value in span.facts:
        if key in _OF_ONE or type(value) is float or (type(value) is str and len(value) > LONGEST):
            _add(into, key, value)  # a float may be equal to another one, and is of the other sign: 0.0
        else:
            known.append(_remembered(key, value))
    into.MergeFromString(b"".join(known))


def _add(into: Span, key: str, value: Any) -> None:
    added = into.attributes.add()
    added.key = key
    match value:
        case bool():
            added.value.bool_value = value
        case int():
            added.value.int_value = value
        case float():
            added.value.double_value = value
        case _:
            added.value.string_value = value


@functools.lru_cache(REMEMBERED, typed=True)
def _remembered(key: str, value: Any) -> bytes:
    """A span with this attribute and nothing else: what is merged of several such is a span with all of them."""
    alone = Span()
    _add(alone, key, value)
    return bytes(alone.SerializeToString())
