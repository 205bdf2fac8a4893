"""Arguments, results and checkpoints as JSON text that a person can read and type.

A payload is the object of the activity's parameters, as given: defaults are filled in where the code runs. A function
whose one parameter is a pydantic model, an attrs class or a dataclass takes the object of that model itself.

What comes from a caller in this process and does not fit is an InvalidArguments or InvalidValue that names the
parameter, before anything is stored; what comes from outside is a PayloadProblem with pydantic's list of errors. Types
are resolved at the first use, so that annotations may name what a module defines later; a type nobody can carry is a
DefinitionError then (`Codec.prepare()` asks for it early).
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from turnout.definition.schemas import Adapter, fields_adapter, is_model, own_keys, problems, type_adapter
from turnout.errors import DefinitionError, InvalidArguments, InvalidValue


class PayloadProblem(InvalidValue):
    """A payload, result or checkpoint that does not fit its type. The text lists every problem with its field."""


class InvalidArgument(InvalidArguments, InvalidValue):
    """An argument whose value does not fit its annotation: caught as a TypeError and as a ValueError alike."""


# -- plain JSON -----------------------------------------------------------------------------------------------------


class _Unsendable(Exception):
    """What is wrong with a value; `path` grows from the inside out while it is raised."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str | int] = []

    def text(self, what: str) -> str:
        where = "".join(f"[{part!r}]" for part in reversed(self.path))
        return f"{what}{where} cannot be sent as JSON: {self.problem}"


def _plain(value: Any) -> Any:
    """`value` made of what JSON has; model objects in it become objects. _Unsendable for anything else."""
    if value is None or value is True or value is False or type(value) is int:
        return value
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Unsendable(f"{value!r} is not a JSON number")
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, list | tuple):
        return [_plain_item(item, index) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_key(key): _plain_item(item, key) for key, item in value.items()}
    return _object(value)


def _plain_item(item: Any, key: str | int) -> Any:
    try:
        return _plain(item)
    except _Unsendable as error:
        error.path.append(key)
        raise


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise _Unsendable(f"the key {key!r} is not a string")
    _check_text(key)
    return key


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Unsendable("a string with half of a surrogate pair is not text") from None


