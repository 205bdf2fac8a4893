"""Which line of the user's code asks, or waits: "file:line function"."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from turnout import flow
from turnout.flow import CodeLine

_OURS = (str(Path(flow.__file__).parents[1]), str(Path(asyncio.__file__).parent), "<frozen")
_DEPTH = 50


@functools.lru_cache(maxsize=1024)
def _shown(file: str, line: int, function: str) -> str:
    """A long replay asks for few lines very often."""
    return f"{Path(file).name}:{line} {function}"


def users_line(stack: Sequence[CodeLine] | None = None) -> str:
    """The innermost line that is neither turnout's nor asyncio's: of `stack`, or of what runs just now."""
    if stack is not None:
        lines = [each for each in reversed(stack) if not each.file.startswith(_OURS)]
        return _shown(lines[0].file, lines[0].line, lines[0].function) if lines else ""
    frame = sys._getframe(1)
    for _ in range(_DEPTH):
        code = frame.f_code
        if not code.co_filename.startswith(_OURS):
            return _shown(code.co_filename, frame.f_lineno, code.co_name)
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return ""
