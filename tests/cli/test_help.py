"""Help: quick, complete, and the same as the documentation."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli.conftest import Cli
from tests.cli.reference import MARK, PAGE, commands, reference
from turnout.cli.main import root

HEAVY = {"nats", "pydantic", "rich", "attrs", "attr", "cattrs", "opentelemetry", "asyncio", "uvloop", "orjson"}


@pytest.mark.parametrize(
    "line",
    ["--help", "job --help", "job submit --help", "worker --help", "--version"],
    ids=str,
)
def test_help_imports_nothing_heavy(line: str) -> None:
    """Help and version come up without the libraries that take long to import."""
    program = (
        "import sys, json\n"
        "from turnout.cli.main import run\n"
        f"code = run({line.split()!r})\n"
        "print(json.dumps([code, sorted({name.partition('.')[0] for name in sys.modules})]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stderr)
    assert code == 0
    assert "turnout" in done.stdout
    assert not HEAVY & set(modules)


def test_the_exit_codes_are_in_the_help(cli: Cli) -> None:
    """`turnout --help` lists every verb and every exit code."""
    text = cli("--help", cold=True).stdout
    for word in ("Exit codes:", "3    the job or workflow was", "4    no such job", "5    the job or", "doctor"):
        assert word in text


def test_every_verb_says_what_it_does() -> None:
    """Every command and every option has a help text, and short ones fit their list."""
    for path, context in commands(root):
        assert context.command.help, path
        assert len(context.command.get_short_help_str(200)) <= 72, path
        options = [each for each in context.command.params if each.param_type_name == "option"]
        assert all(getattr(each, "help", None) for each in options), path


def test_the_documentation_is_the_help() -> None:
    """docs/cli.md holds the help of every command, word for word (`python -m tests.cli.reference` renews it)."""
    text = PAGE.read_text()
    assert MARK in text
    assert MARK + text.partition(MARK)[2] == reference()


def test_the_common_options_go_anywhere() -> None:
    """Every verb takes the options of the connection and the output."""
    for path, context in commands(root):
        names = {name for option in context.command.params for name in option.opts}
        assert {"--output", "--server", "--namespace", "--context", "--creds", "--log-level"} <= names, path


@pytest.mark.parametrize("line", ["nonsense", "job nonsense", "job ls --nonsense", "job show"])
def test_wrong_usage_is_2(cli: Cli, line: str) -> None:
    """What does not exist or is left out is a usage error, told on stderr."""
    assert "Usage: turnout" in cli.error(*line.split(), code=2)
