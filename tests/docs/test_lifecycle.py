"""docs/lifecycle.md says what decide() does."""

from __future__ import annotations

import re
import subprocess
import sys

import attrs

from tests.support.markdown import ROOT
from turnout.core.record import JobRecord

DOCUMENT = ROOT / "docs" / "lifecycle.md"


def test_the_diagram_is_fresh() -> None:
    """The generated block is what `python docs/generate_lifecycle.py` makes of today's decide()."""
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate_lifecycle.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, "run: python docs/generate_lifecycle.py"


def test_every_rule_is_told() -> None:
    """P1 to P15 each have a heading of their own, in order."""
    assert re.findall(r"^### (P\d+)", DOCUMENT.read_text(), re.M) == [f"P{n}" for n in range(1, 16)]


def test_every_field_has_a_writer() -> None:
    """The table of who writes what has each field of a job's record once."""
    _, _, table = DOCUMENT.read_text().partition("## Who writes which field")
    named = [name for cell in re.findall(r"^\| (`[^|]+`) \|", table, re.M) for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(field.name for field in attrs.fields(JobRecord))
