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
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any

from pydantic import ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from turnout.definition.paths import names_in_type
from turnout.definition.plain_json import TOO_DEEP, PayloadProblem, Unsendable, decode_json, dumps, not_json, plain
from turnout.definition.schemas import LARGE_CHARS, Adapter, fields_adapter, is_model, own_keys, problems, type_adapter
from turnout.errors import DefinitionError, InvalidArguments, InvalidValue

EXACT_NAMES = "x-turnout-exact-names"
"""In a payload's JSON Schema: what does not fit is refused for sure, and so are other keys, if this is true."""


class InvalidArgument(InvalidArguments, InvalidValue):
    """An argument whose value does not fit its annotation: caught as a TypeError and as a ValueError alike."""


# -- values without annotation --------------------------------------------------------------------------------------


def _model(value: Any) -> Any:
    """The JSON values of a model object or a named tuple that is read back by its own type."""
    if is_model(type(value)) or hasattr(value, "_fields"):
        return _adapter(type(value), "its class").values(value)
    raise not_json(value)


def encode_json(value: object, what: str) -> str:
    """JSON text of a value without annotation; model objects in it are carried too. InvalidValue names `what`.

    >>> encode_json({"path": "a.mp4"}, "payload")
    '{"path":"a.mp4"}'
    """
    try:
        return dumps(plain(value, _model))
    except Unsendable as error:
        raise InvalidValue(error.text(what)) from None
    except RecursionError:
        raise InvalidValue(f"{what} cannot be sent as JSON: {TOO_DEEP}") from None


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
    except ValidationError as error:  # Not told as the cause: it shows the values, which may be secrets.
        if error.error_count() == 1 and error.errors(include_url=False)[0]["type"] == "json_invalid":
            raise PayloadProblem(f"{what} is not JSON: {problems(error)}") from None
        raise PayloadProblem(f"invalid {what}: {problems(error)}") from None
    except RecursionError:
        raise PayloadProblem(f"invalid {what}: {TOO_DEEP}") from None


# -- one activity's payloads ----------------------------------------------------------------------------------------

_JSON_TYPES = (Any, object, str, int, float, bool, None, NoneType, list, dict, tuple, Mapping, Sequence)
_CLOSED = (str, int, float, bool, NoneType)
_JSON_CONTAINERS = (list, tuple, Sequence, typing.Union, UnionType)


