"""A line that a job's code has logged: how long it may be, and what stands for lines that were dropped."""

from __future__ import annotations

import attrs

LINE_BYTES = 4096
"""The longest message that is kept, with the text of its exception."""


@attrs.frozen
class Line:
    """One line of `job.log`. `at` is unix seconds; `level` is the level's name."""

    at: float
    level: str
    attempt: int
    node: str
    message: str


def cut(text: str, most: int = LINE_BYTES) -> str:
    """`text` in at most `most` bytes of UTF-8. What is too much is missing in the middle: both ends tell more.

    >>> cut("a" * 30 + "b" * 30, 50)
    'aaaaaaaaaa... (40 bytes) ...bbbbbbbbbb'
    """
    if text.isascii() and len(text) <= most:
        return text
    data = text.encode(errors="backslashreplace")  # half of a surrogate pair is no UTF-8
    if len(data) <= most:
        return data.decode()
    half = max((most - 30) // 2, 0)
    head, tail = data[:half].decode(errors="ignore"), data[len(data) - half :].decode(errors="ignore")
    return f"{head}... ({len(data) - 2 * half} bytes) ...{tail}"


def marker(count: int, line: Line) -> Line:
    """What stands for `count` lines that were dropped before `line`."""
    return Line(line.at, "WARNING", line.attempt, line.node, f"... {count} lines dropped")
