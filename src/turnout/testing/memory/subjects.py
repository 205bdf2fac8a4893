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
    if "*" not in pattern and ">" not in pattern:
        return pattern.__eq__
    tokens = [r"[^.]+" if token == "*" else re.escape(token) for token in pattern.split(".")]
    if pattern == ">" or pattern.endswith(".>"):
        tokens[-1] = ".+"
    return re.compile(r"\.".join(tokens)).fullmatch


def any_of(patterns: Iterable[str]) -> Matcher:
    """What tells whether a subject is one of any of the patterns'; without patterns every one is."""
    matchers = [matcher(pattern) for pattern in patterns]
    if not matchers:
        return lambda _: True
    if len(matchers) == 1:
        return matchers[0]
    return lambda subject: any(matches(subject) for matches in matchers)


def literal(pattern: str) -> bool:
    """Whether the pattern stands for one subject, itself."""
    return "*" not in pattern and ">" not in pattern


def mapped(source: str, destination: str, subject: str) -> str | None:
    """The subject that `subject` becomes by a mapping such as `a.*.*` to `b.{{wildcard(1)}}`; None if it is not meant.

    >>> mapped("a.*.*", "b.{{wildcard(2)}}", "a.x.y")
    'b.y'
    """
    if not matcher(source)(subject):
        return None
    tokens = subject.split(".")
    wild = [token for token, meant in zip(tokens, source.split("."), strict=False) if meant == "*"]
    return re.sub(r"\{\{wildcard\((\d+)\)\}\}", lambda found: wild[int(found[1]) - 1], destination)
