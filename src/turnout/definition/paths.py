"""What a payload has at the end of a path of fields, such as `customer.id`: by its types, and by its JSON Schema."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Collection, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any

from pydantic import BaseModel

from turnout.definition.schemas import is_model


def names_in_type(type_: Any, path: Sequence[str]) -> Collection[str] | None:
    """What a value of this type has at the end of a path, None where the type does not say.

    >>> names_in_type(str, []), names_in_type(dict[str, int], [])
    ((), None)
    """
    if typing.get_origin(type_) is typing.Annotated:
        type_ = typing.get_args(type_)[0]
    if typing.get_origin(type_) in (typing.Union, UnionType):
        several = [each for each in typing.get_args(type_) if each is not NoneType]
        return names_in_type(several[0], path) if len(several) == 1 else None
    if not is_model(type_):
        return () if not path and type_ in (str, int, float, bool) else None
    fields = _fields_of_model(type_)
    if path:
        return names_in_type(fields.get(path[0], Any), path[1:])
    if issubclass(type_, BaseModel) and type_.model_config.get("extra") == "allow":
        return None
    computed = inspect.getmembers_static(type_, lambda each: isinstance(each, property | functools.cached_property))
    return [*fields, *(name for name, _ in computed if not name.startswith(("_", "model_")))]


def _fields_of_model(cls: Any) -> dict[str, Any]:
    if issubclass(cls, BaseModel):
        return {name: field.annotation for name, field in cls.model_fields.items()}
    names = [field.name for field in getattr(cls, "__attrs_attrs__", ())] or list(cls.__dataclass_fields__)
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError):  # It may name what is defined later.
        hints = {}
    return {name: hints.get(name, Any) for name in names}


def names_in_schema(schema: Mapping[str, Any], path: Sequence[str]) -> Collection[str] | None:
    """The same of a value with this JSON Schema.

    >>> names_in_schema({"type": "object", "properties": {"a": {"type": "string"}}}, [])
    ['a']
    """
    at = _resolved(schema, schema)
    for name in path:
        at = _resolved(at.get("properties", {}).get(name, {}), schema)
    if at.get("type") in ("string", "integer", "number", "boolean"):
        return ()
    return None if at.get("type") != "object" or at.get("additionalProperties") else list(at.get("properties", ()))


def _resolved(part: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without references, and without a null that it may be instead; {} where it may be several things."""
    while "$ref" in part or "anyOf" in part:
        if "$ref" in part:
            part = schema.get("$defs", {}).get(part["$ref"].rpartition("/")[2], {})
        else:
            several = [each for each in part["anyOf"] if each.get("type") != "null"]
            part = several[0] if len(several) == 1 else {}
    return part
