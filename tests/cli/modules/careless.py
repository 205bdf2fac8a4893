"""Workflows that do what workflow code must not, each in its own way; line numbers count."""

from __future__ import annotations

import asyncio
import glob
import os
import random
import sys
import time
import uuid
from asyncio import open_connection
from datetime import datetime as moment
from pathlib import Path
from threading import Thread
from time import time as seconds

from beside import home  # type: ignore[import-not-found]

from turnout import activity, current_workflow, workflow

SEEN: dict[str, int] = {}
COUNT = 0


@activity
async def allowed() -> float:
    return time.time() + random.random()  # an activity may


@activity
def plain(number: int = 1) -> int:
    return number


def helper() -> str:
    return os.environ["HOME"]


@workflow
async def careless(path: str) -> None:
    moment.now()  # noqa: DTZ005
    time.time()
    seconds()
    random.random()
    uuid.uuid4()
    os.environ.get("HOME")
    open(path)  # noqa: PTH123, SIM115
    Thread(target=print).start()
    for _ in {path, "b"}:
        pass
    names = set(path)
    ", ".join(names)
    Path(path).read_text()
    list(Path(path).glob("*"))
    await asyncio.to_thread(print)
    helper()
    home()


@workflow
async def forgetful(words: set[str], numbers: set[int]) -> list[str]:
    global COUNT  # noqa: PLW0603
    COUNT += 1
    SEEN[sys.argv[0]] = COUNT
    os.remove("a")  # noqa: PTH107
    os.path.exists(os.path.join("a", "b"))  # noqa: PTH110, PTH118
    glob.glob("*")  # noqa: PTH207
    await open_connection("localhost", 4222)
    for _ in words:
        pass
    for _ in numbers:  # these have the same order everywhere
        pass
    both = [*words.union(SEEN)]
    for _ in SEEN.keys() | {"a"}:
        pass
    return [words.pop(), *both]


@workflow
class Careless:
    def __init__(self) -> None:
        self.began = moment.now()  # noqa: DTZ005
        self.names: set[str] = set()

    @workflow.run
    async def run(self) -> None:
        self.inside()
        plain(2)
        plain.options(local=True)(3)
        await plain.execute(4)

    @workflow.signal
    def ring(self) -> None:
        import secrets

        secrets.token_hex()

    def inside(self) -> int:
        for _ in self.names:
            pass
        return hash("a")


@workflow
async def careful() -> float:
    wf = current_workflow()
    wf.now()
    wf.random.random()
    random.Random(7).random()
    for _ in sorted({"a", "b"}):
        await asyncio.sleep(1)
    words = {"a", "b"}
    total = sum(len(each) for each in words)
    assert sorted(each for each in words) == sorted({each[0] for each in words | {"c"}} - {"c"})
    assert any(each == "a" for each in words)
    assert total == len(words)
    numbers = {3, 1, 2}
    for _ in numbers:
        await asyncio.sleep(1)
    words.discard(os.path.join("a", "b"))  # noqa: PTH118
    began = time.time()  # turnout: ok
    return await allowed() + began
