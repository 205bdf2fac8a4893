"""`@activity(fairness="{tenant}")`: by which fields of the payload the jobs of an activity have their turns.

Whoever deals the turns out has no code of the activity: it goes by what the activity's consumer says of it, the
template and the defaults of its fields, and by the payload as it was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from turnout import fastjson
from turnout.core.limits import hashed
from turnout.definition.templates import checked_braces, fields_of, filled
from turnout.errors import InvalidValue

MAX_TEMPLATE = 200
_LONGEST_KEY = 64
_EXAMPLE = "as in fairness='{tenant}'"


def fairness_template(value: object) -> str | None:
    """The `fairness` of an activity; InvalidValue says what is wrong with it."""
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_TEMPLATE or not value.isprintable():
        raise InvalidValue(f"fairness must be 1 to {MAX_TEMPLATE} printable characters, {_EXAMPLE}, not {value!r}")
    checked_braces(value, "fairness")
    if not fields_of(value):
        raise InvalidValue(f"fairness must name a field of the payload in braces, {_EXAMPLE}, unlike {value!r}")
    return value


@attrs.frozen
class Fairness:
    """What is to be known of an activity to tell its jobs apart: `defaults` are those of the fields at the payload's
    top.

    >>> Fairness("{tenant}", {"tenant": "nobody"}).key(b'{"tenant": "a"}')
    'a'
    """

    template: str
    defaults: Mapping[str, Any] = attrs.field(factory=dict)

    @classmethod
    def of(cls, template: str, payload_schema: Mapping[str, Any]) -> Fairness:
        """By the contract of an activity."""
        tops = dict.fromkeys(path.partition(".")[0] for path in fields_of(template))
        fields = payload_schema.get("properties") or {}
        return cls(template, {top: fields[top]["default"] for top in tops if "default" in fields.get(top, {})})

    def key(self, payload: bytes | str) -> str:
        """Whose turn it is that a job of this payload waits for. What can't be read is all of one key."""
        try:
            values = fastjson.loads(payload)
            text = filled(self.template, {**self.defaults, **values} if isinstance(values, dict) else self.defaults)
        except (ValueError, RecursionError):
            text = filled(self.template, self.defaults)
        return text if len(text) <= _LONGEST_KEY else hashed(ascii(text))

    def dumps(self) -> str:
        """As the metadata of a consumer hold it."""
        return fastjson.dumps({"template": self.template, "defaults": dict(self.defaults)}).decode()

    @classmethod
    def loads(cls, text: str) -> Fairness | None:
        """None for what nobody could have written."""
        try:
            said = fastjson.loads(text)
            template = fairness_template(said["template"])
            return None if template is None else cls(template, dict(said["defaults"]))
        except (ValueError, TypeError, KeyError):
            return None
