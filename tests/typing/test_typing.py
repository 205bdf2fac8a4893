"""The types that a user's program gets, judged by both type checkers in their strictest mode."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WRONG = "# wrong"


def mypy(path: Path, cache: Path) -> dict[int, str]:
    """The errors of `mypy --strict`, by line."""
    options = ["--strict", "--config-file=", f"--cache-dir={cache}", "--python-executable", sys.executable]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--output=json", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {item["line"]: item["message"] for item in found if item["severity"] == "error"}


def pyright(path: Path, cache: Path) -> dict[int, str]:
    """The errors of pyright in strict mode, by line."""
    (cache / path.name).write_text(path.read_text())  # It reads only what lies below its configuration.
    project = cache / "pyrightconfig.json"
    project.write_text(json.dumps({"typeCheckingMode": "strict", "include": [path.name]}))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(project)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == 1, done.stdout
    errors = (item for item in found["generalDiagnostics"] if item["severity"] == "error")
    return {item["range"]["start"]["line"] + 1: item["message"] for item in errors}


checkers = pytest.mark.parametrize("check", [mypy, pyright])


@checkers
def test_a_correct_program_is_accepted(check: Callable[[Path, Path], dict[int, str]], tmp_path: Path) -> None:
    """A program that uses the API as documented, without casts and ignores, has no error in strict mode."""
    assert check(HERE / "user_program.py", tmp_path) == {}


@checkers
@pytest.mark.parametrize("name", ["mistakes.py", "changed_values.py"])
def test_mistakes_are_found(check: Callable[[Path, Path], dict[int, str]], name: str, tmp_path: Path) -> None:
    """Wrong arguments, options and result types are errors, each on its own line, and nothing else is."""
    lines = (HERE / name).read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, start=1) if line.endswith(WRONG)}
    assert set(found := check(HERE / name, tmp_path)) == wrong, found
