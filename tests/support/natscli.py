"""The real `nats` program: built from tests/interop/natscli."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support import gobuild

MODULE = gobuild.ROOT / "tests" / "interop" / "natscli"
PACKAGE = "github.com/nats-io/natscli/nats"

NatsCli = Callable[..., "subprocess.CompletedProcess[str]"]
"""nats_cli(url, "pub", subject, body, stdin=None)"""


def build() -> Path:
    """The program of the version that go.mod pins."""
    return gobuild.build(MODULE, PACKAGE, "nats")
