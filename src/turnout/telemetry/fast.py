"""The span of an attempt, cheaper than the SDK's: ADR 10. Used where turnout sets up the provider itself.

It is made of what the SDK declares public: it asks the SDK's sampler, goes through the SDK's processors and ends as a
`ReadableSpan`. All other spans, and all of a program that brings its own provider, are the SDK's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, ItemsView, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes, AttributeValue

logger = logging.getLogger("turnout.telemetry")

_PLAIN = frozenset({str, int, float, bool})
_UNSET = Status(StatusCode.UNSET)
_COUNTS_ITSELF = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"
"""With it the SDK counts the spans that it makes, and would miss ours."""
_RANDOM = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)


class LightProvider(TracerProvider):
    """A provider whose tracer `turnout` makes the spans of attempts light."""

    def __init__(self, **options: Any) -> None:
        self._limits = SpanLimits()
        super().__init__(span_limits=self._limits, **options)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> trace.Tracer:
        usual = super().get_tracer(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)
        if (
            instrumenting_module_name != "turnout"
            or not isinstance(usual, sdk.Tracer)
            or os.environ.get(_COUNTS_ITSELF)
        ):
            return usual
        return LightTracer(usual, self._limits, InstrumentationScope("turnout", instrumenting_library_version))


class LightTracer(trace.Tracer):
    """Makes the spans of attempts: CONSUMER spans, which have a parent. What else it is asked for is the SDK's."""

    def __init__(self, usual: sdk.Tracer, limits: SpanLimits, scope: InstrumentationScope) -> None:
        self._usual = usual
        self.start_as_current_span = usual.start_as_current_span
        self._limits = limits
        self._scope = scope

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        parent = trace.get_current_span(context).get_span_context()
        if kind is not SpanKind.CONSUMER or not parent.is_valid:
            return self._usual.start_span(
                *(name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception)
            )
        usual = self._usual
        sampled = usual.sampler.should_sample(context, parent.trace_id, name, kind, attributes, links)
        flags = TraceFlags.SAMPLED if sampled.decision is Decision.RECORD_AND_SAMPLE else TraceFlags.DEFAULT
        flags = TraceFlags(flags | parent.trace_flags & _RANDOM)
        own = SpanContext(parent.trace_id, usual.id_generator.generate_span_id(), False, flags, sampled.trace_state)
        if sampled.decision is Decision.DROP:
            return trace.NonRecordingSpan(own)
        began_ns = time.time_ns() if start_time is None else start_time
        span = LightSpan(name, own, parent, kind, usual, self._scope, self._limits, began_ns)
        span.set_attributes(sampled.attributes or {})
        for link in links or ():
            span.add_link(link.context, link.attributes)
        processor: Any = usual.span_processor  # which is declared for the SDK's own class of spans
        processor.on_start(span, parent_context=context)
        return span

    start_as_current_span: Any = None
    """The SDK's: nobody makes the span of an attempt in this way."""


