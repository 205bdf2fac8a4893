"""The Pythons that are here with the tests of their standard library: Debian's, for one, come without."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
PROBE = """
import importlib.util, json, sys
if importlib.util.find_spec("test.test_asyncio") is None:
    sys.exit(1)
print(json.dumps([sys.executable, sys.version_info[:2]]))
"""


def candidates(version: str) -> list[Path]:
    """Where an interpreter of this version may be: on the PATH, and behind pyenv's shims."""
    name = f"python{version}"
    folders = [Path(folder) for folder in os.get_exec_path()]
    places = [Path(sys.executable), *(folder / name for folder in folders)]
    for folder in folders:
        if folder.name == "shims":
            places += sorted(folder.parent.glob(f"versions/{version}.*/bin/{name}"), reverse=True)
    return [place for place in places if place.exists()]


@functools.cache
def interpreter(version: str) -> str | None:
    """An interpreter of this version that came with the tests of its standard library."""
    for place in candidates(version):
        probe = subprocess.run([place, "-c", PROBE], capture_output=True, text=True, check=False)
        if probe.returncode == 0:
            executable, found = json.loads(probe.stdout)
            if ".".join(map(str, found)) == version:
                return str(executable)
    return None


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


HERE = {version: place for version in VERSIONS if (place := interpreter(version)) is not None}
