"""The path of a job in docs/architecture.md is the one that a job takes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import turnout
from tests.support.markdown import ROOT
from turnout import Client, activity
from turnout.testing.fixtures import WorkerFactory

SOURCE = Path(turnout.__file__).parent
STOPS_MOST = 10
STOP = re.compile(r"^\d+\. \*\*(.+?)\*\*(.+?)(?=^\d+\. |\Z)", re.M | re.S)
FILE = re.compile(r"\]\(\.\./src/turnout/([\w/]+\.py)\)")
BESIDE = {"client/client.py", "client/away.py", "worker/loop_watch.py"}
"""The door that a submit comes in by, the look whether a server is there where an end is long in coming, and the watch
over the event loop: nothing happens to the job there."""


@activity
async def add(a: int, b: int) -> int:
    return a + b


def stops() -> list[list[str]]:
    """The files of each stop, the one to open first."""
    section = (ROOT / "docs" / "architecture.md").read_text().partition("\n## The path of a job\n")[2]
    return [FILE.findall(text) for _, text in STOP.findall(section.partition("\n## ")[0])]


@contextmanager
def traced() -> Iterator[list[str]]:
    """The files of turnout whose functions this thread calls, in order, one that follows itself once."""
    files: list[str] = []

    def notice(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(SOURCE):
            name = str(path.relative_to(SOURCE))
            if not files or files[-1] != name:
                files.append(name)

    sys.setprofile(notice)
    try:
        yield files
    finally:
        sys.setprofile(None)


def test_the_path_is_short() -> None:
    """A newcomer reads it in one sitting: at most ten stops, each with a file to open."""
    assert 0 < len(stops()) <= STOPS_MOST
    assert all(stops())


async def test_a_job_comes_by_these_stops(turnout_client: Client, turnout_worker: WorkerFactory) -> None:
    """A job that nothing happens to comes by all stops but the last, in order, and by no part of client or worker that
    no stop names."""
    *way, _ = stops()
    async with turnout_worker(add):
        await (await turnout_client.submit(add, 1, 2)).result(timeout=30)  # what happens once has happened
        with traced() as files:
            assert await (await turnout_client.submit(add, 1, 2)).result(timeout=30) == 3
    named = {file for stop in way for file in stop}
    assert named <= set(files)
    assert {file for file in files if file.startswith(("client/", "worker/"))} <= named | BESIDE
    rest = iter(files)
    for first, *_ in way:
        assert first in rest, f"{first} is not where its stop says"
