"""Whether a value comes back from JSON as it was: told by its type where that can tell, else by comparing the two.

A tuple that JSON has made a list of is taken for the same, and so is a subclass of a builtin type that is equal to what
came back (an enum's member that is a string). Everything else that changes is refused, before anything is stored.
"""

from __future__ import annotations

import datetime as dt
import functools
import types
from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from typing import Any

import attrs
from pydantic import BaseModel, Secret, SecretBytes, SecretStr

from turnout.definition.plain_json import Unsendable

_LEAVES = frozenset({"none", "bool", "int", "float", "str", "uuid"})
_PARTS = {
    "nullable": ("schema",),
    "list": ("items_schema",),
    "set": ("items_schema",),
    "frozenset": ("items_schema",),
    "tuple": ("items_schema",),
    "dict": ("keys_schema", "values_schema"),
}
_KEYS = frozenset({"str", "int"})


def certain(schema: Any) -> bool:
    """Whether every value that this pydantic core schema lets pass comes back from its JSON as it was.

    That can be said of containers of simple values. An object may hold what its class does not say, a union may take
    the one for the other, and functions of the user's may do anything: their values are compared, each time.
    """
    kind = schema["type"]
    if "serialization" in schema:
        return False
    if kind in _LEAVES:
        return True
    if kind not in _PARTS or (kind == "dict" and schema.get("keys_schema", {}).get("type") not in _KEYS):
        return False
    parts = [schema.get(part) for part in _PARTS[kind]]
    flat = [each for part in parts for each in (part if isinstance(part, list) else [part])]
    return all(part is not None and certain(part) for part in flat)


def compare(sent: Any, back: Any) -> None:
    """Unsendable, with the path, at the first place where what came back differs from what was sent."""
    cls: Any = type(sent)
    if sent is back or (cls in _SIMPLE and cls is type(back) and sent == back):
        return
    names = field_names(cls)
    if names is not None:
        _compare_objects(sent, back, names)
    elif isinstance(sent, Mapping) and isinstance(back, Mapping):
        _compare_mappings(sent, back)
    elif isinstance(sent, list | tuple | deque) and isinstance(back, list | tuple | deque):
        _compare_sequences(sent, back)
    elif not _same_leaf(sent, back):
        raise _changed(sent, back)


_SIMPLE = frozenset({str, int, float, bool, bytes})


@functools.lru_cache(maxsize=1024)
def field_names(cls: type) -> tuple[str, ...] | None:
    """The fields that make up a model object's value; None for a class that is no model."""
    if issubclass(cls, BaseModel):
        return tuple(cls.model_fields)
    if attrs.has(cls):
        return tuple(field.name for field in attrs.fields(cls) if field.init or field.eq)
    if is_dataclass(cls):
        return tuple(field.name for field in fields(cls) if field.init or field.compare)
    return None


def _compare_objects(sent: Any, back: Any, names: tuple[str, ...]) -> None:
    if type(sent) is not type(back):
        raise _changed(sent, back)
    for name in names:
        one, other = getattr(sent, name, _MISSING), getattr(back, name, _MISSING)
        try:
            compare(one, other)
        except Unsendable as error:
            raise _at(name, error) from None
    if isinstance(sent, BaseModel):
        for extra in ("__pydantic_extra__", "__pydantic_private__"):
            _compare_mappings(getattr(sent, extra, None) or {}, getattr(back, extra, None) or {})


_MISSING = object()


def _compare_mappings(sent: Mapping[Any, Any], back: Mapping[Any, Any]) -> None:
    if type(sent) is not type(back) and type(back) is not dict:
        raise _changed(sent, back)
    for key, value in sent.items():
        if key not in back:
            raise _at(key, Unsendable("this key would arrive as another one, or not at all"))
        _compare_at(key, value, back[key])
    for key in back:
        if key not in sent:
            raise _at(key, Unsendable("this key would be there when it arrives, and is not now"))


def _compare_sequences(sent: Any, back: Any) -> None:
    known = type(sent) is type(back) or (type(back) is list and not hasattr(sent, "_fields"))
    if not (known and len(sent) == len(back)):
        raise _changed(sent, back)
    for index, (one, other) in enumerate(zip(sent, back, strict=True)):
        _compare_at(index, one, other)


def _compare_at(key: object, sent: Any, back: Any) -> None:
    try:
        compare(sent, back)
    except Unsendable as error:
        raise _at(key, error) from None


def _at(key: object, error: Unsendable) -> Unsendable:
    error.path.append(key)
    return error


def _same_leaf(sent: Any, back: Any) -> bool:
    if not _same_kind(sent, back):
        return False
    if isinstance(sent, types.GeneratorType) or type(sent).__name__ == "ValidatorIterator":
        return True  # it has been read for its JSON; what comes back gives the same items
    equality: object = type(sent).__eq__
    if equality is object.__eq__ and not isinstance(sent, type):
        return _same_state(sent, back)
    try:
        return bool(sent == back)
    except Exception:  # a class of somebody else's: where it can't say that they are equal, they are not
        return False


def _same_kind(sent: Any, back: Any) -> bool:
    """Of the same class; or a number, text, bytes or set that is at home in what came back."""
    cls = type(back)
    if type(sent) is cls:
        return True
    if isinstance(sent, int | float) and isinstance(back, int | float):
        return True
    if isinstance(sent, dt.datetime) != isinstance(back, dt.datetime):
        return False
    return isinstance(sent, cls) and cls in _BUILTIN and not isinstance(sent, AbstractSet)


_BUILTIN = frozenset({str, bytes, dt.datetime, dt.date, dt.time, dt.timedelta})


def _same_state(sent: Any, back: Any) -> bool:
    """Of two objects whose class does not say what makes them equal: whether they hold the same."""
    slots = [name for cls in type(sent).__mro__ for name in _slots(cls)]
    if not hasattr(sent, "__dict__") and not slots:
        return False
    try:
        _compare_mappings(getattr(sent, "__dict__", {}), getattr(back, "__dict__", {}))
        for name in slots:
            compare(getattr(sent, name, _MISSING), getattr(back, name, _MISSING))
    except Unsendable:
        return False
    return True


def _slots(cls: type) -> list[str]:
    given = cls.__dict__.get("__slots__", ())
    names = [given] if isinstance(given, str) else list(given)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _changed(sent: Any, back: Any) -> Unsendable:
    if isinstance(sent, SecretStr | SecretBytes | Secret):
        return Unsendable(
            f"JSON hides what a {type(sent).__qualname__} holds, so it would arrive as asterisks: give the field a "
            f"serializer that reveals it, if it may be stored, or send a reference to the secret"
        )
    if back is _MISSING or sent is _MISSING:
        return Unsendable("this field is missing here, or would be when it arrives")
    became = type(back).__qualname__
    if type(sent) is type(back):
        return Unsendable(f"it would arrive as another {became} than it is")
    return Unsendable(f"it is a {type(sent).__qualname__}, and would arrive as a {became}")