def _object(value: Any) -> Any:
    if not is_model(type(value)):
        raise _Unsendable(f"{_short(value)} is a {type(value).__qualname__}")
    return type_adapter(type(value)).dump(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_to_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""Made once: `json.dumps` makes an encoder for each call that asks for other than its defaults."""


def _dumps(value: Any, what: str) -> str:
    """JSON text of what `_plain` or an adapter gave; refuses what slipped through those two (a NaN in a model)."""
    try:
        text = _to_text(value)
        if not text.isascii():
            text.encode()
        return text
    except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError.
        raise InvalidValue(f"{what} cannot be sent as JSON: {error}") from error
    except RecursionError as error:
        raise InvalidValue(f"{what} is nested too deeply to be sent as JSON") from error


def encode_json(value: object, what: str) -> str:
    """JSON text of a value without annotation; model objects in it are carried too. InvalidValue names `what`.

    >>> encode_json({"path": "a.mp4"}, "payload")
    '{"path":"a.mp4"}'
    """
    try:
        return _dumps(_plain(value), what)
    except _Unsendable as error:
        raise InvalidValue(error.text(what)) from None
    except RecursionError as error:
        raise InvalidValue(f"{what} is nested too deeply, or contains itself") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_from_text = json.JSONDecoder(parse_constant=_no_constant).decode


def decode_json(text: str, what: str) -> Any:
    """The plain value of JSON text; PayloadProblem names `what`. NaN and Infinity are not JSON."""
    try:
        return _from_text(text)
    except (ValueError, RecursionError) as error:
        raise PayloadProblem(f"{what} is not JSON: {error}") from error


def encode_checkpoint(value: object) -> str:
    """JSON text of a checkpoint: plain values, or a model object."""
    return encode_json(value, "checkpoint")


def decode_as(text: str, type_: Any = None, what: str = "value") -> Any:
    """The value of JSON text as `type_`, plain when that is None. PayloadProblem names `what` and the fields.

    >>> decode_as('["1"]', list[int])
    [1]
    """
    if type_ is None or type_ is Any:
        return decode_json(text, what)
    return _parse(_adapter(type_, what), text, what)


def _adapter(type_: Any, what: str) -> Adapter:
    try:
        return type_adapter(type_)
    except (PydanticUserError, PydanticSchemaGenerationError, NameError, TypeError) as error:
        raise DefinitionError(f"{what}: {type_!r} is not a type that JSON can carry: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _parse(adapter: Adapter, text: str, what: str) -> Any:
    if "NaN" in text or "Infinity" in text:  # pydantic's parser takes these for numbers.
        decode_json(text, what)
    try:
        return adapter.parse(text)
    except ValidationError as error:
        if any(item["type"] == "json_invalid" for item in error.errors(include_url=False)):
            raise PayloadProblem(f"{what} is not JSON: {problems(error)}") from error
        raise PayloadProblem(f"invalid {what}: {problems(error)}") from error


# -- one activity's payloads ----------------------------------------------------------------------------------------

_JSON_TYPES = frozenset({Any, object, str, int, float, bool, None, NoneType, list, dict, tuple, Mapping, Sequence})
_JSON_CONTAINERS = (list, tuple, Sequence, typing.Union, UnionType)


def _is_plain(annotation: Any) -> bool:
    """Whether an annotation is made of JSON's own types, so that whatever it lets pass can be checked for them."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (dict, Mapping):
        return parts[0] in (str, Any) and _is_plain(parts[1])
    if origin in _JSON_CONTAINERS:
        return all(_is_plain(part) for part in parts if part is not Ellipsis)
    return origin is None and annotation.__hash__ is not None and annotation in _JSON_TYPES


class Codec:
    """The payload, result and schemas of one function. Build it once; everything is resolved at the first use.

    `localns` resolves string annotations of a function that is not at the top of its module.

    >>> def convert(path: str, size: int = 720) -> None: ...
    >>> Codec(convert, "convert").encode_arguments(("a.mp4",), {})
    '{"path":"a.mp4"}'
    """

    def __init__(self, fn: Callable[..., Any], name: str, localns: dict[str, Any] | None = None) -> None:
        self.name = name
        self.signature = inspect.signature(fn)
        self._fn = fn
        self._localns = localns
        for parameter in self.signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
                raise DefinitionError(
                    f"activity {name}: {stars}{parameter.name} is not supported, since a payload is an object of named "
                    f"parameters; take a list or a dict as a parameter instead"
                )

    def prepare(self) -> None:
        """Resolve all types now; DefinitionError names the parameter whose type cannot be carried."""
        _ = self._payload, self._result

    # -- submitting

    def encode_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The payload of a call. InvalidArguments when the arguments don't fit, InvalidValue for unsendable ones."""
        given: dict[str, Any]
        if not args and not self._positional and self._required <= kwargs.keys() <= self._types.keys():
            given = {name: kwargs[name] for name in self._types if name in kwargs}  # What bind() gives, faster.
        else:
            try:
                given = self.signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise InvalidArguments(f"{self.name}(): {error}") from None
        if self._model is None:
            return self._encode_fields(given)
        if not given:
            return "{}"
        return self._encode_model(next(iter(given.values())))

    def encode_object(self, value: object) -> str:
        """The payload given as one value: an object of the parameters, or the model (an object, or a dict of it)."""
        if self._model is not None:
            return self._encode_model(value)
        if not isinstance(value, Mapping):
            raise InvalidArgument(f"{self.name}: a payload must be a dict of its parameters, not {_short(value)}")
        return self._encode_fields(dict(value))

    def _encode_fields(self, given: dict[str, Any]) -> str:
        given = {**given, **{name: self._made_plain(name, given[name]) for name in self._plain_names if name in given}}
        checked = self._check(given)
        try:
            return _dumps(self._payload.dump(checked), self.name)
        except ValueError as error:  # pydantic's serialization error is one, and so is InvalidValue.
            raise self._blamed(checked, error) from error

    def _encode_model(self, value: Any) -> str:
        assert self._model is not None
        if isinstance(value, Mapping):
            self._refuse_unknown(value)
        checked = self._check(value)
        what = f"{self.name}: parameter {self._model!r}"
        try:
            return _dumps(self._payload.dump(checked), what)
        except InvalidValue:
            raise
        except ValueError as error:
            raise InvalidValue(f"{what} cannot be sent as JSON: {_first_line(error)}") from error

    def _made_plain(self, name: str, value: Any) -> Any:
        try:
            return _plain(value)
        except _Unsendable as error:
            raise InvalidArgument(f"{self.name}: {error.text(f'parameter {name!r}')}") from None
        except RecursionError as error:
            raise InvalidValue(f"{self.name}: parameter {name!r} is nested too deeply, or contains itself") from error

    def _check(self, value: Any) -> Any:
        try:
            return self._payload.check(value)
        except ValidationError as error:
            raise InvalidArgument(f"{self.name}: {problems(error)}") from error
        except UnicodeEncodeError as error:
            raise self._blamed(value, error) from error

    def _blamed(self, given: Any, error: Exception) -> InvalidValue:
        """`error` with the name of the parameter that is to blame for it."""
        for name, value in given.items() if isinstance(given, dict) else ():
            try:
                adapter = _adapter(self._types[name][0], name)
                _dumps(adapter.dump(adapter.check(value)), name)
            except ValueError as cause:
                reason = cause.reason if isinstance(cause, UnicodeEncodeError) else _first_line(cause)
                return InvalidValue(f"{self.name}: parameter {name!r} cannot be sent as JSON: {reason}")
        return InvalidValue(f"{self.name}: {_first_line(error)}")

    # -- running

    def decode(self, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the call that a payload asks for; empty text is `{}`. PayloadProblem lists what is wrong."""
        text = text if text.strip() else "{}"
        what = f"payload of {self.name}"
        if self._model is None:
            return self._arguments(_parse(self._payload, text, what))
        required = self._types[self._model][1]
        if not required and decode_json(text, what) == {}:
            return (), {}
        if self._keys is not None:
            self._refuse_unknown(decode_json(text, what), PayloadProblem)
        return self._arguments({self._model: _parse(self._payload, text, what)})

    def _arguments(self, values: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = []
        for name in self._positional:
            parameter = self.signature.parameters[name]
            args.append(values.pop(name) if name in values else parameter.default)
        return tuple(args), values

    def _refuse_unknown(self, value: Any, error: type[Exception] = InvalidArgument) -> None:
        """A dataclass or an attrs class cannot say what it does with unknown keys: at the top they are mistakes."""
        unknown = [key for key in value if key not in self._keys] if self._keys and isinstance(value, Mapping) else []
        if unknown:
            listed = "; ".join(f"{key}: unknown key" for key in unknown[:20])
            raise error(f"invalid payload of {self.name}: {listed}")

    # -- results

    def encode_result(self, value: Any) -> str:
        """JSON text of a result by the return annotation, plain without one. InvalidValue when it doesn't fit."""
        what = f"result of {self.name}"
        if self._result is None:
            return encode_json(value, what)
        try:
            return _dumps(self._result.dump(self._result.check(value)), what)
        except ValidationError as error:
            raise InvalidValue(f"{what} is not what the function's annotation promises: {problems(error)}") from error
        except InvalidValue:
            raise
        except ValueError as error:
            raise InvalidValue(f"{what} cannot be sent as JSON: {_first_line(error)}") from error

    def decode_result(self, text: str) -> Any:
        """The result as the type of the return annotation; plain JSON without one."""
        what = f"result of {self.name}"
        return decode_json(text, what) if self._result is None else _parse(self._result, text, what)

    # -- the contract

    def payload_schema(self) -> dict[str, Any]:
        """The JSON Schema of the payload, with the defaults that JSON can carry."""
        schema = self._payload.json_schema("validation")
        schema.setdefault("title", self.name)
        if self._model is not None:
            return schema
        for name, parameter in self.signature.parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                try:
                    schema["properties"][name].setdefault("default", json.loads(encode_json(parameter.default, name)))
                except InvalidValue:
                    continue  # The schema then only says that it may be left out.
        return schema

    def result_schema(self) -> dict[str, Any]:
        """The JSON Schema of the result; {} when the function doesn't say."""
        return {} if self._result is None else self._result.json_schema("serialization")

    # -- types, resolved at the first use

    @functools.cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return typing.get_type_hints(self._fn, localns=self._localns, include_extras=True)
        except (NameError, AttributeError, TypeError, SyntaxError) as error:
            raise DefinitionError(f"activity {self.name}: an annotation cannot be resolved: {error}") from error

    @functools.cached_property
    def _types(self) -> dict[str, tuple[Any, bool]]:
        """Every parameter's type and whether it must be given."""
        return {
            name: (self._hints.get(name, Any), parameter.default is inspect.Parameter.empty)
            for name, parameter in self.signature.parameters.items()
        }

    @functools.cached_property
    def _model(self) -> str | None:
        """The name of the one parameter that is a model, so that the payload is its object."""
        if len(self._types) != 1:
            return None
        ((name, (type_, _)),) = self._types.items()
        return name if is_model(_class_of(type_)) else None

    @functools.cached_property
    def _keys(self) -> frozenset[str] | None:
        return None if self._model is None else own_keys(_class_of(self._types[self._model][0]))

    @functools.cached_property
    def _positional(self) -> tuple[str, ...]:
        return tuple(n for n, p in self.signature.parameters.items() if p.kind is p.POSITIONAL_ONLY)

    @functools.cached_property
    def _required(self) -> frozenset[str]:
        return frozenset(name for name, (_, required) in self._types.items() if required)

    @functools.cached_property
    def _plain_names(self) -> tuple[str, ...]:
        """The parameters that could let through what JSON lacks, because their annotation says little or nothing."""
        closed = (str, int, float, bool, NoneType)
        return tuple(name for name, (type_, _) in self._types.items() if type_ not in closed and _is_plain(type_))

    @functools.cached_property
    def _payload(self) -> Adapter:
        adapters = {n: _adapter(t, f"activity {self.name}, parameter {n!r}") for n, (t, _) in self._types.items()}
        return fields_adapter(self._types) if self._model is None else adapters[self._model]

    @functools.cached_property
    def _result(self) -> Adapter | None:
        hint = self._hints.get("return", Any)
        return None if hint in (Any, object, None, NoneType) else _adapter(hint, f"activity {self.name}, result")


def _class_of(type_: Any) -> Any:
    """The class behind `Annotated[X, ...]` and `X[int]`."""
    if typing.get_origin(type_) is typing.Annotated:
        type_ = typing.get_args(type_)[0]
    return typing.get_origin(type_) or type_
