"""Which line of the user's code asks, or waits: "file:line function"."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from turnout import flow
from turnout.core.workflows.values import WAITS_SHOWN, Wait
from turnout.flow import CodeLine, Task, stack_of

_OURS = (str(Path(flow.__file__).parents[1]), str(Path(asyncio.__file__).parent), threading.__file__, "<frozen")
_DEPTH = 50


@functools.lru_cache(maxsize=1024)
def _shown(file: str, line: int, function: str) -> str:
    """A long replay asks for few lines very often."""
    return f"{Path(file).name}:{line} {function}"


def users_line(stack: Sequence[CodeLine] | None = None) -> str:
    """The innermost line that is neither turnout's nor asyncio's: of `stack`, or of what runs just now.

    "" where there is none, as in a task made of `asyncio.sleep` itself.
    """
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


def with_lines(waits: list[Wait], tasks: Callable[[], Iterable[asyncio.Task[Any]]]) -> list[Wait]:
    """Those that are shown have a line each: in a task without one of the user's, that of whoever has made it."""
    nameless = [wait.id for wait in waits[:WAITS_SHOWN] if wait.id and not wait.code]
    if not nameless:
        return waits
    makers = {command: command.rpartition("-")[0].rpartition(".")[0] for command in nameless}
    wanted = set(makers.values())
    lines: dict[str, str] = {}
    for task in tasks():  # in the order of their creation: who makes tasks comes early
        if isinstance(task, Task) and (path := task.path) in wanted:
            lines[path] = users_line(stack_of(task))
            if len(lines) == len(wanted):
                break
    return [
        attrs.evolve(wait, code=lines.get(makers.get(wait.id, ""), "")) if not wait.code else wait for wait in waits
    ]
