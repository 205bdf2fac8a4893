"""A look at the processes of this machine (Linux): what a test left behind."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.waiting import until


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


async def one(name: str, pid: int | None = None) -> int:
    """Wait until one such process runs below a process; its id."""

    async def looks() -> set[int]:
        return named(name, pid)

    (found,) = await until(looks)
    return found


async def gone(pid: int, within_s: float = 5.0) -> None:
    """Wait until a process has ended."""

    async def looks() -> bool:
        return not alive(pid)

    await until(looks, within_s)
