"""Spans whose id is known before they are: that of a lost attempt, of a run of a workflow, of a timer."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any, cast

from opentelemetry import trace

from turnout.version import version


@contextlib.contextmanager
def tracer_for(scope: str, span_id: str) -> Iterator[trace.Tracer]:
    """Within this block the tracer gives its span this id, in hex; "" leaves it to the provider."""
    token = _wanted.set(int(span_id, 16) if span_id else None)
    try:
        yield _tracer_of(trace.get_tracer_provider(), scope)
    finally:
        _wanted.reset(token)


_wanted: contextvars.ContextVar[int | None] = contextvars.ContextVar("turnout_span_id", default=None)


class _Ids:
    """Gives a span the id that is wanted here and now; else what the provider's own generator gives."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def generate_span_id(self) -> int:
        wanted = _wanted.get()
        return wanted if wanted is not None else int(self._own.generate_span_id())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


@functools.lru_cache(maxsize=4)
def _tracer_of(provider: trace.TracerProvider, scope: str) -> trace.Tracer:
    """A tracer of its own: the API can't choose a span's id, and SDKs let the generator of one tracer be replaced.

    Where an SDK has no such thing, the span gets a new id.
    """
    tracer = provider.get_tracer(scope, version())
    generator = getattr(tracer, "id_generator", None)
    if generator is not None:
        with contextlib.suppress(AttributeError):
            cast(Any, tracer).id_generator = _Ids(generator)
    return tracer
