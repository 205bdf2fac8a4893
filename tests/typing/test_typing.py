"""The types that a user's program gets, judged by both type checkers in their strictest mode."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / ".cache" / "mypy"
"""What mypy knows of turnout and of what that imports, from one run of the tests to the next, as `make lint` has it."""
CORRECT = "user_program.py"
MISTAKEN = ["mistakes.py", "changed_values.py"]
WRONG = "# wrong"
Errors = dict[str, dict[int, str]]
"""By file and line."""


def mypy(paths: list[Path], _folder: Path) -> Errors:
    """The errors of `mypy --strict`."""
    options = ["--strict", "--config-file=", f"--cache-dir={KEPT}", "--python-executable", sys.executable]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--output=json", *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: Errors = defaultdict(dict)
    for item in (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")):
        if item["severity"] == "error":
            found[Path(item["file"]).name][item["line"]] = item["message"]
    return found


def pyright(paths: list[Path], folder: Path) -> Errors:
    """The errors of pyright in strict mode."""
    for path in paths:
        (folder / path.name).write_text(path.read_text())  # It reads only what lies below its configuration.
    project = folder / "pyrightconfig.json"
    project.write_text(json.dumps({"typeCheckingMode": "strict", "include": [path.name for path in paths]}))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(project)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["summary"]["filesAnalyzed"] == len(paths), done.stdout
    found: Errors = defaultdict(dict)
    for item in told["generalDiagnostics"]:
        if item["severity"] == "error":
            found[Path(item["file"]).name][item["range"]["start"]["line"] + 1] = item["message"]
    return found


@pytest.fixture(
    scope="module",
    params=[pytest.param(mypy, id="mypy", marks=pytest.mark.breadth), pytest.param(pyright, id="pyright")],
)
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Errors:
    """What a checker says of all files in one run: most of its time goes into turnout itself."""
    paths = [HERE / name for name in (CORRECT, *MISTAKEN)]
    found: Errors = request.param(paths, tmp_path_factory.mktemp("checked"))
    assert found.keys() <= {CORRECT, *MISTAKEN}, found
    return found


def test_a_correct_program_is_accepted(errors: Errors) -> None:
    """A program that uses the API as documented, without casts and ignores, has no error in strict mode."""
    assert errors[CORRECT] == {}


@pytest.mark.parametrize("name", MISTAKEN)
def test_mistakes_are_found(errors: Errors, name: str) -> None:
    """Wrong arguments, options and result types are errors, each on its own line, and nothing else is."""
    lines = (HERE / name).read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, start=1) if line.endswith(WRONG)}
    assert set(errors[name]) == wrong, errors[name]
