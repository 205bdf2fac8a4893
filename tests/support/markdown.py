"""The project's documents, cut into what tests check: their code blocks and their links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


@attrs.frozen
class Block:
    """A fenced block; `line` is the document's line on which its text begins."""

    language: str
    text: str
    line: int


@attrs.frozen
class Link:
    """`target` as written: a path relative to the document, or an address."""

    text: str
    target: str


def documents() -> list[Path]:
    """Every Markdown document of the project."""
    places = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for folder in ("deploy", "examples", "bench"):
        places += (ROOT / folder).rglob("*.md")
    return sorted(places)


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(document: Path, *languages: str) -> list[Block]:
    """The document's fenced blocks in these languages, in order."""
    text = document.read_text()
    found = [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in _FENCE.finditer(text)]
    return [block for block in found if block.language in languages]


def links(document: Path) -> Iterator[Link]:
    """The document's links, those in code blocks left out."""
    prose = _FENCE.sub("", document.read_text())
    return (Link(m[1], m[2]) for m in _LINK.finditer(prose))


def heading_anchors(document: Path) -> set[str]:
    """What a `#fragment` may name in the document, as Markdown renderers spell it."""
    prose = _FENCE.sub("", document.read_text())
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
