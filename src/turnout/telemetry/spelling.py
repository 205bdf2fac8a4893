"""The OTLP exporters spell each attribute of each span anew, and most of an attempt's are those of the attempt before.

So spelling was half of what a span costs a busy worker, and the library has no setting for it: ADR 9.
"""

from __future__ import annotations

import functools
from typing import Any

REMEMBERED = 4096
LONGEST = 64
"""A longer text is not remembered: a traceback comes once."""


def remember_attributes() -> None:
    """From now on an attribute of a short text or a number is spelt once for all spans of this process that have it.

    A release of the library that has its function elsewhere goes on as it would without this.
    """
    try:
        from opentelemetry.exporter.otlp.proto.common import _internal
    except ImportError:
        return
    spell = getattr(_internal, "_encode_key_value", None)
    if spell is None or hasattr(spell, "__wrapped__"):
        return
    remembered = functools.lru_cache(REMEMBERED, typed=True)(spell)

    @functools.wraps(spell)
    def spelt(key: str, value: Any, *more: Any, **named: Any) -> Any:
        kind = type(value)
        short = len(value) <= LONGEST if kind is str else kind is int or kind is bool
        return remembered(key, value) if short and not (more or named) else spell(key, value, *more, **named)

    vars(_internal)["_encode_key_value"] = spelt
