"""A value comes back from JSON as it was, or is refused with a sentence: generated types and values, at every door."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import ipaddress
import json
import re
import traceback
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, Union

import attrs
import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
)
from pydantic_core import core_schema
from typing_extensions import TypedDict

from tests.support.ids import settled
from turnout.definition import Codec, PayloadProblem, activity, decode_as, encode_checkpoint, encode_json
from turnout.errors import DefinitionError, InvalidArguments, InvalidValue

T = TypeVar("T")
UTC = dt.UTC


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Size(enum.IntEnum):
    small = 1
    large = 2


class Odd(enum.Enum):
    pair = (1, 2)
    text = "text"


class Pair(NamedTuple):
    left: int
    right: dt.date


class Keys(TypedDict, total=False):
    width: int
    when: dt.datetime


@attrs.define
class Point:
    x: int
    _y: int = 0


@attrs.define
class Point3(Point):
    z: int = 0


@attrs.define
class Counted:
    n: int
    doubled: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.doubled = 2 * self.n


@attrs.define(eq=False)
class NoEq:
    n: int


@dataclasses.dataclass
class Made:
    n: int
    doubled: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.doubled = 2 * self.n


@dataclasses.dataclass
class MadeChild(Made):
    more: str = ""


class Aliased(BaseModel):
    file_name: str = Field(alias="fileName")


class Twice(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def doubled(self) -> int:
        return 2 * self.n


class TwoNames(BaseModel):
    a: int = Field(validation_alias="in", serialization_alias="out")


class Choices(BaseModel):
    a: int = Field(validation_alias=AliasChoices("a", "b"))


class Hidden(BaseModel):
    a: int
    b: int = Field(default=0, exclude=True)
    _c: int = PrivateAttr(default=0)


class Embedded(BaseModel):
    inside: Json[dict[str, int]]


class Login(BaseModel):
    user: str
    password: SecretStr


class Revealed(BaseModel):
    password: Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value(), when_used="json")]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = 0


class Base(BaseModel):
    a: int = 0


class Child(Base):
    b: dict[str, int] = {}


class Box(BaseModel, Generic[T]):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    inside: T


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    base: Base = Base()
    point: Point | None = None
    made: Made | None = None
    colour: Colour = Colour.red
    anything: Any = None
    listed: list[Any] = []


class Stranger:
    """Answers a comparison with what is no answer, as arrays do."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    def __eq__(self, other: object) -> Any:
        return [True] * len(self.values)

    def __hash__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        raise ValueError("the truth of it is ambiguous")


class Points:
    """Says nothing of equality."""

    def __init__(self, values: list[int]) -> None:
        self.values = values


def as_points(value: Any) -> Points:
    """As a careful user writes it: what is no list is for another member of a union to take."""
    if isinstance(value, Points):
        return value
    if not isinstance(value, list):
        raise ValueError("not a list")
    return Points(value)


Carried = Annotated[
    Points,
    PlainValidator(as_points),
    PlainSerializer(lambda points: points.values),
]

REFUSED = (InvalidValue, InvalidArguments, DefinitionError)


def same(one: Any, other: Any) -> bool:
    """Equal in value and class, all the way down; the one who writes a test says what that means."""
    if isinstance(one, OrderedDict) and type(other) is dict:
        one = dict(one)
    if type(one) is not type(other):
        # A fixed offset is another class than the UTC it stands for, and a `str` is what a subclass of it arrives as.
        return isinstance(one, dt.tzinfo | str | enum.IntEnum) and one == other
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return {(type(each), each) for each in one} == {(type(each), each) for each in other}
    if isinstance(one, BaseModel):
        return same(one.__dict__, other.__dict__) and same(one.__pydantic_extra__, other.__pydantic_extra__)
    if isinstance(one, Points | NoEq):
        return repr(vars(one) if isinstance(one, Points) else one) == repr(
            vars(other) if isinstance(one, Points) else other
        )
    if attrs.has(type(one)):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in attrs.fields(type(one)))
    if dataclasses.is_dataclass(one):
        return same(vars(one), vars(other))
    return bool(one == other)


