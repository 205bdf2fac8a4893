"""docs/architecture.md lists the files that there are."""

from __future__ import annotations

import re

from tests.support.markdown import ROOT

SOURCE = ROOT / "src" / "turnout"
DOCUMENT = ROOT / "docs" / "architecture.md"
ROW = re.compile(r"^\| \[`([\w/]+\.py)`\]\(\.\./src/turnout/([\w/]+\.py)\) \| (.+) \|$", re.M)


def test_every_file_is_listed_with_a_sentence() -> None:
    """The list has each module of the package once, empty `__init__.py` aside, and nothing that is gone."""
    listed = [name for name, _, _ in ROW.findall(DOCUMENT.read_text())]
    there = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if path.read_text().strip()}
    assert sorted(listed) == sorted(set(listed)), "a file is listed twice"
    assert set(listed) == there


def test_rows_link_to_what_they_name() -> None:
    """A row's name and its link are the same file, and it says something about it."""
    for name, target, sentence in ROW.findall(DOCUMENT.read_text()):
        assert name == target
        assert sentence.endswith("."), name
