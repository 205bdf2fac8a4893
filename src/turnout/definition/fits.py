"""Whether a value is what a JSON Schema asks for, as far as that is told without knowing the type: kinds and fields.

What it finds is wrong for sure. What it lets pass may still be refused by the code that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_DEEPEST = 50


def misfit(schema: Mapping[str, Any], value: Any) -> str | None:
    """Where the value does not fit and why, in a few words; None when nothing is wrong for sure.

    >>> misfit({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, {"n": "x"})
    'n: it must be integer'
    """
    return _misfit(schema, value, schema.get("$defs", {}), "", 0)


def _misfit(schema: Any, value: Any, known: Mapping[str, Any], where: str, depth: int) -> str | None:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _misfit(known.get(reference.rpartition("/")[2]), value, known, where, depth + 1)
    for several in ("anyOf", "oneOf"):
        if schema.get(several):
            wrong = [_misfit(each, value, known, where, depth + 1) for each in schema[several]]
            return None if None in wrong else wrong[0]
    if "enum" in schema and value not in schema["enum"]:
        return _at(where, f"it must be one of {', '.join(map(repr, schema['enum'][:20]))}")
    return _of_kind(schema, value, known, where, depth)


def _of_kind(schema: Mapping[str, Any], value: Any, known: Mapping[str, Any], where: str, depth: int) -> str | None:
    kind = schema.get("type")
    kinds = _KINDS.get(kind) if isinstance(kind, str) else None
    if kinds is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and kind != "boolean")):
        whole = kind == "integer" and isinstance(value, float) and value.is_integer()
        return None if whole else _at(where, f"it must be {kind}")
    if isinstance(value, dict):
        for name in schema.get("required") or ():
            if name not in value:
                return _at(_inner(where, name), "it is missing")
        fields = schema.get("properties") or {}
        others = schema.get("additionalProperties")
        parts = [(_inner(where, name), fields.get(name, others), each) for name, each in value.items()]
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        parts = [(_inner(where, str(index)), schema["items"], each) for index, each in enumerate(value)]
    else:
        return None
    found = (_misfit(inner, each, known, place, depth + 1) for place, inner, each in parts)
    return next((wrong for wrong in found if wrong is not None), None)


def _inner(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _at(where: str, what: str) -> str:
    return f"{where}: {what}" if where else what
