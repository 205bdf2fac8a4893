"""Types as validators and serializers: pydantic's, taught to carry attrs classes.

pydantic models, attrs classes and dataclasses nest in each other in any order: pydantic knows two of them, and an attrs
class is made to know pydantic by its own documented hook.
"""

from __future__ import annotations

import functools
import threading
import typing
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal

import attrs
import pydantic
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass, rebuild_dataclass
from pydantic_core import (
    CoreSchema,
    PydanticCustomError,
    SchemaError,
    SchemaValidator,
    core_schema,
)

from turnout.definition.json_schema import TAKES_MORE, ContractSchema
from turnout.definition.plain_json import TOO_DEEP, Unsendable, dumps
from turnout.definition.roundtrip import certain, compare

HOOK = "__get_pydantic_core_schema__"
MAX_PROBLEMS = 20

CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", hide_input_in_errors=True)
"""Bytes are base64 in JSON; those inside a pydantic model, at any depth, follow that model's own config."""

LARGE_CHARS = 64 * 1024
"""From this size on a text is parsed by a validator that stops at the first item of a list that does not fit."""

_lock = threading.RLock()
_building: ContextVar[frozenset[str]] = ContextVar("_building", default=frozenset())


class Adapter:
    """One type, or an object of named fields, built once: check Python values, make JSON of them, parse JSON text.

    `check` and `parse` raise pydantic's ValidationError. Building raises pydantic's errors for a type it cannot carry.
    """

    def __init__(self, build: Callable[[GetCoreSchemaHandler], CoreSchema], *types: Any) -> None:
        class Root:
            @classmethod
            def __get_pydantic_core_schema__(cls, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
                return build(handler)

        with _lock:
            for type_ in types:
                adopt(type_)
            self._adapter: TypeAdapter[Any] = TypeAdapter(Root, config=CONFIG)
        self.check: Callable[[Any], Any] = self._checker()
        self._parse: Callable[[str], Any] = self._adapter.validator.validate_json
        dump = self._adapter.serializer.to_python
        self._dump_simply: Callable[[Any], Any] = functools.partial(dump, mode="json")
        # By alias, and without computed fields: so that what is dumped may be parsed again. Whether it was what the
        # type says is seen then, better than by pydantic's warnings.
        options: Any = {"mode": "json", "by_alias": True, "round_trip": True, "warnings": False}
        self._dump: Callable[[Any], Any] = functools.partial(dump, **options)

    def parse(self, text: str) -> Any:
        """The value of JSON text. Of a large text only the first item that does not fit is told."""
        return self._parse(text) if len(text) < LARGE_CHARS else self._fast_parse(text)

    def encode(self, value: Any, *, sure: bool = False) -> str:
        """JSON text of a checked value, which `parse` makes the same value of again; else Unsendable says why not.

        `sure`: the caller knows that it does.
        """
        if sure or self.certain:
            try:
                return dumps(self._dump_simply(value))
            except (ValueError, RecursionError):
                pass  # what follows takes longer, and tells what is wrong
        return self._verified(value)[1]

    def values(self, value: Any) -> Any:
        """What `encode` spells, as JSON values."""
        return self._verified(value)[0]

    def _verified(self, value: Any) -> tuple[Any, str]:
        try:
            raw = self._dump(value)
        except ValueError as error:  # PydanticSerializationError is one
            raise Unsendable(_first_line(error)) from None
        except RecursionError:
            raise Unsendable(TOO_DEEP) from None
        text = dumps(raw)
        try:
            compare(value, self.parse(text))
        except ValidationError as error:
            raise Unsendable(f"it could not be read back: {problems(error)}") from None
        except RecursionError:
            raise Unsendable(TOO_DEEP) from None
        return raw, text

    @functools.cached_property
    def certain(self) -> bool:
        """Whether everything that `check` lets pass comes back as it was."""
        return certain(self._adapter.core_schema)

    def _checker(self) -> Callable[[Any], Any]:
        """What checks values before they are stored: where keys would be dropped without a word, it refuses them."""
        schema: Any = self._adapter.core_schema
        keeping, usual = _keeping(schema), self._adapter.validator
        checker: Callable[[Any], Any] = (usual if keeping == schema else _built(keeping, usual)).validate_python
        return checker

    @functools.cached_property
    def _fast_parse(self) -> Callable[[str], Any]:
        """A validator that gives up at the first bad item of a list: to collect 300,000 errors takes seconds."""
        parse: Callable[[str], Any] = _built(
            _failing_fast(self._adapter.core_schema), self._adapter.validator
        ).validate_json
        return parse

    def json_schema(self, mode: Literal["validation", "serialization"]) -> dict[str, Any]:
        """The JSON Schema of what `parse` takes or `values` gives; {} where there are no words for a type."""
        return self._adapter.json_schema(mode=mode, schema_generator=ContractSchema)


def _built(schema: Any, otherwise: Any) -> Any:
    """The validator of a core schema; `otherwise` where there can't be one."""
    config = core_schema.CoreConfig(val_json_bytes="base64", hide_input_in_errors=True)
    # Without the switch pydantic would take the validators of models as it has built them, for what they hold too.
    for switch in ({"_use_prebuilt": False}, {}):
        try:
            return SchemaValidator(schema, config, **switch)
        except (SchemaError, TypeError):  # a pydantic that does not know it, or not everywhere
            continue
    return otherwise


_FIELDS = frozenset({"model-fields", "dataclass-args"})
_UNIONS = frozenset({"union", "tagged-union"})


def _keeping(schema: Any, *, in_union: bool = False) -> Any:
    """The core schema with keys that are not known refused, where they would be dropped: in a TypedDict, which has no
    others, and in a union, where a dict that fits nothing better would be made an object of a class with defaults.

    What a class says of them itself stays.
    """
    if isinstance(schema, list | tuple):
        return type(schema)(_keeping(each, in_union=in_union) for each in schema)
    if not isinstance(schema, dict):
        return schema
    kind, said = schema.get("type"), "extra_fields_behavior" in (schema.get("config") or {})
    in_union = in_union or kind in _UNIONS or (kind == "definitions" and _has_union(schema))
    copied = {
        key: value if key in _NO_SCHEMAS or key == "serialization" else _keeping(value, in_union=in_union and not said)
        for key, value in schema.items()
    }
    if (kind == "typed-dict" or (in_union and kind in _FIELDS)) and not said:
        if copied.get("extra_behavior") != "allow":  # pydantic writes down its default
            copied["extra_behavior"] = "forbid"
    return copied


def _has_union(schema: Any) -> bool:
    """What a definition is used for is not said where it stands, so one union in a schema is enough."""
    if isinstance(schema, list | tuple):
        return any(_has_union(each) for each in schema)
    if not isinstance(schema, dict):
        return False
    inner = (value for key, value in schema.items() if key not in _NO_SCHEMAS)
    return schema.get("type") in _UNIONS or any(_has_union(each) for each in inner)


_NO_SCHEMAS = frozenset({"default", "expected", "members", "metadata", "config"})


def _failing_fast(schema: Any) -> Any:
    """The core schema with collections that stop at their first bad item."""
    if isinstance(schema, list):
        return [_failing_fast(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    copied = {key: value if key in _NO_SCHEMAS else _failing_fast(value) for key, value in schema.items()}
    if isinstance(copied.get("type"), str) and copied["type"] in _COLLECTIONS:
        copied["fail_fast"] = True
    return copied


_COLLECTIONS = frozenset(
    kind
    for kind, schema in {
        "list": core_schema.ListSchema,
        "set": core_schema.SetSchema,
        "frozenset": core_schema.FrozenSetSchema,
        "tuple": core_schema.TupleSchema,
        "dict": core_schema.DictSchema,
    }.items()
    if "fail_fast" in schema.__annotations__
)


def type_adapter(type_: Any) -> Adapter:
    """The adapter of a type, cached where the type can be a key."""
    try:
        return _cached(type_)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _type_adapter(type_)


def _type_adapter(type_: Any) -> Adapter:
    return Adapter(lambda handler: handler.generate_schema(type_), type_)


_cached = functools.lru_cache(maxsize=512)(_type_adapter)


def fields_adapter(fields: Mapping[str, tuple[Any, bool]]) -> Adapter:
    """The adapter of an object of these fields, {name: (type, required)}, and no others; defaults are not filled in."""

    def build(handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.typed_dict_schema(
            {
                name: core_schema.typed_dict_field(handler.generate_schema(type_), required=required)
                for name, (type_, required) in fields.items()
            },
            extra_behavior="forbid",
            config=core_schema.CoreConfig(ser_json_bytes="base64", val_json_bytes="base64"),
        )

    return Adapter(build, *(type_ for type_, _ in fields.values()))


def is_model(type_: object) -> bool:
    """Whether this is a class whose objects are JSON objects: pydantic model, attrs class or dataclass."""
    return isinstance(type_, type) and (issubclass(type_, BaseModel) or attrs.has(type_) or is_dataclass(type_))


def own_keys(type_: Any) -> frozenset[str] | None:
    """The keys an object of this class may have, or None for a pydantic model, whose config says it itself."""
    if issubclass(type_, BaseModel) or is_pydantic_dataclass(type_):
        return None
    if attrs.has(type_):
        return frozenset(field.key for field in _init_fields(type_))
    return frozenset(name for name, field in type_.__dataclass_fields__.items() if field.init)


def problems(error: pydantic.ValidationError) -> str:
    """pydantic's list of errors as one line: `path: Field required; size: Input should be a valid integer`."""
    listed = error.errors(include_url=False, include_context=False, include_input=False)
    texts = []
    for item in listed[:MAX_PROBLEMS]:
        where = ".".join(str(part) for part in item["loc"] if not str(part).startswith("function-"))
        text = "unknown key" if item["type"] == "extra_forbidden" else item["msg"]
        texts.append(f"{where}: {text}" if where else text)
    if len(listed) > MAX_PROBLEMS:
        texts.append(f"and {len(listed) - MAX_PROBLEMS} more")
    return "; ".join(texts)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


# -- attrs classes --------------------------------------------------------------------------------------------------


def adopt(type_: Any, seen: set[Any] | None = None) -> bool:
    """Teach pydantic every attrs class that this type reaches; whether there was one.

    The hook is put on the class, because that is the one way in which pydantic finds it at any depth. A pydantic model
    that holds attrs classes was built before (with `arbitrary_types_allowed`), so it is built again.
    """
    seen = set() if seen is None else seen
    origin = typing.get_origin(type_) or type_
    found = False
    for part in typing.get_args(type_):
        found |= adopt(part, seen)
    if not isinstance(origin, type):
        return adopt(type_.__value__, seen) | found if hasattr(type_, "__value__") else found
    if origin in seen or origin.__module__ == "builtins":
        return found
    seen.add(origin)
    for part in _parts(origin):
        found |= adopt(part, seen)
    if _needs_hook(origin):
        if not hasattr(origin, HOOK):
            setattr(origin, HOOK, classmethod(_object_schema))
        return True
    if found and issubclass(origin, BaseModel):
        origin.model_rebuild(force=True)
    elif found and is_pydantic_dataclass(origin):
        rebuild_dataclass(origin, force=True)
    return found


def _needs_hook(cls: type) -> bool:
    """Whether pydantic does not carry this class as it should: an attrs class, or a dataclass that makes up fields.

    It would dump those with `init=False`, and refuse them when they come back.
    """
    if attrs.has(cls) and not is_dataclass(cls):
        return True
    if not is_dataclass(cls) or is_pydantic_dataclass(cls):
        return False
    declared = cls.__dataclass_fields__.values()
    return not all(field.init for field in fields(cls)) and len(fields(cls)) == len(list(declared))


def _parts(cls: type) -> list[Any]:
    """The types of a class's fields; none for a class that is a value of its own."""
    if issubclass(cls, BaseModel):
        return [field.annotation for field in cls.model_fields.values()]
    if attrs.has(cls) or is_dataclass(cls) or typing.is_typeddict(cls) or hasattr(cls, "_fields"):
        try:
            return list(typing.get_type_hints(cls, include_extras=True).values())
        except NameError:  # A name pydantic may still resolve, and else reports better.
            return []
    return []


def _hints(cls: Any, source: Any) -> dict[str, Any]:
    """The field types of an attrs class, type variables replaced by the arguments of `source` (`Box[int]`)."""
    hints = typing.get_type_hints(cls, include_extras=True)
    given: dict[Any, Any] = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(source), strict=False))

    def replaced(hint: Any) -> Any:
        if isinstance(hint, typing.TypeVar):
            return given.get(hint, hint)
        parameters = getattr(hint, "__parameters__", ())
        return hint[tuple(given.get(p, p) for p in parameters)] if given and parameters else hint

    return {name: replaced(hint) for name, hint in hints.items()}


@attrs.frozen
class _Field:
    """A field that is an argument of its class: the attribute, its key in JSON, whether it may be left out."""

    name: str
    key: str
    optional: bool


def _init_fields(cls: Any) -> list[_Field]:
    if attrs.has(cls):
        own = [field for field in attrs.fields(cls) if field.init]
        return [_Field(f.name, f.alias or f.name, f.default is not attrs.NOTHING) for f in own]
    return [
        _Field(f.name, f.name, f.default is not MISSING or f.default_factory is not MISSING)
        for f in fields(cls)
        if f.init
    ]


def _object_schema(cls: Any, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    """The hook: an object of the class's init arguments; it is built by calling the class, converters and all."""
    ref = f"{cls.__module__}.{cls.__qualname__}:{id(cls)}{list(typing.get_args(source)) or ''}"
    if ref in _building.get():
        return core_schema.definition_reference_schema(ref)
    hints = _hints(cls, source)
    own = _init_fields(cls)
    token = _building.set(_building.get() | {ref})
    try:
        types = {field: handler.generate_schema(hints.get(field.name, Any)) for field in own}
    finally:
        _building.reset(token)

    def build(value: Any, validate: Callable[[Any], Any]) -> Any:
        if isinstance(value, cls):
            return value
        values, _, given = validate(value)
        try:
            return cls(**{name: values[name] for name in given})
        except TypeError as error:  # What attrs.validators.instance_of raises: a bad value, not a bug of ours.
            text = str(error.args[0] if error.args else error)
            raise PydanticCustomError("attrs", "{message}", {"message": text}) from None

    def unbuild(value: Any) -> dict[str, Any]:
        return {field.key: getattr(value, field.name) for field in own}

    return core_schema.no_info_wrap_validator_function(
        build,
        # Not a typed dict: that would not take its config (bytes as base64) from whatever contains the object.
        core_schema.model_fields_schema(
            {field.key: core_schema.model_field(_optional(type_, field)) for field, type_ in types.items()},
            model_name=cls.__name__,
        ),
        ref=ref,
        metadata={TAKES_MORE: False},
        serialization=core_schema.plain_serializer_function_ser_schema(
            unbuild,
            return_schema=core_schema.typed_dict_schema(
                {field.key: core_schema.typed_dict_field(type_) for field, type_ in types.items()},
                cls_name=cls.__name__,
            ),
        ),
    )


def _optional(type_: CoreSchema, field: _Field) -> CoreSchema:
    """A field with a default may be left out; the class then makes its own default, so the one here is never used."""
    return core_schema.with_default_schema(type_, default_factory=lambda: None) if field.optional else type_
