"""Text with fields of the payload in braces, as in `tenant:{tenant}` or `{customer.id}`."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from turnout.definition.codec import encode_json
from turnout.errors import DefinitionError, InvalidValue

_BRACES = re.compile(r"\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")


def checked_braces(template: str, what: str) -> str:
    """`template`, if its braces hold names of fields; InvalidValue says what is wrong with `what`."""
    rest = _BRACES.sub("", template)
    if "{" in rest or "}" in rest:
        raise InvalidValue(
            f"the braces in {what} hold the name of a field, as in 'tenant:{{tenant}}', unlike {template!r}"
        )
    return template


def fields_of(template: str) -> tuple[str, ...]:
    """The fields that it names, each as a path.

    >>> fields_of("{customer.id}:{region}")
    ('customer.id', 'region')
    """
    return tuple(_BRACES.findall(template))


def filled(template: str, values: Mapping[str, Any]) -> str:
    """With these values in place of its braces; `null` where there is none."""
    return _BRACES.sub(lambda found: _text(found[1], values), template)


def may_be(text: str, template: str) -> bool:
    """Whether some values in place of its braces make this text.

    >>> may_be("tenant:42", "tenant:{tenant}"), may_be("tenants:42", "tenant:{tenant}")
    (True, False)
    """
    fixed = _BRACES.sub("\0", template).split("\0")
    return re.fullmatch(".*".join(map(re.escape, fixed)), text, re.DOTALL) is not None


def check_fields(
    activity: str, what: str, template: str, names_at: Callable[[Sequence[str]], Collection[str] | None]
) -> None:
    """DefinitionError for a template that names a field which the activity's payload does not have. `names_at`: what
    there is at the end of a path into it, None where nothing is known of that."""
    for path in fields_of(template):
        names = path.split(".")
        for depth, name in enumerate(names):
            known = names_at(names[:depth])
            if known is None:
                break
            if name not in known:
                where = ".".join(names[:depth]) or "the payload"
                has = ", ".join(known) or "no fields"
                raise DefinitionError(f"activity {activity}: {what} {template!r} names {path!r}; {where} has {has}")


def _text(path: str, values: Mapping[str, Any]) -> str:
    value: Any = values
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, str):
        return value
    try:
        return encode_json(value, "limit")
    except InvalidValue:
        return str(value)
