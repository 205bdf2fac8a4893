"""Payloads, results and checkpoints as JSON: what goes through unchanged, and what is refused with which words."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import math
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from turnout.definition import PayloadProblem, activity, decode_as, decode_json, encode_checkpoint, encode_json
from turnout.errors import DefinitionError, InvalidArguments, InvalidValue

T = TypeVar("T")


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Pair(NamedTuple):
    left: int
    right: str


class Box(TypedDict):
    width: int


@attrs.define
class Point:
    x: int
    y: int = 0
    _hidden: str = "h"


@attrs.frozen
class Tree:
    name: str
    children: list[Tree] = attrs.field(factory=list)


@attrs.define
class Positive:
    n: int = attrs.field(validator=attrs.validators.gt(0))
    doubled: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.doubled = 2 * self.n


@attrs.define
class Holder(Generic[T]):
    value: T
    rest: list[T] = attrs.field(factory=list)


@dataclasses.dataclass
class Line:
    start: Point
    end: Point | None = None
    data: bytes = b""


@pydantic_dataclass(config=ConfigDict(arbitrary_types_allowed=True))
class Strict:
    point: Point


class Drawing(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    title: str
    points: list[Point] = []
    lines: dict[str, Line] = {}
    tree: Tree | None = None


class Album(BaseModel):
    drawings: list[Drawing] = []


@attrs.define
class Shelf:
    album: Album
    line: Line
    colour: Colour = Colour.red


@activity
async def convert(path: str, format: str = "webm", size: int | None = None) -> Line:
    raise NotImplementedError


@activity
def draw(drawing: Drawing) -> None: ...


@activity
def locate(point: Point) -> None: ...


@activity
def trace(line: Line) -> None: ...


@activity
def anything(value=None, other: Any = None):  # type: ignore[no-untyped-def]
    return value


@activity
def later(spec: DefinedLater, more: list[DefinedLater] | None = None) -> DefinedLater:
    return spec


@attrs.define
class DefinedLater:
    n: int


# -- the payload


@pytest.mark.parametrize("text", ["1", ' ["a"]', '"a"', "null"])
def test_a_payload_that_is_no_object_is_told_what_it_must_be(text: str) -> None:
    """In words for whoever calls by name: which parameters the object has."""

    @activity
    async def convert(path: str, size: int = 1) -> None: ...

    with pytest.raises(PayloadProblem) as caught:
        convert.codec.decode(text)
    said = 'invalid payload of convert: it must be an object of its parameters: {"path": ..., "size": ...}'
    assert str(caught.value) == said


def test_a_payload_is_the_object_of_the_parameters_as_given() -> None:
    """Arguments become an object by parameter name, in the signature's order, without the defaults."""
    assert convert.bind(format="mp4", path="a") == '{"path":"a","format":"mp4"}'
    assert convert.bind("ä") == '{"path":"ä"}'


def test_decoding_leaves_defaults_to_the_function() -> None:
    """What a payload does not name is not passed, so the function's own default counts."""
    assert convert.codec.decode('{"path": "a"}') == ((), {"path": "a"})


@pytest.mark.parametrize("text", ["", "  \n", "{}"])
def test_an_empty_payload_is_an_empty_object(text: str) -> None:
    """No bytes mean `{}`: all parameters at their defaults, or the list of those that are missing."""
    assert anything.codec.decode(text) == ((), {})
    with pytest.raises(PayloadProblem, match="path: Field required"):
        convert.codec.decode(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"path": 5}', ["path", "valid string"]),
        ('{"path": "a", "siez": 5}', ["siez", "unknown key"]),
        ('{"size": "x"}', ["path: Field required", "size", "valid integer"]),
        ("[1]", ["object"]),
        ("null", ["object"]),
        ("hello", ["not JSON"]),
        ('{"path": "a"', ["not JSON"]),
        ('{"path": "a"}, {}', ["not JSON"]),
        ('{"path": "\\ud800"}', ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
    ],
)
def test_a_bad_payload_is_refused_with_the_list_of_errors(text: str, words: list[str]) -> None:
    """What comes from outside and does not fit is one PayloadProblem that names every field."""
    with pytest.raises(PayloadProblem) as caught:
        convert.codec.decode(text)
    assert all(word in str(caught.value) for word in words), caught.value


def test_the_list_of_errors_is_bounded() -> None:
    """A payload with a thousand wrong fields does not make an error of a thousand lines."""
    with pytest.raises(PayloadProblem, match=r"and 9[0-9]+ more") as caught:
        convert.codec.decode(json.dumps({f"k{n}": 1 for n in range(1000)}))
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_javascript_constants_are_not_json(constant: str) -> None:
    """NaN and Infinity are refused on the way in, even where a float is expected; in strings they are text."""

    @activity
    def weigh(kilos: float, note: str = "") -> float:
        return kilos

    with pytest.raises(PayloadProblem, match="not JSON"):
        weigh.codec.decode(f'{{"kilos": {constant}}}')
    assert weigh.codec.decode(f'{{"kilos": 1, "note": "{constant}"}}')[1]["note"] == constant


