"""Whether a value is what a JSON Schema asks for, as far as that is told without knowing the type: kinds and fields.

What it finds is wrong for sure. What it lets pass may still be refused by the code that reads it, and is where the
schema says that its type takes more than it tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from turnout.definition.json_schema import TAKES_MORE

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
_YES_OR_NO = frozenset({"0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes"})


def misfit(schema: Mapping[str, Any], value: Any, *, lax: bool = False) -> str | None:
    """Where the value does not fit and why, in a few words; None when nothing is wrong for sure.

    `lax`: what pydantic makes a value of the right kind from, when it reads JSON, fits as well: "5" is an integer (its
    documentation has a conversion table).

    >>> misfit({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, {"n": "x"})
    'n: it must be integer'
    """
    return _Fit(schema.get("$defs", {}), lax).wrong(schema, value, "", 0)


@attrs.frozen
class _Fit:
    """One comparison: `known` are the definitions that the schema's references name."""

    known: Mapping[str, Any]
    lax: bool

    def wrong(self, schema: Any, value: Any, where: str, depth: int) -> str | None:
        if not isinstance(schema, Mapping) or depth > _DEEPEST or schema.get(TAKES_MORE):
            return None
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self.wrong(self.known.get(reference.rpartition("/")[2]), value, where, depth + 1)
        for several in ("anyOf", "oneOf"):
            if schema.get(several):
                wrong = [self.wrong(each, value, where, depth + 1) for each in schema[several]]
                return None if None in wrong else wrong[0]
        choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if choices and value not in choices and not (self.lax and _may_stand_for(choices, value)):
            return _at(where, f"it must be one of {', '.join(map(repr, choices[:20]))}")
        kind = schema.get("type")
        if isinstance(kind, str) and not self._is_of(kind, schema, value):
            return _at(where, f"it must be {kind}")
        return self._wrong_inside(schema, value, where, depth)

    def _is_of(self, kind: str, schema: Mapping[str, Any], value: Any) -> bool:
        kinds = _KINDS.get(kind)
        if kinds is None or (isinstance(value, kinds) and not (isinstance(value, bool) and kind != "boolean")):
            return True
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            return True
        return self.lax and _is_made_of(kind, schema, value)

    def _wrong_inside(self, schema: Mapping[str, Any], value: Any, where: str, depth: int) -> str | None:
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
        found = (self.wrong(inner, each, place, depth + 1) for place, inner, each in parts)
        return next((wrong for wrong in found if wrong is not None), None)


def _is_made_of(kind: str, schema: Mapping[str, Any], value: Any) -> bool:
    """Whether pydantic may make a value of this kind of that one, which is of another."""
    match kind:
        case "integer" | "number":
            return isinstance(value, bool) or (isinstance(value, str) and _reads_as_a_number(value))
        case "boolean":
            return value in (0, 1) if isinstance(value, int | float) else str(value).lower() in _YES_OR_NO
        case "string":  # a moment or an address may be given as a number
            return "format" in schema and isinstance(value, int | float)
        case _:
            return False


def _may_stand_for(choices: list[Any], value: Any) -> bool:
    """Whether a text may stand for one of those that are none."""
    return isinstance(value, str) and not all(isinstance(each, str) for each in choices)


def _reads_as_a_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _inner(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _at(where: str, what: str) -> str:
    return f"{where}: {what}" if where else what
