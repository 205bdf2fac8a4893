"""Properties of nodes and what jobs require of them: what may be written, and what fits (P15)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from turnout.core.catalog import NodeInfo
from turnout.core.routing import (
    Route,
    checked_properties,
    checked_requires,
    fits,
    parse_properties,
    parse_property,
    spelled,
    token_of,
)
from turnout.errors import InvalidValue

EAST = {"region": "east"}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("region=east", 'must be a dict of strings such as {"region": "east"}'),
        ({f"p{n}": "x" for n in range(17)}, "at most 16 properties, not 17"),
        ({"a b": "x"}, "a property's name must match"),
        ({7: "x"}, "a property's name must match"),
        ({"gpus": 2}, "'2' is one"),
        ({"region": ""}, "1 to 128 printable characters"),
        ({"region": "a,b"}, "without a comma"),
        ({"region": " east"}, "a space at either end"),
        ({"region": "e\nast"}, "printable"),
        ({"region": "x" * 129}, "1 to 128"),
    ],
)
def test_what_no_header_could_carry_is_refused(value: Any, says: str) -> None:
    """With a sentence that says what would be right."""
    with pytest.raises(InvalidValue) as refused:
        checked_properties(value, "properties")
    assert says in str(refused.value)


def test_to_require_nothing_is_a_mistake_where_somebody_writes_it() -> None:
    """Whoever requires nothing leaves it out."""
    assert checked_requires(EAST) == EAST
    with pytest.raises(InvalidValue, match="requires is empty"):
        checked_requires({})


def test_texts_of_the_command_line_become_properties() -> None:
    """Spaces around them count for nothing, the same twice is no contradiction, another value is."""
    assert parse_property(" region = east ", "--property") == ("region", "east")
    assert parse_properties(["region=east", "gpu=a100", "gpu=a100"], "--property") == {"region": "east", "gpu": "a100"}
    with pytest.raises(InvalidValue, match="region is given twice, as 'east' and as 'west'"):
        parse_properties(["region=east", "region=west"], "--property")
    with pytest.raises(InvalidValue, match="must be NAME=VALUE"):
        parse_property("region", "--property")


def test_a_node_fits_that_has_all_that_is_required() -> None:
    """With the same values; what it has beside that does not matter."""
    node = {"region": "east", "gpu": "a100"}
    assert fits(node, EAST)
    assert fits(node, {})
    assert not fits(node, {"region": "west"})
    assert not fits(node, {"disk": "big"})


def test_the_order_of_properties_makes_no_other_route() -> None:
    """Jobs that require the same go the same way."""
    one, other = {"a": "1", "b": "2"}, {"b": "2", "a": "1"}
    assert spelled(one) == spelled(other) == "a=1, b=2"
    assert Route("act", one).token == Route("act", other).token == token_of(one) != token_of(EAST)


def test_who_takes_what() -> None:
    """A node begins jobs of its activities that require no more than it has, unless it drains; of a later version's
    nobody knows."""
    node = NodeInfo(id="n-1", name="n", version="1", activities=("render",), properties={"region": "east", "gpu": "a"})
    assert node.takes("render", EAST)
    assert node.takes("render", {})
    assert not node.takes("render", {"region": "west"})
    assert not node.takes("paint", EAST)
    assert not attrs.evolve(node, draining=True).takes("render", EAST)
    assert NodeInfo(id="n-2", name="n").takes("render", EAST)
