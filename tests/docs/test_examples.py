"""The Python in the documents runs, against a real server.

The Python blocks of a document are one session, in order, like one typed into `python -m asyncio`. Three kinds are not
typed but kept in files: a block that begins with a comment `# name.py` becomes that module, which later blocks import;
one that calls `asyncio.run()` is run as a program; those with tests in them are run by pytest, together at the end.
"""

from __future__ import annotations

import ast
import asyncio
import codeop
import contextlib
import inspect
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.markdown import ROOT, Block, blocks, documents, name_of
from turnout import Client, Worker
from turnout.testing import NatsServer

PROGRAM_TIMEOUT_S = 200

with_python = [document for document in documents() if blocks(document, "python")]


@pytest.fixture
def server() -> Iterator[NatsServer]:
    """A server per document: examples use the default namespace and fixed ids."""
    with NatsServer() as server:
        yield server


@pytest.mark.parametrize("document", with_python, ids=name_of)
async def test_python_blocks_run(
    document: Path, server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document's Python blocks, run in order as a reader would, raise nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    session = types.ModuleType("a_reader")
    monkeypatch.setitem(sys.modules, session.__name__, session)
    before = set(sys.modules)
    try:
        for block in blocks(document, "python"):
            text = with_address(block.text, server.url)
            named = re.match(r"# (\w+\.py)\n", text)
            if named is not None:
                (tmp_path / named[1]).write_text(text)
            if re.search(r"^\s*(async )?def test_\w+\(", text, re.M):
                (tmp_path / f"test_of_line_{block.line}.py").write_text(text)
            elif "asyncio.run(" in text:
                await run_program([sys.executable, "-c", text], f"{name_of(document)}:{block.line}")
            elif named is None:
                await run_typed(block, text, document, session)
        await run_tests(tmp_path, name_of(document))
    finally:
        await close_all(session)
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
                del sys.modules[name]


def test_the_readme_can_be_pasted() -> None:
    """A console takes the README's session line by line, where a blank line ends what is indented."""
    session = [
        block
        for block in blocks(ROOT / "README.md", "python")
        if not re.search(r"^# \w+\.py\n|asyncio\.run\(", block.text)
    ]
    assert len(session) > 3
    for block in session:
        compiler = codeop.CommandCompiler()
        compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        typed: list[str] = []
        for line in [*block.text.splitlines(), ""]:
            typed.append(line)
            if compiler("\n".join(typed), f"README.md:{block.line}", "single") is not None:
                typed.clear()
        assert not "".join(typed).strip()


def with_address(text: str, url: str) -> str:
    return text.replace("Client.connect()", f'Client.connect("{url}")').replace("nats://127.0.0.1:4222", url)


async def run_typed(block: Block, text: str, document: Path, session: types.ModuleType) -> None:
    code = compile(
        "\n" * (block.line - 1) + text,
        name_of(document),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    async with asyncio.timeout(PROGRAM_TIMEOUT_S):
        result = types.FunctionType(code, session.__dict__)()
        if inspect.isawaitable(result):
            await result


async def run_tests(folder: Path, where: str) -> None:
    files = sorted(map(str, folder.glob("test_of_line_*.py")))
    if files:
        options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--rootdir", str(folder)]
        await run_program([sys.executable, "-m", "pytest", *options, *files], where)


async def run_program(command: list[str], where: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}"


async def close_all(session: types.ModuleType) -> None:
    """What a reader leaves open when he closes the terminal."""
    values: list[Any] = list(vars(session).values())
    for worker in values:
        if isinstance(worker, Worker):
            await worker.stop(grace=0)
    for client in values:
        if isinstance(client, Client):
            with contextlib.suppress(ConnectionError):
                await client.close()
