"""The habits of this code that no linter knows, as tests. The numbers are limits, not aims."""

from __future__ import annotations

import ast
import functools
import gc
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "turnout"
MODULE_CODE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
MAKE_TARGETS_MAX = 8
PATIENCE_MIN_S = 30.0
MEANT_TO_END_S = 1.0

MODULES = sorted(SOURCE.rglob("*.py"))

PARTS_OF_AN_INSTANCE = {
    f"turnout.worker.workflows.{name}" for name in ("instance", "calls", "context", "reading", "updates")
}
"""The one ring: a workflow's instance has parts that act on it, and each would else name all that it acts on."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The module as a tree, without the collector, which would walk all trees that there are again and again."""
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()


@functools.cache
def walked(path: Path) -> list[ast.AST]:
    """Every node of a module."""
    return list(ast.walk(parsed(path)))


def documented_lines(nodes: Iterable[ast.AST]) -> set[int]:
    """The lines that the docstrings of these nodes take up."""
    strings = (
        node.body[0].value
        for node in nodes
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None
        if isinstance(node.body[0], ast.Expr)
    )
    return {line for string in strings for line in range(string.lineno, (string.end_lineno or string.lineno) + 1)}


def functions(path: Path) -> Iterator[Function]:
    return (node for node in walked(path) if isinstance(node, FUNCTIONS))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_a_module_can_be_read_in_one_sitting() -> None:
    """No module has more than 400 lines of code; comments, docstrings and blank lines are free."""
    long = {}
    for path in MODULES:
        free = documented_lines(walked(path))
        code = sum(
            1
            for number, line in enumerate(path.read_text().splitlines(), start=1)
            if line.strip() and not line.lstrip().startswith("#") and number not in free
        )
        if code > MODULE_CODE_LINES_MAX:
            long[named(path)] = code
    assert not long


def test_a_function_fits_a_screen() -> None:
    """No function has more than 60 lines besides its docstring."""
    long = {
        f"{named(path)}: {function.name}": lines
        for path in MODULES
        for function in functions(path)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
        if (lines := lines - len(documented_lines(ast.walk(function)))) > FUNCTION_LINES_MAX
    }
    assert not long


def test_types_are_not_talked_around() -> None:
    """No module switches the type checker off; where our own names are imported for types alone, its line says why.

    The package root does so that `import turnout` is quick, and needs not repeat it.
    """
    switched_off = [
        named(path) for path in MODULES if re.search(r"#\s*(type|pyright|mypy):\s*ignore", path.read_text())
    ]
    assert not switched_off
    unexplained = []
    for path in MODULES:
        lines = path.read_text().splitlines()
        for node in walked(path):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                ours = any(name.split(".")[0] == "turnout" for inner in node.body for name in imported(inner))
                if ours and "  # " not in lines[node.lineno - 1] and path != SOURCE / "__init__.py":
                    unexplained.append(f"{named(path)}:{node.lineno}")
    assert not unexplained


def test_whoever_catches_everything_says_why() -> None:
    """A broad `except` stands only where there is a reason, and the reason stands on its line."""
    unexplained = []
    for path in MODULES:
        lines = path.read_text().splitlines()
        for node in walked(path):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type is not None else "BaseException"
                reraised = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
                if caught in ("Exception", "BaseException") and not reraised and "  # " not in lines[node.lineno - 1]:
                    unexplained.append(f"{named(path)}:{node.lineno}")
    assert not unexplained


def test_imports_point_downwards() -> None:
    """The import contracts of pyproject.toml hold."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


SPOKEN = re.compile(r"^(STREAM|CONSUMER)[.]|^[$](KV|JS)[.]|^Nats-|^[+](ACK|WPI|TERM)|^-NAK")
"""What only a client of JetStream says: API verbs, the subjects of buckets and acks, headers, settlements."""

SPEAK_IT = {"nats", "testing"}
MAY_NAME = {("wire", "messages.py"): "what a message says of its job, also one that anybody has published"}


def test_jetstream_is_spelt_in_nats_alone() -> None:
    """No API verb, header or settlement of JetStream stands anywhere else; docstrings may speak of them."""
    spelt = []
    for path in MODULES:
        place = path.relative_to(SOURCE).parts
        if place[0] in SPEAK_IT or place in MAY_NAME:
            continue
        docstrings = {id(node.value) for node in walked(path) if isinstance(node, ast.Expr)}
        spelt += [
            f"{named(path)}:{node.lineno}: {node.value!r}"
            for node in walked(path)
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
    graph = {module: set(used(walked(path))) & files.keys() for module, path in files.items()}
    for module in PARTS_OF_AN_INSTANCE & graph.keys():
        graph[module] -= PARTS_OF_AN_INSTANCE
    graphlib.TopologicalSorter(graph).prepare()


def used(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The modules that are imported, and the names from them, which may be modules as well."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def proofs_in(scope: ast.Module | ast.ClassDef) -> Iterator[Function]:
    """The tests of a module: they stand at its top, or in a class."""
    for node in scope.body:
        if isinstance(node, FUNCTIONS) and node.name.startswith("test_"):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from proofs_in(node)


def test_every_test_says_what_it_proves() -> None:
    """A test's docstring is the property that it proves."""
    silent = [
        f"{named(path)}: {function.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for function in proofs_in(ast.parse(path.read_text()))
        if not ast.get_docstring(function, clean=False)
    ]
    assert not silent


def test_no_test_loses_patience_on_a_slow_machine() -> None:
    """Who waits for a result waits half a minute at least, which costs only who fails; or expects none, within 1 s."""
    hasty = [
        f"{named(path)}: {found[0]}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for found in re.finditer(r"\.results?\(timeout=([\d.]+)\)", path.read_text())
        if MEANT_TO_END_S < float(found[1]) < PATIENCE_MIN_S
    ]
    assert not hasty


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
