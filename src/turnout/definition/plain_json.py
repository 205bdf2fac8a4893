"""JSON without types: which Python values it can carry as they are, and its text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from turnout.errors import InvalidValue

MAX_DEPTH = 200
"""How deep values may be nested. Parsers and printers differ in what they bear; all of them bear this."""


class PayloadProblem(InvalidValue):
    """A payload, result or checkpoint that does not fit its type. The text lists every problem with its field."""


class Unsendable(ValueError):
    """What is wrong with a value; `path` grows from the inside out while it is raised."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[object] = []

    def text(self, what: str) -> str:
        where = "".join(f"[{part!r}]" for part in reversed(self.path))
        return f"{what}{where} cannot be sent as JSON: {self.problem}"


Other = Callable[[Any], Any]


def plain(value: Any, other: Other | None = None) -> Any:
    """`value` made of what JSON has, where a tuple is a list; Unsendable for anything else.

    `other` makes JSON values of the objects that JSON does not have.

    >>> plain({"a": (1, None)})
    {'a': [1, None]}
    """
    if value is None or value is True or value is False or type(value) is int:
        return value
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Unsendable(f"{value!r} is not a JSON number")
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, list) or (isinstance(value, tuple) and not hasattr(value, "_fields")):
        return [_item(item, index, other) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_key(key): _item(item, key, other) for key, item in value.items()}
    if other is not None:
        return other(value)
    raise not_json(value)


def not_json(value: object) -> Unsendable:
    """The refusal of an object that JSON does not have."""
    name = type(value).__qualname__
    article = "an" if name[:1] in "AEIOUaeiou" else "a"
    return Unsendable(f"it is {article} {name}, which JSON does not have: annotate it as {name}, or convert it first")


def _item(item: Any, key: object, other: Other | None) -> Any:
    try:
        return plain(item, other)
    except Unsendable as error:
        error.path.append(key)
        raise


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise Unsendable(f"the key {key!r} is not a string")
    _check_text(key)
    return key


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unsendable("a string with half of a surrogate pair is not text") from None


def _encoder() -> Callable[[Any], str]:
    """What makes JSON text, with a NaN refused. `json.dumps` makes two objects for each call to find the same."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # a Python without CPython's accelerator
        return json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    chunks = make(None, _refuse, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    join = "".join
    return lambda value: join(chunks(value, 0))


def _refuse(value: object) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


_to_text = _encoder()


def dumps(value: Any) -> str:
    """JSON text of what `plain` or an adapter gave; Unsendable for what slipped through (a NaN in a model)."""
    try:
        text = _to_text(value)
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        raise Unsendable("a string with half of a surrogate pair is not text") from None
    except (TypeError, ValueError) as error:
        raise Unsendable(str(error)) from None
    except RecursionError:
        raise Unsendable(TOO_DEEP) from None
    if len(text) > 2 * MAX_DEPTH and too_deep(text, value):
        raise Unsendable(TOO_DEEP)
    return text


TOO_DEEP = f"it is nested too deeply, or contains itself; {MAX_DEPTH} levels are the limit"


def too_deep(text: str, value: Any) -> bool:
    """Whether `value`, which `text` spells, is nested deeper than MAX_DEPTH."""
    if len(text) <= 2 * MAX_DEPTH or text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        lists = [item for item in level if type(item) is list]
        dicts = [item for item in level if type(item) is dict]
        level = [item for each in lists for item in each] + [item for each in dicts for item in each.values()]
        if not level:
            return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_from_text = json.JSONDecoder(parse_constant=_no_constant).decode


def decode_json(text: str, what: str) -> Any:
    """The plain value of JSON text; PayloadProblem names `what`. NaN and Infinity are not JSON."""
    try:
        value = _from_text(text)
    except RecursionError:
        raise PayloadProblem(f"{what} is not JSON that can be read: {TOO_DEEP}") from None
    except ValueError as error:
        raise PayloadProblem(f"{what} is not JSON: {error}") from None
    if too_deep(text, value):
        raise PayloadProblem(f"{what} is not JSON that can be read: {TOO_DEEP}")
    return value
