"""A compose file as docker compose itself reads it: by its loader, built from tests/interop/compose."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import gobuild

MODULE = gobuild.ROOT / "tests" / "interop" / "compose"


def load(file: Path, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The project: variables, anchors and paths resolved. RuntimeError says what compose would not accept."""
    program = gobuild.build(MODULE, ".", "compose")
    done = subprocess.run(
        [program, str(file)],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **(environment or {})},
        timeout=60,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{file.name} is no compose file: {done.stderr}")
    project: dict[str, Any] = json.loads(done.stdout)
    return project
