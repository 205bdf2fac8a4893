"""Programs in Go, of others or around their packages: each built from a module of ours that pins its version, once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "bin"
BUILD_TIMEOUT_S = 1200


def need_go(what: str) -> None:
    """It takes Go to build them: without, these tests are left out, but never in CI."""
    if shutil.which("go") is None:
        message = f"GO IS MISSING: the tests with a real {what} need it to build the program"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


def build(module: Path, package: str, name: str) -> Path:
    """The program of the version that the module's go.mod pins. RuntimeError with the compiler's words if Go cannot."""
    pins = b"".join(file.read_bytes() for file in sorted(module.glob("*.*")) if file.suffix in (".go", ".mod", ".sum"))
    program = CACHE / f"{name}-{hashlib.sha256(pins).hexdigest()[:12]}"
    if program.exists():
        return program
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    # Without symbols, which nobody debugs here, the link is quicker and the program a third smaller.
    done = subprocess.run(
        ["go", "build", "-mod=readonly", "-buildvcs=false", "-ldflags=-s -w", "-o", str(unfinished), package],
        check=False,
        cwd=module,
        env=os.environ | {"CGO_ENABLED": "0"},  # no C compiler needed
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise RuntimeError(f"go cannot build {package}:\n{done.stderr[-3000:]}")
    unfinished.rename(program)
    return program
