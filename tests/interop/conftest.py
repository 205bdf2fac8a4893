"""The real `nats` program, for tests of what people type without turnout."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "bin"
PACKAGE = "github.com/nats-io/natscli/nats"
BUILD_TIMEOUT_S = 1200

NatsCli = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test to need it waits for the build."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_S + 120))


def build() -> Path:
    """The program of the version that natscli/go.mod pins, built once per version into .cache/bin."""
    pins = b"".join((HERE / "natscli" / name).read_bytes() for name in ("go.mod", "go.sum"))
    program = CACHE / f"nats-{hashlib.sha256(pins).hexdigest()[:12]}"
    if program.exists():
        return program
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        ["go", "build", "-mod=readonly", "-buildvcs=false", "-o", str(unfinished), PACKAGE],
        check=False,
        cwd=HERE / "natscli",
        env=os.environ | {"CGO_ENABLED": "0"},  # no C compiler needed
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
    )
    if done.returncode != 0:
        pytest.fail(f"go cannot build {PACKAGE}:\n{done.stderr[-3000:]}", pytrace=False)
    unfinished.rename(program)
    return program


@pytest.fixture(scope="session")
def nats_program() -> Path:
    """The real `nats`. It takes Go to build it: without, these tests are left out, but never in CI."""
    if shutil.which("go") is None:
        message = "GO IS MISSING: the tests with the real `nats` program need it to build tests/interop/natscli"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return build()


@pytest.fixture
def nats_cli(nats_program: Path, tmp_path: Path) -> NatsCli:
    """Runs `nats --server URL ARGUMENTS...` in a home of its own; `nats_cli(url, "pub", subject, body)`."""

    def run(url: str, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        home = {name: str(tmp_path) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
        # Its own empty home keeps a developer's contexts and NATS_ variables out.
        return subprocess.run(
            [nats_program, "--server", url, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env={"PATH": os.environ["PATH"], **home},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    return run
