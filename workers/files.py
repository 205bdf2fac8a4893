"""Files that are there whole or not at all, even after a power cut. All of this blocks."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

PART = ".part"
"""How the name of an unfinished file ends."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: takes its place in one step if the block succeeds, is removed if it does not.

    Its name is used once: an attempt that is thought dead and is not never writes into the file of its successor.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        yield part
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def publish(part: Path, path: Path) -> None:
    """Move a finished file to its place: its bytes are on disk before the name is."""
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's or a directory's content is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def size_of(path: Path) -> int:
    """The size of a file in bytes, or -1 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def keep_only(directory: Path, names: Collection[str]) -> None:
    """Make `directory` and remove every file in it but these: an earlier attempt's left-overs."""
    directory.mkdir(exist_ok=True)
    for entry in directory.iterdir():
        if entry.name not in names:
            entry.unlink(missing_ok=True)


def remove(directory: Path) -> None:
    """Remove a work directory and what is in it, if it is there."""
    shutil.rmtree(directory, ignore_errors=True)