# -- arguments that don't fit


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [((), {}, "path"), (("a",), {"path": "b"}, "path"), (("a",), {"sise": 1}, "sise"), (("a", "b", 1, 2), {}, "many")],
)
def test_arguments_that_do_not_fit_the_signature(args: tuple[Any, ...], kwargs: dict[str, Any], named: str) -> None:
    """A missing, doubled or unknown argument is a TypeError that names it, as a direct call would raise."""
    with pytest.raises(InvalidArguments, match=named) as caught:
        convert.codec.encode_arguments(args, kwargs)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [({"path": 5}, "path"), ({"path": Path("a")}, "path"), ({"path": "a", "size": "big"}, "size")],
)
@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_an_argument_of_the_wrong_type_is_named(kwargs: dict[str, Any], named: str, kind: type[Exception]) -> None:
    """A value that does not fit the annotation is refused at submit, as a TypeError and a ValueError alike."""
    with pytest.raises(kind, match=named):
        convert.codec.encode_arguments((), kwargs)


class Opaque: ...


def _cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        {1, 2},
        Opaque(),
        b"x",
        datetime(2030, 1, 1, tzinfo=UTC),
        {1: 2},
        "\ud800",
        {"\ud800": 1},
        _cycle(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"deep": [v]}], ids=["plain", "nested"])
def test_what_json_cannot_carry_is_refused_by_name(value: Any, wrap: Callable[[Any], Any]) -> None:
    """Without an annotation only JSON's own values may be sent; anything else names the parameter."""
    with pytest.raises(InvalidValue, match=r"parameter 'value'"):
        anything.bind(wrap(value))
    with pytest.raises(InvalidValue, match=r"parameter 'other'"):
        anything.bind(other=wrap(value))
    with pytest.raises(InvalidValue, match="payload"):
        encode_json(wrap(value), "payload")


def test_the_place_of_an_unsendable_value_is_named() -> None:
    """The error says where in a nested value the trouble is."""
    with pytest.raises(InvalidValue, match=r"payload\['a'\]\[1\]\['b'\]"):
        encode_json({"a": [0, {"b": {1}}]}, "payload")


def test_unsendable_values_in_typed_parameters_are_named() -> None:
    """NaN in a float, in a model, or half a surrogate pair in a string: refused at submit, with the parameter."""

    class Weight(BaseModel):
        kilos: float

    @activity
    def weigh(kilos: float, items: list[float], weight: Weight | None = None, note: str = "") -> None: ...

    for kwargs, named in (
        ({"kilos": math.nan, "items": []}, "kilos"),
        ({"kilos": 1, "items": [math.inf]}, "items"),
        ({"kilos": 1, "items": [], "weight": Weight(kilos=math.nan)}, "weight"),
        ({"kilos": 1, "items": [], "note": "\ud800"}, "note"),
    ):
        with pytest.raises(InvalidValue, match=named):
            weigh.codec.encode_arguments((), kwargs)


# -- models


def test_a_function_of_one_model_takes_its_object() -> None:
    """The payload is the object of the model itself, for a pydantic model, an attrs class and a dataclass."""
    assert draw.bind(Drawing(title="t")) == '{"title":"t","points":[],"lines":{},"tree":null}'
    assert locate.bind(point=Point(1)) == '{"x":1,"y":0,"hidden":"h"}'
    assert trace.bind(Line(Point(1), data=b"\xff")) == '{"start":{"x":1,"y":0,"hidden":"h"},"end":null,"data":"_w=="}'
    assert locate.codec.decode('{"x": 3}') == ((), {"point": Point(3)})
    assert trace.codec.decode('{"start": {"x": "3"}, "data": "/w=="}') == ((), {"line": Line(Point(3), data=b"\xff")})
    assert draw.codec.decode('{"title": "t", "points": [{"x": 1}]}')[1]["drawing"].points == [Point(1)]


def test_unknown_keys_of_a_model() -> None:
    """At the top of a payload, an attrs class or dataclass refuses unknown keys; a pydantic model decides itself."""
    with pytest.raises(PayloadProblem, match="z: unknown key"):
        locate.codec.decode('{"x": 1, "z": 2}')
    with pytest.raises(PayloadProblem, match="begin: unknown key"):
        trace.codec.decode('{"begin": {"x": 1}}')
    assert draw.codec.decode('{"title": "t", "z": 2}')[1]["drawing"] == Drawing(title="t")


