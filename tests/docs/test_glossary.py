"""One word for one thing: what the glossary refuses is found neither in the code nor in what users read.

A word in backticks in the glossary's last column is refused wherever it stands alone, and `x` (in names) as a part of
names alone, for it is good English too. Without backticks the column only tells two things apart.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.markdown import ROOT, documents, name_of

GLOSSARY = ROOT / "docs" / "glossary.md"
MODULES = sorted((ROOT / "src").rglob("*.py"))
READ_BY_USERS = [path for path in documents() if path != GLOSSARY and path.parent.name != "adr"]
ALLOWED = {"letter": re.compile(r"(?<![a-z])dead[_\s#-]*$", re.I)}
"""What a refused word may follow."""

_ROW = re.compile(r"^\| \*\*.+\| (?P<refused>[^|]*) \|$", re.M)
_TEST = re.compile(r"\[test_\w+(\[[\w ]+\])?\]\(\S+\)")
_WORD = re.compile(r"`([^`]+)`( \(in names\))?")


@functools.cache
def refused(*, in_names: bool) -> re.Pattern[str]:
    """What is refused in prose, or in names. A word stands for its plural as well."""
    words = [match for row in _ROW.finditer(GLOSSARY.read_text()) for match in _WORD.finditer(row["refused"])]
    chosen = {match[1] for match in words if in_names or match[2] is None}
    one_of = "|".join(re.escape(word).replace(r"\ ", r"[ _\n]+(?:\S+[ _\n]+)?") for word in sorted(chosen))
    return re.compile(rf"(?<![A-Za-z])(?:{one_of})s?(?![A-Za-z])", re.I)


def wrong_in(text: str, *, in_names: bool = False) -> Iterator[str]:
    for found in refused(in_names=in_names).finditer(text):
        allowed = ALLOWED.get(found[0].lower().rstrip("s"))
        if allowed is None or not allowed.search(text, max(found.start() - 30, 0), found.start()):
            yield found[0]


def names(tree: ast.AST) -> Iterator[str]:
    """The names that a module gives to something."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.arg():
                yield node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case _:
                pass


def as_words(name: str) -> str:
    """`DeadLetter` and `DEAD_LETTER` as `dead_letter`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_the_code_uses_the_words_of_the_glossary(path: Path) -> None:
    """No name, docstring, comment or text of a module has a word that the glossary refuses."""
    text = path.read_text()
    wrong = {name for name in names(ast.parse(text)) if any(wrong_in(as_words(name), in_names=True))}
    assert not wrong | set(wrong_in(text))


@pytest.mark.parametrize("document", READ_BY_USERS, ids=name_of)
def test_the_documents_use_the_words_of_the_glossary(document: Path) -> None:
    """No document says what the glossary refuses; a decision keeps the words of its day, and a test its name."""
    assert not set(wrong_in(_TEST.sub("", document.read_text())))


def test_a_refused_word_is_found() -> None:
    """Whole words are found, in every form of a name, and no others."""
    assert len(_WORD.findall(GLOSSARY.read_text())) > 15
    assert list(wrong_in("its letter, a dead letter, DeadLetter, dead_letters and newsletters")) == ["letter"]
    assert list(wrong_in("jobs that were put back in anew, and put anew")) == ["put back in anew", "put anew"]
    assert list(wrong_in("told")) == []
    assert [list(wrong_in(as_words(name), in_names=True)) for name in ("ToldOnce", "_told", "untolded")] == [
        ["told"],
        ["told"],
        [],
    ]
