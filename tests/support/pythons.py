"""The Pythons that are here with the tests of their standard library: Debian's, for one, come without."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
OURS = f"{sys.version_info.major}.{sys.version_info.minor}"


def candidates(version: str) -> list[Path]:
    """Where an interpreter of this version may be: on the PATH, and behind pyenv's shims."""
    name = f"python{version}"
    folders = [Path(folder) for folder in os.get_exec_path()]
    places = [*([Path(sys.executable)] if version == OURS else []), *(folder / name for folder in folders)]
    for folder in folders:
        if folder.name == "shims":
            places += sorted(folder.parent.glob(f"versions/{version}.*/bin/{name}"), reverse=True)
    return [place for place in places if place.exists()]


def interpreter(version: str) -> str | None:
    """An interpreter of this version that came with the tests of its standard library.

    None is started to find that out: every process that collects tests looks for them.
    """
    tests = Path("lib", f"python{version}", "test", "test_asyncio")
    found = (place for place in candidates(version) if (place.resolve().parent.parent / tests).is_dir())
    return next(map(str, found), None)


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


HERE = {version: place for version in VERSIONS if (place := interpreter(version)) is not None}