class LightSpan(trace.Span, ReadableSpan):
    """Keeps plain attributes as they come. The first that isn't, or one too many, brings in the SDK's own checks."""

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext,
        kind: SpanKind,
        tracer: sdk.Tracer,
        scope: InstrumentationScope,
        limits: SpanLimits,
        began_ns: int,
    ) -> None:
        super().__init__(
            name, context, parent, tracer.resource, kind=kind, instrumentation_scope=scope, start_time=began_ns
        )
        self._known = context
        self._parent_context = parent
        self._lock = threading.Lock()
        self._processor = tracer.span_processor
        self._bounds = limits
        self._title = name
        self._facts: dict[str, Any] | BoundedAttributes = {}
        self._noted: BoundedList[Event] | None = None
        self._linked: BoundedList[Link] | None = None
        self._outcome = _UNSET
        self._ended_ns: int | None = None

    # --- what is told of it -------------------------------------------------------------------------------------------

    def get_span_context(self) -> SpanContext:
        return self._known

    def is_recording(self) -> bool:
        return self._ended_ns is None

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self._tell(self._take, attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self._tell(self._take, {key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        event = Event(name, self._checked(attributes, self._bounds.max_event_attributes), timestamp)
        self._tell(self._note, event)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        if context is not None and (context.is_valid or attributes or context.trace_state):
            link = Link(context, self._checked(attributes, self._bounds.max_link_attributes))
            self._tell(self._link, link)

    def update_name(self, name: str) -> None:
        self._tell(setattr, self, "_title", name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        given: object = status  # of code that nobody has checked
        if isinstance(given, Status | StatusCode):
            self._tell(self._judge, status if isinstance(status, Status) else Status(status, description))

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        record: Any = sdk.Span.record_exception  # it makes an event of it, of whatever span
        record(self, exception, attributes, timestamp, escaped)

    def end(self, end_time: int | None = None) -> None:
        if self._tell(setattr, self, "_ended_ns", time.time_ns() if end_time is None else end_time):
            self._processor.on_end(self)

    # --- what processors and programs read ----------------------------------------------------------------------------

    @property
    def simple(self) -> bool:
        """Whether there is nothing but plain attributes to tell of it: no event, link, status or state of the trace."""
        return (
            type(self._facts) is dict
            and self._noted is None
            and self._linked is None
            and self._outcome is _UNSET
            and not self._known.trace_state
        )

    @property
    def parent(self) -> SpanContext:
        return self._parent_context

    @property
    def facts(self) -> ItemsView[str, Any]:
        return self._facts.items()

    @property
    def name(self) -> str:
        return self._title

    @property
    def attributes(self) -> Attributes:
        return MappingProxyType(self._facts)

    @property
    def events(self) -> Sequence[Event]:
        return tuple(self._noted or ())

    @property
    def links(self) -> Sequence[Link]:
        return tuple(self._linked or ())

    @property
    def status(self) -> Status:
        return self._outcome

    @property
    def end_time(self) -> int | None:
        return self._ended_ns

    @property
    def dropped_attributes(self) -> int:
        return self._facts.dropped if isinstance(self._facts, BoundedAttributes) else 0

    @property
    def dropped_events(self) -> int:
        return self._noted.dropped if self._noted is not None else 0

    @property
    def dropped_links(self) -> int:
        return self._linked.dropped if self._linked is not None else 0

    def to_json(self, indent: int | None = 4) -> str:
        copy = ReadableSpan(
            self._title,
            self._known,
            self.parent,
            self.resource,
            self._facts,
            self.events,
            self.links,
            self.kind,
            status=self._outcome,
            start_time=self.start_time,
            end_time=self._ended_ns,
            instrumentation_scope=self.instrumentation_scope,
        )
        return str(copy.to_json(indent))

    # ------------------------------------------------------------------------------------------------------------------

    def _tell(self, change: Callable[..., object], *given: object) -> bool:
        """Make a change, unless the span has ended; any thread may, and none after the end. Whether it was made."""
        with self._lock:
            lives = self._ended_ns is None
            if lives:
                change(*given)
        if not lives:
            logger.warning("something is told of the span %r, which has ended", self._title)
        return lives

    def _note(self, event: Event) -> None:
        if self._noted is None:
            self._noted = BoundedList(self._bounds.max_events)
        self._noted.append(event)

    def _link(self, link: Link) -> None:
        if self._linked is None:
            self._linked = BoundedList(self._bounds.max_links)
        self._linked.append(link)

    def _judge(self, status: Status) -> None:
        """As the specification has it: Ok is final, and nothing is ever unset."""
        if self._outcome.status_code is not StatusCode.OK and not status.is_unset:
            self._outcome = status

    def _take(self, attributes: Mapping[str, AttributeValue]) -> None:
        facts = self._facts
        if isinstance(facts, dict):
            if self._plain(attributes):
                facts.update(attributes)
                return
            bounds = self._bounds
            facts = self._facts = BoundedAttributes(
                bounds.max_span_attributes, facts, immutable=False, max_value_len=bounds.max_span_attribute_length
            )
        for key, value in attributes.items():
            facts[key] = value

    def _plain(self, attributes: Mapping[str, AttributeValue]) -> bool:
        """Whether the SDK would take all of them as they are."""
        bounds = self._bounds
        if bounds.max_span_attribute_length is not None or bounds.max_span_attributes is None:
            return False
        if len(self._facts) + len(attributes) > bounds.max_span_attributes:
            return False
        for key, value in attributes.items():
            if type(value) not in _PLAIN or type(key) is not str or not key:
                return False
        return True

    def _checked(self, attributes: Attributes, most: int | None) -> BoundedAttributes:
        return BoundedAttributes(most, attributes, max_value_len=self._bounds.max_attribute_length)
