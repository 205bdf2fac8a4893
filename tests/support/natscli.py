"""The real `nats` program: built from tests/interop/natscli, once per version."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "tests" / "interop" / "natscli"
CACHE = ROOT / ".cache" / "bin"
PACKAGE = "github.com/nats-io/natscli/nats"
BUILD_TIMEOUT_S = 1200

NatsCli = Callable[..., "subprocess.CompletedProcess[str]"]
"""nats_cli(url, "pub", subject, body, stdin=None)"""


def build() -> Path:
    """The program of the version that go.mod pins. RuntimeError with the compiler's words when Go cannot build it."""
    pins = b"".join((MODULE / name).read_bytes() for name in ("go.mod", "go.sum"))
    program = CACHE / f"nats-{hashlib.sha256(pins).hexdigest()[:12]}"
    if program.exists():
        return program
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        ["go", "build", "-mod=readonly", "-buildvcs=false", "-o", str(unfinished), PACKAGE],
        check=False,
        cwd=MODULE,
        env=os.environ | {"CGO_ENABLED": "0"},  # no C compiler needed
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise RuntimeError(f"go cannot build {PACKAGE}:\n{done.stderr[-3000:]}")
    unfinished.rename(program)
    return program
