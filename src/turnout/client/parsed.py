"""The values of bodies, for people to look at: what can't be parsed is shown as it is."""

from __future__ import annotations

import re
from typing import Any

from turnout import fastjson
from turnout.definition.plain_json import decode_json, too_deep

_ODD = re.compile(r"\d{16}|NaN|Infinity")
"""What JSON parsers differ in: numbers beyond 64 bits or a double, and what is no JSON. The exact one takes longer."""


def parsed(text: str | None) -> Any:
    """The value of JSON text; the text itself where it is no JSON, or nested more deeply than values may be."""
    if text is None:
        return None
    try:
        if _ODD.search(text):
            return decode_json(text, "body")
        value = fastjson.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if too_deep(text, value) else value


def parsed_payload(text: str | None) -> Any:
    """An empty payload means the empty object, as it does to the code that it is for."""
    return parsed(text) if text is None or text.strip() else {}
