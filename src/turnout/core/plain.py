"""Values as JSON has them: what the command line prints, and what a web service may answer with."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from typing import Any

import attrs

_JSON: frozenset[type] = frozenset({str, int, bool, type(None)})
_PLAIN = _JSON | {float}
_fields: dict[type, tuple[str, ...]] = {}
"""The fields of each class of attrs that was met: a listing asks for those of one again and again."""


def plain(value: Any) -> Any:
    """A value as JSON has it: objects with their fields as keys, instants as RFC 3339 in UTC, enums by their names.

    >>> plain([dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)])
    ['2026-01-31T12:00:00Z']
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    names = _fields.get(kind)
    if names is None and attrs.has(kind):
        names = _fields[kind] = tuple(field.name for field in attrs.fields(kind))
    if names is not None:
        found = {name: getattr(value, name) for name in names}
        return {name: item if type(item) in _JSON else _field(name, item) for name, item in found.items()}
    if isinstance(value, dt.datetime):
        return rfc3339(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _field(name: str, value: Any) -> Any:
    if type(value) is float and name.endswith("_at"):  # nodes tell instants as unix seconds
        return plain(utc(value))
    return plain(value)


def rfc3339(instant: dt.datetime, timespec: str = "auto") -> str:
    """An instant as text, in UTC, as all that is told has it. `timespec`: how exact, as of `isoformat`.

    >>> rfc3339(dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC), "milliseconds")
    '2026-01-31T12:00:00.000Z'
    """
    in_utc = instant if instant.tzinfo is dt.UTC else instant.astimezone(dt.UTC)
    return in_utc.isoformat(timespec=timespec).replace("+00:00", "Z")


def utc(seconds: float) -> dt.datetime:
    """Unix seconds as an aware datetime, or the nearest there is: one record that says nonsense must not end a listing.

    >>> utc(1e300).year, utc(-1e300).year
    (9999, 1)
    """
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return dt.datetime.max.replace(tzinfo=dt.UTC) if seconds > 0 else dt.datetime.min.replace(tzinfo=dt.UTC)


class Plain:
    """Gives a class of attrs its way to JSON."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it, with the keys and values of the command line's `-o json`.

        Instants are text (RFC 3339, UTC), states and outcomes their names: `json.dumps` and web frameworks take it.
        """
        found: dict[str, Any] = plain(self)
        return found