def test_errors_inside_models_name_the_field() -> None:
    """A problem deep in nested models is named by its path; an attrs validator's refusal is one of them."""
    with pytest.raises(PayloadProblem, match=r"points\.1\.x: Field required"):
        draw.codec.decode('{"title": "t", "points": [{"x": 1}, {"y": 1}]}')
    with pytest.raises(InvalidArguments, match=r"points\.0\.x"):
        draw.codec.encode_object({"title": "t", "points": [{"x": "q"}]})

    @activity
    def take(item: Positive, items: list[Positive] | None = None) -> None: ...

    with pytest.raises(PayloadProblem, match=r"items\.0.*> 0"):
        take.codec.decode('{"item": {"n": 1}, "items": [{"n": -1}]}')
    assert take.codec.decode('{"item": {"n": 2}}')[1]["item"].doubled == 4


def test_a_model_with_a_default_may_be_left_out() -> None:
    """No arguments and an empty payload both mean the default of the one model parameter."""

    @activity
    def maybe(point: Point = Point(7)) -> None: ...  # noqa: B008

    assert maybe.bind() == "{}"
    assert maybe.codec.decode("") == ((), {})
    assert maybe.codec.decode('{"x": 1}') == ((), {"point": Point(1)})


TREE = Tree("root", [Tree("leaf"), Tree("branch", [Tree("twig")])])
DRAWING = Drawing(title="t", points=[Point(1, 2)], lines={"l": Line(Point(3), Point(4))}, tree=TREE)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Drawing, DRAWING),
        (Album, Album(drawings=[DRAWING])),
        (Shelf, Shelf(Album(drawings=[DRAWING]), Line(Point(1), data=b"\x00\xff"), Colour.blue)),
        (list[Shelf], [Shelf(Album(), Line(Point(1)))]),
        (dict[str, Point | None], {"a": Point(1), "b": None}),
        (Holder[Point], Holder(Point(1), [Point(2)])),
        (Holder[list[int]], Holder([1], [[2]])),
        (Strict, Strict(Point(1))),
        (Tree, TREE),
        (Point | Tree, Tree("t")),
        (Colour, Colour.blue),
        (Pair, Pair(1, "b")),
        (Box, {"width": 3}),
        (list[Box], [{"width": 3}]),
        (set[int], {1, 2}),
        (tuple[int, Point], (1, Point(2))),
        (bytes, b"\xff\xfe\x00"),
        (list[bytes], [b"\xff"]),
        (Decimal, Decimal("1.10")),
        (uuid.UUID, uuid.UUID(int=5)),
        (datetime, datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        (date, date(2030, 1, 2)),
        (timedelta, timedelta(days=1, microseconds=5)),
        (Path, Path("/a/b")),
        (dict[int, str], {1: "a"}),
        (Annotated[int, Field(gt=0)], 3),
        (int, 10**30),
        (None, None),
    ],
    ids=str,
)
def test_values_come_back_as_they_went(type_: Any, value: Any) -> None:
    """Every supported type survives as a parameter and as a result, and the text between is strict JSON."""

    def function(value, other=None): ...  # type: ignore[no-untyped-def]

    function.__annotations__ = {"value": type_, "other": type_ | None if type_ is not None else None, "return": type_}
    codec = activity(function).codec
    for text in (codec.encode_arguments((value,), {}), codec.encode_object({"value": value})):
        assert codec.decode(text) == ((), {"value": value})
        json.loads(text, parse_constant=pytest.fail)
    result = codec.encode_result(value)
    assert codec.decode_result(result) == value
    assert type(codec.decode_result(result)) is type(value)
    assert decode_as(result, type_) == value


def test_classes_of_the_user_stay_usable() -> None:
    """A class that was carried once is validated by pydantic elsewhere like before, and is made as before."""
    trace.bind(Line(Point(1)))
    assert Point(1) == Point(1, 0)
    assert Drawing(title="t", points=[Point(1)]).points == [Point(1)]


def test_positional_only_parameters_are_passed_by_position() -> None:
    """A payload names positional-only parameters too, and gaps before a given one are filled by their defaults."""

    @activity
    def place(a: int = 1, b: int = 2, /, c: int = 3) -> None: ...

    assert place.bind(5, 6, c=7) == '{"a":5,"b":6,"c":7}'
    assert place.codec.decode('{"b": 9}') == ((1, 9), {})


