"""What the documents point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.markdown import ROOT, documents, heading_anchors, links, name_of

each_document = pytest.mark.parametrize("document", documents(), ids=name_of)


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    """Every link inside the project names a file that exists, and a heading that it has."""
    broken = []
    for link in links(document):
        if "://" in link.target:
            continue
        path, _, anchor = link.target.partition("#")
        target = (document.parent / path).resolve() if path else document
        there = target.is_relative_to(ROOT) and target.exists()
        if not there or (anchor and target.suffix == ".md" and anchor not in heading_anchors(target)):
            broken.append(link.target)
    assert not broken


@each_document
def test_every_test_that_is_named_exists(document: Path) -> None:
    """A link to a test's file names the test, and the file has it; the name of a case is somewhere beside it."""
    wrong = []
    for link in links(document):
        named = re.findall(r"\btest_\w+\b(?!\.py)", link.text)
        target = (document.parent / link.target.partition("#")[0]).resolve()
        if not target.is_relative_to(ROOT / "tests") or target.suffix != ".py":
            continue
        defined = (
            set(re.findall(r"^\s*(?:async )?def (test_\w+)\(", target.read_text(), re.M)) if target.exists() else set()
        )
        wrong += [f"{name} is not in {link.target}" for name in named if name not in defined]
        beside = "".join(file.read_text() for file in target.parent.glob("*.py"))
        wrong += [
            f"no case {case} for {link.target}" for case in re.findall(r"\[(.+)\]", link.text) if case not in beside
        ]
        if not named and target.name.startswith("test_"):
            wrong.append(f"the link to {link.target} names no test")
    assert not wrong
