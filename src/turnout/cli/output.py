"""What is printed: one JSON document, or text for people."""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from turnout.core.plain import plain

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOURS = {
    "running": "cyan",
    "completed": "green",
    "faulted": "red",
    "stuck": "red",
    "timed_out": "red",
    "lost": "red",
    "cancelled": "yellow",
    "terminated": "yellow",
    "retrying": "yellow",
    "aborted": "yellow",
    "suspect": "yellow",
    "cancelling": "yellow",
}


def dumps(value: Any, *, indent: int | None = 2) -> str:
    """A JSON document that any terminal or pipe can carry; without `indent` on one line."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    try:
        text = json.dumps(plain(value), indent=indent, ensure_ascii=not utf8, default=str)
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can say it, UTF-8 can't
        text = json.dumps(plain(value), indent=indent, default=str)
    return text


class Array:
    """A JSON array that is printed as its items are found, a line each, and is one document at the end."""

    def __init__(self) -> None:
        self._empty = True

    def more(self, items: Iterable[Any]) -> None:
        lines = []
        for item in items:
            lines.append(("[\n " if self._empty else ",") + dumps(item, indent=None))
            self._empty = False
        if lines:
            click.echo("\n".join(lines))

    def end(self) -> None:
        click.echo("[]" if self._empty else "]")


def note(text: str) -> None:
    """A remark for people, on stderr: never a part of the output."""
    click.echo(text, err=True)


def clean(text: str) -> str:
    """Text from outside without what would move a terminal's cursor or colour it; lines stay lines."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def one_line(value: Any, width: int = 160) -> str:
    """A text, or a JSON value, shortened to one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(clean(text).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def coloured(word: str) -> str:
    """A state or an outcome in its colour; a pipe gets the word alone."""
    return click.style(word, fg=_COLOURS.get(word), bold=word in ("faulted", "lost", "stuck"))


def style_of(word: str) -> str:
    """The style of a state or an outcome where rich prints it; "" for other words."""
    return _COLOURS.get(word, "")


class Table:
    """Columns under their headers, row by row: as wide as the first rows need, and wider from where others do."""

    def __init__(self, headers: Sequence[str]) -> None:
        self._headers = headers
        self._widths: list[int] | None = None

    def lines(self, rows: Iterable[Sequence[str]]) -> list[str]:
        """The lines of these rows; before the first ones the headers'."""
        cells = [[clean(cell.replace("\n", " ")) for cell in row] for row in rows]
        first = self._widths is None
        least = [len(name) for name in self._headers] if self._widths is None else self._widths
        needed = [[len(cell) for cell in row] for row in cells]
        self._widths = widths = [max(column) for column in zip(least, *needed, strict=True)]
        titles = ["  ".join(f"{name.upper():{width}}" for name, width in zip(self._headers, widths, strict=True))]
        padded = ["  ".join(_padded(cell, width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        return [line.rstrip() for line in ((titles if first else []) + padded)]


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns under their headers, as wide as they need."""
    return Table(headers).lines(rows)


def _padded(cell: str, width: int) -> str:
    return (coloured(cell) if cell in _COLOURS else cell) + " " * (width - len(cell))


def fields(pairs: Iterable[tuple[str, str | None]]) -> list[str]:
    """Names and values, one a line; those without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    return [f"{name:{width}}  {value}" for name, value in shown]


def labels(found: Mapping[str, str]) -> str:
    """Labels in a line, by their keys: customer=42 region=eu."""
    return " ".join(one_line(f"{key}={value}") for key, value in sorted(found.items()))


def several(count: int, what: str) -> str:
    """So many of something: 1 job, 3 jobs."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many there are beside them: a, b and 3 more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def duration(seconds: float) -> str:
    """A time span for people: 850ms, 12s, 3m20s, 5h02m, 3d04h."""
    if seconds < 0:
        return "0s"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def instant(moment: dt.datetime, *, milliseconds: bool = False) -> str:
    """An instant in UTC: 2026-01-31 12:00:00Z, or 2026-01-31 12:00:00.000Z."""
    utc = moment.astimezone(dt.UTC)
    return f"{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 1000:03d}Z" if milliseconds else f"{utc:%Y-%m-%d %H:%M:%S}Z"


def ago(moment: dt.datetime | float | None, now: float) -> str:
    """How long ago, or in how long: 2m ago, in 5s."""
    if moment is None:
        return ""
    seconds = now - (moment.timestamp() if isinstance(moment, dt.datetime) else moment)
    if seconds < 0:
        return f"in {_coarse(-seconds)}"
    return f"{_coarse(seconds)} ago"


def age(moment: dt.datetime | float | None, now: float) -> str:
    """How long something has been there: 2m."""
    return ago(moment, now).removesuffix(" ago")


def _coarse(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def at(moment: dt.datetime | None, now: float) -> str | None:
    """An instant, and how long ago that is."""
    return None if moment is None else f"{instant(moment)} ({ago(moment, now)})"