def codec_of(type_: Any, *, alone: bool) -> Codec:
    """The codec of a function that takes and returns this type, with a second parameter or without."""

    def one(value: Any) -> Any: ...

    def two(value: Any, other: Any = None) -> Any: ...

    function: Any = one if alone else two
    function.__annotations__ = {"value": type_, "return": type_}
    return Codec(function, "function")


def doors(type_: Any, value: Any) -> dict[str, Callable[[], Any]]:
    """Each way of a value into a job and out of one, as a call that gives what comes back."""
    two, one = codec_of(type_, alone=False), codec_of(type_, alone=True)
    return {
        "payload": lambda: two.decode(two.encode_arguments((value,), {}))[1]["value"],
        "one parameter": lambda: one.decode(one.encode_arguments((value,), {}))[1]["value"],
        "an item of submit_many": lambda: two.decode(two.encode_object({"value": value}))[1]["value"],
        "result": lambda: two.decode_result(two.encode_result(value)),
        "checkpoint": lambda: decode_as(encode_checkpoint(value), type_),
        "by name": lambda: two.decode(encode_json({"value": value}, "payload"))[1]["value"],
    }


def carried(type_: Any, value: Any) -> dict[str, bool]:
    """Which doors let the value pass; whatever does is checked to be as it was."""
    passed: dict[str, bool] = {}
    for name, door in doors(type_, value).items():
        if (name not in TYPED or (name == "result" and type_ is Any)) and not passed["payload"]:
            continue  # as which type it will be read is not known here, so what that type refuses may be lost
        try:
            back = door()
        except PayloadProblem as error:
            pytest.fail(f"{name}: {value!r} was accepted, and can't be read: {error}")
        except REFUSED:
            passed[name] = False
        else:
            assert same(value, back), f"{name}: {value!r} became {back!r}"
            passed[name] = True
    return passed


TYPED = {"payload", "one parameter", "an item of submit_many", "result"}

NOON = dt.datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Aliased, Aliased(fileName="a.mp4")),
        (list[Aliased], [Aliased(fileName="a.mp4")]),
        (Twice, Twice(n=2)),
        (Embedded, Embedded.model_validate({"inside": '{"a": 1}'})),
        (Counted, Counted(2)),
        (Made, Made(2)),
        (MadeChild, MadeChild(2, more="m")),
        (Holder, Holder(made=Made(3), anything={"a": [1, None]})),
        (Revealed, Revealed(password=SecretStr("tr0ub4dor"))),
        (Carried, Points([1, 2])),
        (NoEq, NoEq(3)),
        (Open, Open.model_validate({"a": 1, "more": [1, "x"]})),
        (Child, Child(a=1, b={"c": 2})),
        (Box[int], Box[int](inside=1)),
        (Box[Box[str]], Box[Box[str]](inside=Box[str](inside="x"))),
        (Hidden, Hidden(a=1)),
        (dict[int, str], {1: "a"}),
        (dict[uuid.UUID, list[Pair]], {uuid.UUID(int=1): [Pair(1, dt.date(2030, 1, 1))]}),
        (dict[Colour, Size], {Colour.red: Size.large}),
        (Keys, {"when": NOON}),
        (bytes | None, b"\xff\x00"),
        (Base | Aliased, Aliased(fileName="a")),
        (int | str, "1"),
        (float | int, 1),
        (frozenset[Colour], frozenset({Colour.red})),
        (deque[int], deque([1, 2])),
        (Literal["a", "b"], "a"),
        (Any | Keys, {"width": 1}),
        (Any | Point, {"height": 2}),
        (Keys | Point, Point(2)),
        (Base | dict[str, Any], Base(a=1)),
        (dt.datetime, NOON.replace(tzinfo=None)),
        (dt.time, dt.time(1, 2, 3, 4)),
        (dt.timedelta, dt.timedelta(days=-3, microseconds=7)),
        (Path, Path("a/b")),
        (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1")),
        (re.Pattern[str], re.compile("a+")),
        (dict, {"a": [1, {"b": None}]}),
        (list, [1, "a", {}]),
        (Any, {"a": 1}),
    ],
    ids=settled,
)  # fmt: skip
def test_what_a_type_can_carry_comes_back(type_: Any, value: Any) -> None:
    """Aliases, computed and made-up fields, embedded JSON, classes without equality: they come back as they were."""
    passed = carried(type_, value)
    assert all(passed[door] for door in TYPED), passed


