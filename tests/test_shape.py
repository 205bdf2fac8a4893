"""The habits of this code that no linter knows, as tests. The numbers are limits, not aims."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "turnout"
MODULE_CODE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
MAKE_TARGETS_MAX = 8

MODULES = sorted(SOURCE.rglob("*.py"))
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))

STILL_ROUND = ("turnout.flow", "turnout.worker.workflows")
"""Packages whose modules know each other."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def documented_lines(node: ast.AST) -> set[int]:
    """The lines that docstrings take up in `node` and all it contains."""
    strings = (
        inner.body[0].value
        for inner in ast.walk(node)
        if isinstance(inner, ast.Module | ast.ClassDef | Function) and ast.get_docstring(inner) is not None
        if isinstance(inner.body[0], ast.Expr)
    )
    return {line for string in strings for line in range(string.lineno, (string.end_lineno or string.lineno) + 1)}


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


@each_module
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    """No module has more than 400 lines of code; comments, docstrings and blank lines are free."""
    text = path.read_text()
    free = documented_lines(parsed(path))
    code = [
        line
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#") and number not in free
    ]
    assert len(code) <= MODULE_CODE_LINES_MAX


@each_module
def test_a_function_fits_a_screen(path: Path) -> None:
    """No function has more than 60 lines besides its docstring."""
    long = {
        function.name: lines
        for function in functions(parsed(path))
        if (lines := (function.end_lineno or 0) - function.lineno + 1 - len(documented_lines(function)))
        > FUNCTION_LINES_MAX
    }
    assert not long


@each_module
def test_types_are_not_talked_around(path: Path) -> None:
    """No module switches the type checker off; where our own names are imported for types alone, its line says why.

    The package root does so that `import turnout` is quick, and needs not repeat it.
    """
    text = path.read_text()
    assert not re.search(r"#\s*(type|pyright|mypy):\s*ignore", text)
    lines = text.splitlines()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            ours = any(name.split(".")[0] == "turnout" for inner in node.body for name in imported(inner))
            assert not ours or "  # " in lines[node.lineno - 1] or path == SOURCE / "__init__.py"


@each_module
def test_whoever_catches_everything_says_why(path: Path) -> None:
    """A broad `except` stands only where there is a reason, and the reason stands on its line."""
    text = path.read_text()
    lines = text.splitlines()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type is not None else "BaseException"
            reraised = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            broad = caught in ("Exception", "BaseException")
            assert not broad or reraised or "  # " in lines[node.lineno - 1], f"line {node.lineno}"


def test_imports_point_downwards() -> None:
    """The import contracts of pyproject.toml hold."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


SPOKEN = re.compile(r"^(STREAM|CONSUMER)[.]|^[$](KV|JS)[.]|^Nats-|^[+](ACK|WPI|TERM)|^-NAK")
"""What only a client of JetStream says: API verbs, the subjects of buckets and acks, headers, settlements."""

SPEAK_IT = {"nats", "testing"}
MAY_NAME = {("wire", "messages.py"): "what a message says of its job, also one that anybody has published"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_jetstream_is_spelt_in_nats_alone(path: Path) -> None:
    """No API verb, header or settlement of JetStream stands anywhere else; docstrings may speak of them."""
    place = path.relative_to(ROOT / "src" / "turnout").parts
    if place[0] in SPEAK_IT or place in MAY_NAME:
        return
    tree = parsed(path)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    spelt = [
        f"{path.name}:{node.lineno}: {node.value!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in docstrings
        if SPOKEN.search(node.value if isinstance(node.value, str) else node.value.decode("latin-1"))
    ]
    assert not spelt, "say it with turnout.nats.stream"


def test_workers_and_examples_use_what_users_use() -> None:
    """workers/ and examples/ import the package root (and turnout.testing for its server), nothing from inside."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("workers", "examples")
        for path in (ROOT / folder).rglob("*.py")
        for name in imported(parsed(path))
        if name.split(".")[0] == "turnout" and name not in {"turnout", "turnout.testing"}
    ]
    assert not wrong


@pytest.mark.parametrize("root", ["bench", "workers", "examples", "src/turnout"])
def test_imports_go_round_in_no_ring(root: str) -> None:
    """No module imports one that imports it, be it inside a function or by way of others."""
    folder = ROOT / root
    files = {".".join(path.relative_to(folder.parent).with_suffix("").parts): path for path in folder.rglob("*.py")}
    own = {module: path for module, path in files.items() if not module.startswith(STILL_ROUND)}
    graph = {module: set(used(parsed(path))) & own.keys() for module, path in own.items()}
    graphlib.TopologicalSorter(graph).prepare()


def used(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported, and the names from them, which may be modules as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    yield from imported(tree)


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_every_test_says_what_it_proves(path: Path) -> None:
    """A test's docstring is the property that it proves."""
    silent = [
        function.name
        for function in functions(parsed(path))
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert not silent


def test_make_help_fits_a_glance() -> None:
    """`make help` lists at most eight targets, and every target that is meant for people."""
    text = (ROOT / "Makefile").read_text()
    listed = set(re.findall(r"^([a-z]+):.*## ", text, re.M))
    phony = re.search(r"^\.PHONY: (.*)$", text, re.M)
    assert phony is not None
    assert listed == set(phony[1].split())
    assert len(listed) <= MAKE_TARGETS_MAX


# The hosts that a file may name: those of no one machine, and those that anybody can look up.
HOSTS = re.compile(
    r"localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\]|([\w-]+\.)*example(\.\w+)?|[\w-]+"
    r"|github\.com|docs\.nats\.io|(www\.)?w3\.org|(www\.)?apache\.org|opentelemetry\.io|json-schema\.org"
    r"|docs\.python\.org|peps\.python\.org|keepachangelog\.com|semver\.org|ffmpeg\.org"
)
HOST = re.compile(r"https?://(\[::1\]|[\w.-]*\w)")
HOME = re.compile(rf"/(?:home|Users)/\w+|/root\b|{re.escape(str(ROOT))}\b")
LEFTOVER = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|\b(?:TOD[O]|FIXM[E]|XX[X])\b")
SUFFIXES = {".py", ".md", ".toml", ".conf", ".yml", ".yaml", ".json", ".mod", ".sh", ".txt", ""}
PLACES = (".ci", "bench", "deploy", "docs", "examples", "src", "tests", "workers")


def texts() -> Iterator[Path]:
    files = [path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")]
    files += [path for place in PLACES for path in (ROOT / place).rglob("*") if path.is_file()]
    return (
        path
        for path in files
        if path != Path(__file__) and path.suffix in SUFFIXES and not {"__pycache__", "results"} & set(path.parts)
    )


def test_nothing_of_one_machine_is_in_a_file() -> None:
    """No file names a folder of the machine it was written on, an odd host, a key or a leftover note."""
    found = []
    for path in texts():
        text = path.read_text(errors="replace")
        odd = [f"host {host}" for host in HOST.findall(text) if not HOSTS.fullmatch(host)]
        odd += HOME.findall(text) + LEFTOVER.findall(text)
        found += [f"{path.relative_to(ROOT)}: {what}" for what in odd]
    assert not found
