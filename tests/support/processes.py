"""A look at the processes of this machine (Linux): what a test left behind."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has reaped yet does not."""
    return _status(pid)[0] not in "ZX"


def children(pid: int | None = None) -> set[int]:
    """The living children of a process, by default of this one, and theirs."""
    every = {int(entry.name): _status(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdecimal()}
    found, grown = {pid or os.getpid()}, True
    while grown:
        more = {child for child, (state, parent, _) in every.items() if parent in found and state not in "ZX"} - found
        found, grown = found | more, bool(more)
    return found - {pid or os.getpid()}


def named(name: str, pid: int | None = None) -> set[int]:
    """The living processes below a process, by default below this one, whose program's name begins like this."""
    return {child for child in children(pid) if _status(child)[2].startswith(name)}


def _status(pid: int) -> tuple[str, int, str]:
    """A process's state, parent and name; X is gone."""
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return "X", 0, ""
    state, parent = tail.split()[:2]
    return state, int(parent), head.partition("(")[2]


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for a condition; fails after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"did not come true within {timeout_s} s"
        await asyncio.sleep(0.01)
