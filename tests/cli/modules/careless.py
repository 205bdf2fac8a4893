"""Workflows that do what workflow code must not, each in its own way; line numbers count."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from datetime import datetime as moment
from pathlib import Path
from threading import Thread
from time import time as seconds

from turnout import activity, current_workflow, workflow


@activity
async def allowed() -> float:
    return time.time() + random.random()  # an activity may


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
    await asyncio.to_thread(print)
    helper()


@workflow
class Careless:
    def __init__(self) -> None:
        self.began = moment.now()  # noqa: DTZ005

    @workflow.run
    async def run(self) -> None:
        self.inside()

    @workflow.signal
    def ring(self) -> None:
        import secrets

        secrets.token_hex()

    def inside(self) -> int:
        return hash("a")


@workflow
async def careful() -> float:
    wf = current_workflow()
    wf.now()
    wf.random.random()
    random.Random(7).random()
    for _ in sorted({"a", "b"}):
        await asyncio.sleep(1)
    began = time.time()  # turnout: ok
    return await allowed() + began
