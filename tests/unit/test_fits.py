"""A value beside a JSON Schema: what is told to be wrong is wrong."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import uuid
from typing import Annotated, Any, Literal, NamedTuple

import attrs
import pydantic
import pytest
import typing_extensions
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from turnout.definition.fits import misfit
from turnout.definition.schemas import type_adapter


@attrs.frozen
class Point:
    x: int
    y: float = 0.0


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    due: datetime.date
    paid: bool = False


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    number: int = Field(alias="n")


class Loose(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)
    name: str


class Tree(BaseModel):
    label: str
    inner: list[Tree] = []


class Split(BaseModel):
    parts: list[str]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return {"parts": value.split(",")} if isinstance(value, str) else value


class Pair(NamedTuple):
    left: int
    right: str


class Size(enum.Enum):
    small = "s"
    large = "l"


class Level(enum.IntEnum):
    low = 1
    high = 2


class Kind(enum.Enum):
    other = "other"

    @classmethod
    def _missing_(cls, value: object) -> Kind:
        return cls.other


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class Options(typing_extensions.TypedDict, total=False):
    depth: int
    tags: set[str]


def split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


TYPES: dict[str, Any] = {
    **{type_.__name__: type_ for type_ in (bool, int, float, str, bytes, complex, decimal.Decimal, uuid.UUID)},
    **{type_.__name__: type_ for type_ in (datetime.datetime, datetime.date, datetime.time, datetime.timedelta)},
    **{type_.__name__: type_ for type_ in (pathlib.Path, pydantic.SecretStr, Point, Order, Aliased, Loose, Tree)},
    **{type_.__name__: type_ for type_ in (Split, Pair, Size, Level, Kind, Options)},
    **{str(type_): type_ for type_ in (Any, None, list[int], set[str], tuple[int, str], tuple[int, ...], int | str)},
    **{str(type_): type_ for type_ in (dict[str, str], dict[int, float], Literal["a", 1], Literal["only"])},
    "points": dict[str, Point],
    "optional": Point | None,
    "json": pydantic.Json[list[int]],
    "either": Annotated[Cat | Dog, Field(discriminator="kind")],
    "looked at before": Annotated[list[str], BeforeValidator(split)],
    "bounded": Annotated[int, Field(ge=0, le=9)],
}
TEXTS = ["", "5", " 5 ", "5.0", "1_0", "x", "yes", "True", "s", "a", "only", "cat", "2026-01-02", "12:00", "P1D", "a,b"]
KEYS = [
    "x",
    "y",
    "id",
    "due",
    "paid",
    "number",
    "n",
    "name",
    "label",
    "inner",
    "parts",
    "left",
    "right",
    "kind",
    "lives",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, 1, 2, -1, 5.0, 0.5, 1e30]) | st.sampled_from([*TEXTS, "0" * 8]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("type_", TYPES.values(), ids=TYPES)
@settings(max_examples=40)
@given(value=JSON)
@example(value={"number": 5})
@example(value={"kind": "cat", "lives": "9"})
@example(value="a,b")
@example(value={"left": 1, "right": "x"})
@example(value="1")
def test_what_does_not_fit_is_refused_by_the_code(type_: Any, value: Any) -> None:
    """Of any type, what the comparison calls wrong, pydantic refuses as well."""
    adapter = type_adapter(type_)
    if misfit(adapter.json_schema("validation"), value, lax=True) is not None:
        with pytest.raises(pydantic.ValidationError):
            adapter.parse(json.dumps(value))


@pytest.mark.parametrize(
    ("type_", "value", "told"),
    [
        (int, "x", "it must be integer"),
        (int, 1.5, "it must be integer"),
        (int, None, "it must be integer"),
        (float, "fast", "it must be number"),
        (bool, "maybe", "it must be boolean"),
        (bool, 2, "it must be boolean"),
        (str, 5, "it must be string"),
        (datetime.date, {}, "it must be string"),
        (list[int], {"0": 1}, "it must be array"),
        (list[int], [1, "two"], "1: it must be integer"),
        (Point, {"y": 1}, "x: it is missing"),
        (dict[str, Point], {"a": {"x": []}}, "a.x: it must be integer"),
        (Tree, {"label": "a", "inner": [{"label": 1}]}, "inner.0.label: it must be string"),
        (Size, "m", "it must be one of 's', 'l'"),
        (Literal["only"], "other", "it must be one of 'only'"),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_what_is_wrong_is_told(type_: Any, value: Any, told: str) -> None:
    """The place, and what it must be."""
    assert misfit(type_adapter(type_).json_schema("validation"), value, lax=True) == told


@pytest.mark.parametrize(
    ("type_", "value"), [(int, "5"), (bool, "yes"), (bool, 1), (float, True), (Level, "1")], ids=str
)
def test_only_what_reads_laxly_takes_other_kinds(type_: Any, value: Any) -> None:
    """A text that spells a number is one for a payload, and none for a result."""
    schema = type_adapter(type_).json_schema("validation")
    assert misfit(schema, value, lax=True) is None
    assert misfit(schema, value) is not None
