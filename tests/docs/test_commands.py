"""The `turnout` commands in the documents have verbs and options that there are; nothing is run."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.support.command_lines import check_options
from tests.support.markdown import ROOT, Block, blocks, documents, name_of
from turnout.cli.main import root

with_shell = [document for document in documents() if blocks(document, "sh", "bash", "console")]


def commands(block: Block) -> Iterator[list[str]]:
    """The command lines of a block as words, each up to its first pipe or redirection."""
    for line in block.text.replace("\\\n", " ").splitlines():
        line = line.removeprefix("$ ")
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        while words and re.fullmatch(r"\w+=.*", words[0]):
            words = words[1:]
        end = next(
            (n for n, word in enumerate(words) if word in ("|", ">", ">>", "<", "&&", "||", "&", ";")), len(words)
        )
        if words:
            yield words[:end]


@pytest.mark.parametrize("document", with_shell, ids=name_of)
def test_turnout_commands_are_possible(document: Path) -> None:
    """Every `turnout ...` line has verbs and options that there are, every `make ...` a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for block in blocks(document, "sh", "bash", "console"):
        for words in commands(block):
            if words[0] == "turnout":
                with contextlib.suppress(click.exceptions.Exit):  # --help, --version
                    check_options(words[1:])
            elif words[0] == "make":
                assert set(words[1:]) <= targets


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_commands_in_the_text_exist(document: Path) -> None:
    """What is named within a sentence, such as `turnout job ls --state`, has verbs and options that there are."""
    text = re.sub(r"^ *```.*?^ *```", "", document.read_text(), flags=re.M | re.S)
    for words in (line.split() for line in re.findall(r"`turnout\s([^`]+)`", text)):
        command: click.Command = root
        context = click.Context(root, info_name="turnout")
        while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0]):
            found = command.get_command(context, words[0])
            assert found is not None, f"{command.name} has no {words[0]}"
            command = found
            words = words[1:]
        known = {option for each in command.params for option in each.opts}
        named = {option for word in words for option in re.findall(r"^\[?(--[a-z-]+)", word)}
        assert named <= known or isinstance(command, click.Group), command.name
