"""The real `nats` program, for tests of what people type without turnout; and time to build such programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.gobuild import BUILD_TIMEOUT_S, need_go
from tests.support.natscli import NatsCli, build

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test to need it waits for the build."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_S + 120))


@pytest.fixture(scope="session")
def nats_program() -> Path:
    need_go("`nats`")
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