class Money:
    """Taught to pydantic the documented way, with no words for JSON Schema."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    def __hash__(self) -> int:
        return self.cents

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls(int(value)),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda money: money.cents),
        )


@pytest.mark.parametrize(("type_", "value"), [(Carried, Points([1, 2])), (Money, Money(5))], ids=["carried", "money"])
def test_a_type_that_json_schema_has_no_words_for_may_be_anything(type_: Any, value: Any) -> None:
    """The contract says less of it, its parameter and result are there, and values come back as they were."""
    codec = codec_of(type_, alone=False)
    codec.prepare()
    schema = codec.payload_schema()
    assert schema["required"] == ["value"]
    assert schema["properties"]["value"].keys() <= {"title"}
    assert codec.result_schema().keys() <= {"title"}
    assert all(carried(type_, value)[door] for door in TYPED)


@pytest.mark.parametrize(
    ("type_", "value", "words"),
    [
        (Login, Login(user="u", password=SecretStr("tr0ub4dor")), r"password.*asterisks.*serializer"),
        (SecretStr, SecretStr("tr0ub4dor"), "asterisks"),
        (SecretBytes, SecretBytes(b"tr0ub4dor"), ""),
        (Secret[int], Secret[int](5), ""),
        (Base, Child(a=1, b={"c": 2}), r"Child.*Base"),
        (list[Base], [Base(), Child()], r"\[1\].*Child.*Base"),
        (Point, Point3(1, 2, 3), "Point3.*Point"),
        (Made, MadeChild(1, more="x"), "MadeChild.*Made"),
        (Holder, Holder(base=Child(b={"c": 1})), "base.*Child.*Base"),
        (Holder, Holder(anything=NOON), "anything.*datetime"),
        (Holder, Holder(listed=[{1: 2}]), r"listed.*\[0\]"),
        (Hidden, Hidden(a=1, b=2), "b"),
        (TwoNames, TwoNames.model_validate({"in": 1}), "read back"),
        (dict[tuple[int, int], int], {(1, 2): 3}, ""),
        (dict, {1: 2}, "key 1"),
        (dict, {"at": NOON}, r"\['at'\].*datetime"),
        (list, [NOON, {3: 4}], r"\[0\].*datetime"),
        (list, [Point(1)], "Point"),
        (list, [Pair(1, dt.date(2030, 1, 1))], "Pair"),
        (Any, Point(1), "Point"),
        (Any, Stranger([1]), "Stranger"),
        (dict[str, Any], {"a": Stranger([1, 2])}, "Stranger"),
        (Any, Colour.red, "Colour"),
        (set, {1, NOON}, ""),
        (Holder, Holder.model_construct(colour="green"), ""),
        (Aliased, Aliased.model_construct(), ""),
        (dt.date, NOON, ""),
        (Keys, {"width": 1, "height": 2}, "height.*unknown key"),
        (list[Keys | None], [{"": None}], "unknown key"),
        (Keys | int, {"": None}, "unknown key"),
        (Any | Keys, {"": None}, "this key would arrive"),
        (Keys | dict[str, Any], {"width": 1, "height": 2}, r"\['height'\].*this key would arrive"),
        (Base | dict[str, Any], {"height": 2}, "dict"),
        (Base | Aliased, {"a": 1, "height": 2}, "unknown key"),
    ],
    ids=settled,
)  # fmt: skip
def test_what_would_change_is_refused_with_a_sentence(type_: Any, value: Any, words: str) -> None:
    """What JSON, or the type, would make another value of is refused at submit and as a result, and the place named."""
    codec = codec_of(type_, alone=False)
    calls: list[Callable[[], Any]] = [lambda: codec.encode_arguments((value,), {})]
    if type_ is not Any:  # a result without annotation is what JSON makes of it
        calls.append(lambda: codec.encode_result(value))
    for door in calls:
        with pytest.raises(REFUSED) as caught:
            door()
        assert re.search(words, str(caught.value)), caught.value
        assert "tr0ub4dor" not in str(caught.value)


def test_what_a_secret_holds_is_in_no_error() -> None:
    """A payload or an argument that does not fit is refused without its value in the text, the cause or the context."""

    @activity
    def charge(card: int, login: Login | None = None) -> None: ...

    def refused(call: Callable[[], Any]) -> BaseException:
        with pytest.raises(REFUSED) as caught:
            call()
        return caught.value

    bad = {"user": 5, "password": ["tr0ub4dor"]}
    errors = [
        refused(lambda: charge.codec.decode('{"card": "tr0ub4dor"}')),
        refused(lambda: charge.codec.decode(json.dumps({"card": 1, "login": bad}))),
        refused(lambda: charge.codec.decode('{"card": tr0ub4dor}')),
        refused(lambda: charge.codec.encode_object({"card": "tr0ub4dor"})),
        refused(lambda: charge.codec.encode_object("tr0ub4dor")),
        refused(lambda: decode_as('"tr0ub4dor"', int)),
        refused(lambda: charge.codec.decode('["tr0ub4dor"]')),
    ]
    for error in errors:
        assert "tr0ub4dor" not in str(error)
        told = "".join(traceback.format_exception(error))
        assert "tr0ub4dor" not in re.sub(r"^    .*$", "", told, flags=re.MULTILINE)  # but for this file's own lines


# -- generated types and values

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
aware = st.datetimes(timezones=st.sampled_from([UTC, dt.timezone(dt.timedelta(hours=5, minutes=30))]))


def embedded(value: dict[str, int]) -> Embedded:
    return Embedded.model_validate({"inside": json.dumps(value)})


LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (str, text),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (None, st.none()),
    (bytes, st.binary(max_size=6)),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (dt.datetime, aware | st.datetimes()),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas()),
    (uuid.UUID, st.uuids()),
    (Path, text.map(lambda t: Path(t.replace("\0", "") or "."))),
    (PurePosixPath, st.just(PurePosixPath("/a/../b"))),
    (Colour, st.sampled_from(Colour)),
    (Size, st.sampled_from(Size)),
    (Odd, st.sampled_from(Odd)),
    (Pair, st.builds(Pair, st.integers(), st.dates())),
    (Keys, st.fixed_dictionaries({}, optional={"width": st.integers(), "when": aware})),
    (Point, st.builds(Point, st.integers(), st.integers()) | st.builds(Point3, st.integers(), st.integers())),
    (Counted, st.builds(Counted, st.integers())),
    (Made, st.builds(Made, st.integers())),
    (Aliased, text.map(lambda t: Aliased(fileName=t))),
    (Twice, st.builds(Twice, n=st.integers())),
    (Hidden, st.builds(Hidden, a=st.integers(), b=st.integers(0, 1))),
    (Choices, st.integers().map(lambda n: Choices.model_validate({"b": n}))),
    (Login, st.builds(Login, user=text, password=text.map(SecretStr))),
    (Embedded, st.dictionaries(text, st.integers(), max_size=2).map(embedded)),
    (Base, st.builds(Base, a=st.integers()) | st.builds(Child, a=st.integers())),
    (Carried, st.lists(st.integers(), max_size=2).map(Points)),
    (Literal[1, "1", None], st.sampled_from([1, "1", None])),
]  # fmt: skip
HASHABLE = [
    each for each in LEAVES if each[0] in (int, str, bool, bytes, dt.date, dt.datetime, uuid.UUID, Colour, Odd, Path)
]

untyped = st.recursive(
    st.one_of(*(values for _, values in LEAVES)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(text | st.integers() | st.booleans(), inner, max_size=3)
        | st.builds(OrderedDict, st.dictionaries(text, inner, max_size=2))
    ),
    max_leaves=6,
)


def generic(origin: Any, *parts: Any) -> Any:
    """`origin[parts]` of types that only exist when the test runs."""
    return origin[parts if len(parts) > 1 else parts[0]]


@st.composite
def typed_values(draw: st.DrawFn, depth: int = 2) -> tuple[Any, Any]:
    """A type, and a value that a type checker would let pass for it."""
    kind = draw(st.sampled_from(["leaf"] * 3 + ["list", "tuple", "dict", "set", "optional", "union", "class", "any"]))
    if depth == 0 or kind == "leaf":
        type_, values = draw(st.sampled_from(LEAVES))
        return type_, draw(values)
    if kind == "any":
        mapping, listed = st.dictionaries(text | st.integers(), untyped, max_size=3), st.lists(untyped, max_size=3)
        choices = [(Any, untyped), (dict, mapping), (dict[str, Any], mapping), (list, listed), (list[Any], listed)]
        type_, values = draw(st.sampled_from(choices))
        return type_, draw(values)
    if kind == "set":
        type_, values = draw(st.sampled_from(HASHABLE))
        return generic(set, type_), draw(st.sets(values, max_size=3))
    inner, value = draw(typed_values(depth - 1))
    if kind == "dict":
        key, keys = draw(st.sampled_from([*HASHABLE, (tuple[int, int], st.tuples(st.integers(), st.integers()))]))
        return generic(dict, key, inner), {draw(keys): value} if draw(st.booleans()) else {}
    if kind == "list":
        return generic(list, inner), [value] * draw(st.integers(0, 2))
    if kind == "tuple":
        return generic(tuple, inner, ...), (value,) * draw(st.integers(0, 2))
    if kind == "optional":
        return generic(Union, inner, None), draw(st.sampled_from([None, value]))
    if kind == "union":
        other, _ = draw(typed_values(0))
        return generic(Union, inner, other), value
    return draw(classes(inner, value))


@st.composite
def classes(draw: st.DrawFn, inner: Any, value: Any) -> tuple[Any, Any]:
    """A new class with a field of this type, and an object of it that holds the value."""
    kind = draw(st.sampled_from(["pydantic", "attrs", "dataclass", "typeddict", "generic"]))
    if kind == "pydantic":
        alias = draw(st.sampled_from([None, "Field-Name"]))
        extra: Any = draw(st.sampled_from(["ignore", "forbid", "allow"]))
        model: Any = pydantic.create_model(
            "Model",
            __config__=ConfigDict(extra=extra, arbitrary_types_allowed=True, populate_by_name=True),
            value=(inner, Field(alias=alias)),
            other=(int, 0),
        )
        return model, model.model_construct(value=value, other=0)
    if kind == "attrs":
        cls: Any = attrs.make_class("Attrs", {"value": attrs.field(type=inner), "_n": attrs.field(type=int, default=1)})
        return cls, cls(value)
    if kind == "dataclass":
        made: Any = dataclasses.make_dataclass("Data", [("value", inner), ("n", int, dataclasses.field(default=1))])
        return made, made(value)
    if kind == "typeddict":
        new: Any = TypedDict
        return new("Typed", {"value": inner}), {"value": value}
    return Box[inner], Box[inner].model_construct(inside=value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(typed_values())
@example((Any | Keys, {"": None}))
def test_any_value_comes_back_or_is_refused(drawn: tuple[Any, Any]) -> None:
    """Whatever the type and the value, each door gives it back as it was, or refuses it: nothing in between."""
    carried(*drawn)


@given(untyped)
def test_values_without_a_type_come_back_or_are_refused(value: Any) -> None:
    """A value without annotation passes only where JSON has it, or where its own class reads it back."""
    with contextlib.suppress(*REFUSED):
        encoded = encode_checkpoint(value)
        back = decode_as(encoded, type(value)) if not isinstance(value, dict | list) else decode_as(encoded)
        assert same(value, back) or isinstance(value, dict | list)


@pytest.mark.parametrize(
    "value", [Fraction(1, 2), 1j, defaultdict(list, a=[1]), range(3), object(), int, len], ids=settled
)
def test_strangers_are_refused_or_pass_as_what_they_equal(value: Any) -> None:
    """Objects that JSON has not, of any kind, are refused without an annotation, and named by their class."""
    if isinstance(value, dict):
        assert decode_as(encode_json(value, "it")) == value
    else:
        with pytest.raises(InvalidValue, match=type(value).__qualname__):
            encode_json(value, "it")


# -- sizes


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [199, 200, 201, 400, 20_000])
def test_the_depth_of_values_is_bounded_at_every_door(depth: int) -> None:
    """200 levels pass wherever JSON goes in or out, deeper ones are refused by a sentence: never a RecursionError."""

    @activity
    def take(value: Any = None, listed: list[Any] | None = None) -> list[Any]: ...  # type: ignore[empty-body]

    raw = "[" * depth + "1" + "]" * depth
    calls: list[Callable[[], Any]] = [
        lambda: decode_as(raw),
        lambda: decode_as(raw, list[Any]),
        lambda: take.codec.decode_result(raw),
        lambda: encode_json(nested(depth), "payload"),
        lambda: encode_checkpoint(nested(depth)),
        lambda: take.codec.encode_result(nested(depth)),
        lambda: take.bind(value=nested(depth - 1)),
        lambda: take.bind(listed=nested(depth - 1)),
        lambda: take.codec.decode(f'{{"value": {raw[1:-1]}}}'),
    ]
    for call in calls:
        if depth <= 199:
            call()
        elif depth > 201:
            with pytest.raises(InvalidValue) as caught:
                call()
            assert "deep" in str(caught.value) or "recursion" in str(caught.value)
        else:
            with contextlib.suppress(InvalidValue):  # pydantic's parser counts otherwise than ours: both are right
                call()


def test_a_large_text_that_does_not_fit_fails_at_its_first_item() -> None:
    """Of a list of 300,000 wrong items one is told, whether the list is in a model or not; small ones tell all."""

    class Order(BaseModel):
        numbers: list[int]

    @activity
    def add(numbers: list[int], order: Order | None = None, table: dict[str, int] | None = None) -> None: ...

    many = ["x"] * 100_000
    for payload, named in (
        ({"numbers": many}, r"numbers\.0: "),
        ({"numbers": [], "order": {"numbers": many}}, r"order\.numbers\.0: "),
    ):
        with pytest.raises(PayloadProblem, match=named) as caught:
            add.codec.decode(json.dumps(payload))
        assert "more" not in str(caught.value)
    with pytest.raises(PayloadProblem, match=r"k0: unknown key; .*and 99980 more"):
        add.codec.decode(json.dumps({f"k{n}": 1 for n in range(100_000)}))
    with pytest.raises(PayloadProblem, match=r"numbers\.0: .*numbers\.1: "):
        add.codec.decode('{"numbers": ["x", "y"]}')
    assert add.codec.decode(json.dumps({"numbers": [1] * 100_000}))[1]["numbers"] == [1] * 100_000
