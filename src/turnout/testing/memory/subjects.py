"""Matching subjects: `*` stands for one token, `>` for one or more at the end."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable

Matcher = Callable[[str], object]


@functools.lru_cache(maxsize=65536)
def matcher(pattern: str) -> Matcher:
    """What tells whether a subject is one of the pattern's.

    >>> bool(matcher("a.*.c")("a.b.c")), bool(matcher("a.>")("a"))
    (True, False)
    """
    return pattern.__eq__ if literal(pattern) else re.compile(_expression(pattern)).fullmatch


def any_of(patterns: Iterable[str]) -> Matcher:
    """What tells whether a subject is one of any of the patterns'; without patterns every one is."""
    given = list(patterns)
    if not given:
        return lambda _: True
    if len(given) == 1:
        return matcher(given[0])
    return re.compile("|".join(_expression(pattern) for pattern in given)).fullmatch


def _expression(pattern: str) -> str:
    tokens = [r"[^.]+" if token == "*" else re.escape(token) for token in pattern.split(".")]
    if pattern == ">" or pattern.endswith(".>"):
        tokens[-1] = ".+"
    return r"\.".join(tokens)


def literal(pattern: str) -> bool:
    """Whether the pattern stands for one subject, itself."""
    return "*" not in pattern and ">" not in pattern


def mapped(source: str, destination: str, subject: str) -> str | None:
    """The subject that `subject` becomes by a mapping such as `a.*.*` to `b.{{wildcard(1)}}`; None if it is not meant.

    >>> mapped("a.*.*", "b.{{wildcard(2)}}", "a.x.y")
    'b.y'
    """
    pattern, parts = _mapping(source, destination)
    found = pattern.fullmatch(subject)
    return "".join(each if isinstance(each, str) else found[each] for each in parts) if found is not None else None


@functools.lru_cache(maxsize=64)
def _mapping(source: str, destination: str) -> tuple[re.Pattern[str], list[str | int]]:
    """A pattern whose groups are the wildcards, and what is put together: text, and the numbers of groups."""
    expression = _expression(source).replace("[^.]+", "([^.]+)")
    pieces = re.split(r"\{\{wildcard\((\d+)\)\}\}", destination)
    return re.compile(expression), [int(each) if place % 2 else each for place, each in enumerate(pieces)]