def _is_plain(annotation: Any) -> bool:
    """Whether an annotation is made of JSON's own types, so that whatever it lets pass can be checked for them."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (dict, Mapping):
        return parts[0] in (str, Any) and _is_plain(parts[1])
    if origin in _JSON_CONTAINERS:
        return all(_is_plain(part) for part in parts if part is not Ellipsis)
    return origin is None and any(annotation is each for each in _JSON_TYPES)


class Codec:
    """The payload, result and schemas of one function. Build it once; everything is resolved at the first use.

    `localns` resolves string annotations of a function that is not at the top of its module. The first parameter of a
    `method` is the object itself and no part of a payload.

    >>> def convert(path: str, size: int = 720) -> None: ...
    >>> Codec(convert, "convert").encode_arguments(("a.mp4",), {})
    '{"path":"a.mp4"}'
    """

    def __init__(
        self, fn: Callable[..., Any], name: str, localns: dict[str, Any] | None = None, *, method: bool = False
    ) -> None:
        self.name = name
        self.signature = inspect.signature(fn)
        if method:
            own = list(self.signature.parameters.values())
            self.signature = self.signature.replace(parameters=own[1:])
        self._fn = fn
        self._localns = localns
        for parameter in self.signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
                raise DefinitionError(
                    f"{name}: {stars}{parameter.name} is not supported, since a payload is an object of named "
                    f"parameters; take a list or a dict as a parameter instead"
                )

    def prepare(self) -> None:
        """Resolve all types now; DefinitionError names the parameter whose type cannot be carried."""
        _ = self._payload, self._result

    # -- submitting

    def encode_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The payload of a call. InvalidArguments when the arguments don't fit, InvalidValue for unsendable ones."""
        given = self._bound(args, kwargs)
        if self._model is None:
            return self._encode_fields(given)
        if not given:
            return "{}"
        return self._encode_model(next(iter(given.values())))

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What `bind()` of the signature gives, which takes several times as long."""
        if len(args) <= len(self._by_place) and not (kwargs and self._positional):
            given = dict(zip(self._by_place, args, strict=False)) if args else {}
            if kwargs:
                both = {**given, **kwargs} if given else kwargs
                given = {name: both[name] for name in self._types if name in both}
            if len(given) == len(args) + len(kwargs) and self._required <= given.keys():
                return given
        try:
            return self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InvalidArguments(f"{self.name}(): {error}") from None

    def encode_object(self, value: object) -> str:
        """The payload given as one value: an object of the parameters, or the model (an object, or a dict of it)."""
        if self._model is not None:
            return self._encode_model(value)
        if not isinstance(value, Mapping):
            kind = type(value).__qualname__
            raise InvalidArgument(f"{self.name}: a payload must be a dict of its parameters, not a {kind}")
        return self._encode_fields(dict(value))

    def _encode_fields(self, given: dict[str, Any]) -> str:
        for name in self._plain_names:
            if name in given:
                given = {**given, name: self._made_plain(name, given[name])}
        checked = self._check(given)
        try:
            return self._payload.encode(checked, sure=self._sure)
        except Unsendable as error:
            raise self._blamed(checked, error) from None

    def _encode_model(self, value: Any) -> str:
        if isinstance(value, Mapping):
            self._refuse_unknown(value)
        checked = self._check(value)
        try:
            return self._payload.encode(checked)
        except Unsendable as error:
            raise InvalidValue(f"{self.name}: {error.text(f'parameter {self._model!r}')}") from None

    def _made_plain(self, name: str, value: Any) -> Any:
        try:
            return plain(value)
        except Unsendable as error:
            raise InvalidArgument(f"{self.name}: {error.text(f'parameter {name!r}')}") from None
        except RecursionError:
            raise InvalidValue(f"{self.name}: parameter {name!r} cannot be sent as JSON: {TOO_DEEP}") from None

    def _check(self, value: Any) -> Any:
        try:
            return self._payload.check(value)
        except ValidationError as error:
            raise InvalidArgument(f"{self.name}: {problems(error)}") from None
        except UnicodeEncodeError:
            raise self._blamed(value, Unsendable("a string with half of a surrogate pair is not text")) from None
        except RecursionError:
            raise InvalidArgument(f"{self.name}: {TOO_DEEP}") from None

    def _blamed(self, given: Any, error: Unsendable) -> InvalidValue:
        """`error` with the name of the parameter that is to blame for it."""
        for name, value in given.items() if isinstance(given, dict) else ():
            adapter = _adapter(self._types[name][0], name)
            try:
                adapter.encode(adapter.check(value), sure=name in self._plain_names)
            except Unsendable as cause:
                return InvalidValue(f"{self.name}: {cause.text(f'parameter {name!r}')}")
            except ValueError:  # half of a surrogate pair, which pydantic does not tell from other trouble
                return InvalidValue(f"{self.name}: {error.text(f'parameter {name!r}')}")
        return InvalidValue(f"{self.name}: {error.text('its arguments')}")

    # -- running

    def decode(self, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the call that a payload asks for; empty text is `{}`. PayloadProblem lists what is wrong."""
        text = text if text.strip() else "{}"
        what = f"payload of {self.name}"
        if self._model is None:
            self._refuse_no_object(text, what)
            if len(text) >= LARGE_CHARS:  # pydantic would make an error of each unknown key, however many there are
                self._refuse_unknown(decode_json(text, what), PayloadProblem)
            return self._arguments(_parse(self._payload, text, what))
        required = self._types[self._model][1]
        if not required and decode_json(text, what) == {}:
            return (), {}
        if self._keys is not None:
            self._refuse_unknown(decode_json(text, what), PayloadProblem)
        return self._arguments({self._model: _parse(self._payload, text, what)})

    def values(self, text: str) -> Mapping[str, Any]:
        """The fields of a payload by name, validated and with their defaults. PayloadProblem lists what is wrong."""
        args, kwargs = self.decode(text)
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if self._model is None:
            return bound.arguments
        model = bound.arguments[self._model]
        return {name: getattr(model, name, None) for name in self.field_names}

    @property
    def field_names(self) -> tuple[str, ...]:
        """What a payload has at its top: the parameters, or the fields of the one model."""
        if self._model is None:
            return tuple(self._types)
        cls = _class_of(self._types[self._model][0])
        for fields in ("model_fields", "__pydantic_fields__", "__dataclass_fields__", "__attrs_attrs__"):
            if hasattr(cls, fields):
                return tuple(getattr(field, "name", field) for field in getattr(cls, fields))
        return ()

    def names_at(self, path: Sequence[str]) -> Collection[str] | None:
        """What a payload has at the end of a path of fields; None where its types do not say."""
        if not path:
            return self.field_names
        if self._model is not None:
            return names_in_type(self._types[self._model][0], path)
        return names_in_type(self._types[path[0]][0], path[1:])

    def _arguments(self, values: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = []
        for name in self._positional:
            parameter = self.signature.parameters[name]
            args.append(values.pop(name) if name in values else parameter.default)
        return tuple(args), values

    def _refuse_no_object(self, text: str, what: str) -> None:
        """What is JSON and no object is a mistake that pydantic's words don't explain."""
        if text[0] != "{" and not text.lstrip().startswith("{"):
            decode_json(text, what)
            names = ", ".join(f'"{name}": ...' for name in self._types)
            raise PayloadProblem(f"invalid {what}: it must be an object of its parameters: {{{names}}}")

    def _refuse_unknown(self, value: Any, error: type[Exception] = InvalidArgument) -> None:
        """A dataclass or an attrs class cannot say what it does with unknown keys: at the top they are mistakes."""
        known = self._types if self._model is None else self._keys
        unknown = [key for key in value if key not in known] if known is not None and isinstance(value, Mapping) else []
        if unknown:
            listed = "; ".join(f"{key}: unknown key" for key in unknown[:20])
            if len(unknown) > 20:
                listed += f"; and {len(unknown) - 20} more"
            raise error(f"invalid payload of {self.name}: {listed}")

    # -- results

    def encode_result(self, value: Any) -> str:
        """JSON text of a result by the return annotation, plain without one. InvalidValue when it doesn't fit."""
        what = f"result of {self.name}"
        if self._result is None:
            return encode_json(value, what)
        try:
            if self._result_plain:
                return self._result.encode(self._result.check(plain(value)), sure=True)
            return self._result.encode(self._result.check(value))
        except ValidationError as error:
            promise = f"{what} is not what the function's annotation promises"
            raise InvalidValue(f"{promise}: {problems(error)}") from None
        except Unsendable as error:
            raise InvalidValue(error.text(what)) from None
        except UnicodeEncodeError:
            raise InvalidValue(f"{what} cannot be sent as JSON: it holds half of a surrogate pair") from None
        except RecursionError:
            raise InvalidValue(f"{what} cannot be sent as JSON: {TOO_DEEP}") from None

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
            if self._keys is not None:
                schema["additionalProperties"] = False
            if self._types[self._model][1]:  # else an empty object stands for the default, whatever the model requires
                schema[EXACT_NAMES] = self._keys is not None
            return schema
        schema[EXACT_NAMES] = True
        for name, parameter in self.signature.parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                try:
                    schema["properties"][name].setdefault("default", json.loads(encode_json(parameter.default, name)))
                except InvalidValue:
                    continue  # The schema then only says that it may be left out.
        return schema

    def result_schema(self) -> dict[str, Any]:
        """The JSON Schema of the result; {} when the function doesn't say."""
        return {} if self._result is None else self._result.json_schema("validation")

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
    def _by_place(self) -> tuple[str, ...]:
        """The parameters that can be given without their names."""
        return tuple(n for n, p in self.signature.parameters.items() if p.kind is not p.KEYWORD_ONLY)

    @functools.cached_property
    def _required(self) -> frozenset[str]:
        return frozenset(name for name, (_, required) in self._types.items() if required)

    @functools.cached_property
    def _plain_names(self) -> tuple[str, ...]:
        """The parameters that could let through what JSON lacks, because their annotation says little or nothing."""
        return tuple(name for name, (type_, _) in self._types.items() if type_ not in _CLOSED and _is_plain(type_))

    @functools.cached_property
    def _sure(self) -> bool:
        """Whether all that the parameters' types let pass comes back as it was: of those not made plain before."""
        rest = [
            type_ for name, (type_, _) in self._types.items() if type_ not in _CLOSED and name not in self._plain_names
        ]
        return all(_adapter(type_, self.name).certain for type_ in rest)

    @functools.cached_property
    def _payload(self) -> Adapter:
        adapters = {n: _adapter(t, f"activity {self.name}, parameter {n!r}") for n, (t, _) in self._types.items()}
        return fields_adapter(self._types) if self._model is None else adapters[self._model]

    @functools.cached_property
    def _result_plain(self) -> bool:
        return _is_plain(self._hints["return"]) and self._result is not None and not self._result.certain

    @functools.cached_property
    def _result(self) -> Adapter | None:
        hint = self._hints.get("return", Any)
        return None if hint in (Any, object, None, NoneType) else _adapter(hint, f"activity {self.name}, result")


def _class_of(type_: Any) -> Any:
    """The class behind `Annotated[X, ...]` and `X[int]`."""
    if typing.get_origin(type_) is typing.Annotated:
        type_ = typing.get_args(type_)[0]
    return typing.get_origin(type_) or type_