@given(st.lists(st.integers(), max_size=5), st.dictionaries(st.sampled_from("abcdex"), st.integers()))
def test_arguments_are_bound_as_python_binds_them(args: list[int], kwargs: dict[str, int]) -> None:
    """The same parameters in the same order, or the same refusal."""

    @activity
    def mixed(a: int, b: int = 2, *, c: int, d: int = 4, e: int = 5) -> None: ...

    @activity
    def placed(a: int, b: int = 2, /, c: int = 3) -> None: ...

    for each in (mixed, placed):
        codec, bound, refused = each.codec, None, None
        try:
            bound = codec.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            refused = f"{codec.name}(): {error}"
        if bound is not None:
            assert json.loads(codec.encode_arguments(tuple(args), kwargs)) == bound
            assert list(json.loads(codec.encode_arguments(tuple(args), kwargs))) == list(bound)
        else:
            with pytest.raises(InvalidArguments) as raised:
                codec.encode_arguments(tuple(args), kwargs)
            assert str(raised.value) == refused


def test_annotations_may_name_what_comes_later() -> None:
    """String annotations are resolved at the first use: by the module, or by the function around the activity."""
    assert later.codec.decode('{"spec": {"n": 1}}') == ((), {"spec": DefinedLater(1)})

    @attrs.define
    class Inner:
        n: int

    @activity
    def local(inner: Inner, n: int = 0) -> Inner:
        return inner

    assert local.bind(Inner(1)) == '{"inner":{"n":1}}'
    assert local.codec.decode_result('{"n":2}') == Inner(2)


def test_a_type_that_cannot_be_carried_is_an_error_of_the_definition() -> None:
    """An annotation that means nothing, or a class that is no model, is a DefinitionError that names the parameter."""

    @activity
    def opaque(path: str, thing: Opaque) -> None: ...

    @activity
    def unknown(thing: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(DefinitionError, match=r"thing.*Opaque"):
        opaque.codec.prepare()
    with pytest.raises(DefinitionError, match="Missing"):
        unknown.codec.prepare()


# -- results and checkpoints


def test_a_result_is_checked_against_its_annotation() -> None:
    """A result that is not what the function promises is an error at once, not at the reader."""
    assert json.loads(convert.codec.encode_result(Line(Point(1))))["start"]["x"] == 1
    with pytest.raises(InvalidValue, match=r"result of convert.*start"):
        convert.codec.encode_result({"begin": 1})
    with pytest.raises(PayloadProblem, match="result of convert"):
        convert.codec.decode_result("5")


def test_a_result_without_annotation_is_plain_json() -> None:
    """Without a return annotation, or with None, the result is what JSON makes of it."""
    assert anything.codec.decode_result(anything.codec.encode_result({"a": (1, None)})) == {"a": [1, None]}
    assert locate.codec.encode_result(None) == "null"
    assert anything.codec.encode_result([Point(1)]) == '[{"x":1,"y":0,"hidden":"h"}]'
    with pytest.raises(InvalidValue, match="result of anything"):
        anything.codec.encode_result({1})


def test_a_checkpoint_comes_back_plain_or_typed() -> None:
    """A checkpoint is plain JSON or a model object, and is restored as either."""
    text = encode_checkpoint(Line(Point(1), data=b"\xff"))
    assert decode_as(text, Line) == Line(Point(1), data=b"\xff")
    assert decode_as(text)["start"]["x"] == 1
    assert decode_as(encode_checkpoint({"done": [1]}), dict[str, list[int]]) == {"done": [1]}
    with pytest.raises(PayloadProblem, match=r"checkpoint: .*done"):
        decode_as(encode_checkpoint({"done": [1]}), dict[str, int], "checkpoint")


# -- the contract for callers elsewhere


def test_the_schema_tells_what_a_payload_may_be() -> None:
    """The payload's JSON Schema has the parameters, which are required, the defaults, and nothing else is allowed."""
    schema = convert.codec.payload_schema()
    assert (schema["title"], schema["type"], schema["required"]) == ("convert", "object", ["path"])
    assert schema["additionalProperties"] is False
    assert schema["properties"]["format"]["default"] == "webm"
    assert locate.codec.payload_schema()["required"] == ["x"]
    assert "Line" in json.dumps(convert.codec.result_schema()) or convert.codec.result_schema()["title"] == "Line"
    assert anything.codec.result_schema() == {}
    assert json.loads(json.dumps(draw.codec.payload_schema())) == draw.codec.payload_schema()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_every_json_value_survives(value: Any) -> None:
    """Whatever JSON can say goes through a parameter without annotation, a result and a checkpoint unchanged."""
    assert anything.codec.decode(anything.bind(value))[1]["value"] == value
    assert anything.codec.decode_result(anything.codec.encode_result(value)) == value
    assert decode_json(encode_json(value, "x"), "x") == value


@given(st.text())
def test_no_text_makes_decoding_fail_otherwise(text: str) -> None:
    """Any text at all is either decoded or a PayloadProblem."""
    for codec in (convert.codec, anything.codec, locate.codec, draw.codec):
        with contextlib.suppress(PayloadProblem):
            codec.decode(text)
