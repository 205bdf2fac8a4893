"""Routing: what nodes have, what jobs require of theirs, and what that is called.

Pure. A property is a name and a value, `region=east`; a node fits a job when it has every property that the job
requires, with the same value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from turnout.core.struct import struct
from turnout.errors import InvalidValue

PROPERTY_NAME = re.compile(r"[A-Za-z0-9_./-]{1,64}")
MAX_PROPERTIES = 16
MAX_PROPERTY_VALUE = 128

_EXAMPLE = '{"region": "east"}'


@struct
class Route:
    """A way of an activity's jobs past the nodes that do not fit: those that require the same go it together."""

    activity: str
    requires: dict[str, str]

    @property
    def token(self) -> str:
        """What stands for the requirements in a subject."""
        return token_of(self.requires)


def checked_properties(value: object, what: str) -> dict[str, str]:
    """`value` as a dict of properties, else InvalidValue that names `what`, and says what would be right.

    >>> checked_properties({"gpus": 2}, "requires")
    Traceback (most recent call last):
    ...
    turnout.errors.InvalidValue: requires: the value of 'gpus' must be a string: 2 is none, '2' is one
    """
    if not isinstance(value, Mapping):
        raise InvalidValue(f"{what} must be a dict of strings such as {_EXAMPLE}, not {value!r}")
    if len(value) > MAX_PROPERTIES:
        raise InvalidValue(f"{what}: at most {MAX_PROPERTIES} properties, not {len(value)}")
    return {_name(name, what): _value(found, name, what) for name, found in value.items()}


def checked_requires(value: object) -> dict[str, str]:
    """What a job requires; an empty dict requires nothing, and is a mistake where somebody writes it."""
    found = checked_properties(value, "requires")
    if not found:
        raise InvalidValue(f"requires is empty: name a property, such as {_EXAMPLE}, or leave it out")
    return found


def parse_property(text: str, what: str) -> tuple[str, str]:
    """The property that `region=east` names.

    >>> parse_property("region", "--property")
    Traceback (most recent call last):
    ...
    turnout.errors.InvalidValue: --property must be NAME=VALUE, such as region=east, not 'region'
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidValue(f"{what} must be NAME=VALUE, such as region=east, not {text!r:.200}")
    return _name(name.strip(), what), _value(value.strip(), name.strip(), what)


def parse_properties(texts: Iterable[str], what: str) -> dict[str, str]:
    """The properties of several such texts; InvalidValue when two of them contradict each other."""
    found: dict[str, str] = {}
    for text in texts:
        name, value = parse_property(text, what)
        if found.setdefault(name, value) != value:
            raise InvalidValue(f"{what}: {name} is given twice, as {found[name]!r} and as {value!r}")
    return checked_properties(found, what)


def fits(properties: Mapping[str, str], requires: Mapping[str, str]) -> bool:
    """Whether a node with these properties may run a job that requires those.

    >>> fits({"region": "east", "gpu": "a100"}, {"region": "east"})
    True
    """
    return all(properties.get(name) == value for name, value in requires.items())


def spelled(properties: Mapping[str, str]) -> str:
    """The properties as people write them, and as a header carries them.

    >>> spelled({"region": "east", "gpu": "a100"})
    'gpu=a100, region=east'
    """
    return ", ".join(f"{name}={value}" for name, value in sorted(properties.items()))


def token_of(requires: Mapping[str, str]) -> str:
    """The token of a subject that stands for these requirements, which may have any characters."""
    return hashlib.sha256(spelled(requires).encode()).hexdigest()[:16]


def _name(value: object, what: str) -> str:
    if isinstance(value, str) and PROPERTY_NAME.fullmatch(value):
        return value
    raise InvalidValue(f"{what}: a property's name must match [A-Za-z0-9_./-]{{1,64}}, not {value!r:.200}")


def _value(value: object, name: object, what: str) -> str:
    """Values travel in a header, several in a line."""
    if not isinstance(value, str):
        raise InvalidValue(
            f"{what}: the value of {name!r} must be a string: {value!r:.100} is none, '{value!s:.100}' is one"
        )
    if not 1 <= len(value) <= MAX_PROPERTY_VALUE or not value.isprintable() or "," in value or value != value.strip():
        raise InvalidValue(
            f"{what}: the value of {name!r} must be 1 to {MAX_PROPERTY_VALUE} printable characters, without a comma or"
            f" a space at either end, not {value!r:.200}"
        )
    return value
