"""Workflows for the crash tests, whose steps leave lines in files."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from turnout import Fatal, JobFaulted, WorkflowCancelled, activity, current_job, current_workflow, workflow

KEPT_S = 25.0
"""How long a workflow of `five_steps` is kept after its end: shorter than the wait for what is left of it."""


@activity(lease=2)
async def note(path: str, line: str) -> str:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")
    return line


@activity(lease=2)
async def linger() -> None:
    await asyncio.sleep(600)


@activity(lease=2)
async def refuse() -> None:
    raise Fatal("as it should")


@workflow
async def ear() -> str:
    """Hears one word."""
    heard: str = await current_workflow().receive("say", str)
    return heard


@workflow
async def everything(path: str, run: int = 1) -> int:
    """Asks for everything that a workflow can ask for, in two runs."""
    if run == 1:
        await first_run(path)
    await note(path, "second run")
    return run


async def first_run(path: str) -> None:
    wf = current_workflow()
    await note(path, "first run")
    async with asyncio.timeout(600):
        await note(path, "in time")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await linger()
    with contextlib.suppress(JobFaulted):
        await refuse()
    listening = await wf.start_child(ear.options(id=f"{wf.id}-ear"))
    await listening.signal("say", "hello")
    await note(path, await listening.result())
    await wf.start_child(ear.options(id=f"{wf.id}-deaf"))
    await wf.workflow(f"{wf.id}-deaf").cancel("enough")
    with contextlib.suppress(WorkflowCancelled):
        await wf.workflow(f"{wf.id}-deaf").result()
    await wf.start_child(ear.options(id=f"{wf.id}-left"))
    pending = asyncio.create_task(asyncio.sleep(600))
    await note(path, f"pending {not pending.done()}")
    wf.continue_as_new(path, run=2)


@activity(lease=2, max_lost=50)
async def step(path: str, number: int, which: int) -> int:
    """Leaves a line when it is done; returns what the sum of a workflow is made of."""
    await asyncio.sleep(0.2)
    with Path(path).open("a") as file:
        file.write(f"{number} {which}\n")
    return 10 * number + which


@workflow(retention=KEPT_S)
async def five_steps(path: str, number: int) -> int:
    """Five steps, two of them at once, with a pause between."""
    total = 0
    for which in range(3):
        total += await step(path, number, which)
    await asyncio.sleep(0.3)
    return total + sum(await asyncio.gather(step(path, number, 3), step(path, number, 4)))


@workflow
async def long_one(path: str, number: int, rounds: int) -> int:
    """Step after step, with a pause after each."""
    total = 0
    for which in range(rounds):
        total += await step(path, number, which)
        await asyncio.sleep(1.0)
    return total


@activity(lease=2)
async def stand(gate: str, path: str, line: str) -> int:
    """Waits until a file is there, then leaves its line; returns the attempt that did."""
    while not Path(gate).exists():
        await asyncio.sleep(0.05)
    await note.fn(path, line)
    return current_job().attempt


@workflow
async def outlasts(gate: str, path: str, seconds: float) -> tuple[str, int, float]:
    """Waits for a word, an activity and a timer at once; how long it slept by its own clock."""
    wf = current_workflow()

    async def sleeps() -> float:
        began = wf.now()
        await asyncio.sleep(seconds)
        return (wf.now() - began).total_seconds()

    async with asyncio.TaskGroup() as group:
        asleep = group.create_task(sleeps())
        stands = group.create_task(stand(gate, path, wf.id))
        heard = await wf.receive("say", str)
    return heard, await stands, await asleep


@workflow
async def due_later(seconds: float) -> float:
    """How long it slept by its own clock."""
    wf = current_workflow()
    began = wf.now()
    await asyncio.sleep(seconds)
    return (wf.now() - began).total_seconds()


@workflow
class Box:
    """Keeps what it is given, each by an activity."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.kept: list[str] = []

    @workflow.run
    async def run(self, path: str) -> list[str]:
        wf = current_workflow()
        await wf.wait_for(lambda: len(self.kept) == 2)
        await wf.wait_for(wf.all_handlers_finished)
        return self.kept

    @workflow.update
    async def keep(self, line: str) -> int:
        self.kept.append(await note(self.path, line))
        return len(self.kept)

    @workflow.query
    def content(self) -> list[str]:
        return self.kept


@activity
async def note_and_stay(path: str) -> None:
    await note.fn(path, "stays")
    if len(Path(path).read_text().splitlines()) < 3:
        await asyncio.sleep(600)


@workflow
async def local_steps(path: str) -> str:
    """One local activity that ends, and one whose process does not live to see its end."""
    first = await note.options(local=True)(path, "first")
    await note_and_stay.options(local=True)(path)
    return first


LINES = {"first run", "in time", "hello", "pending True", "second run"}
ACTIVITIES = (note, linger, refuse, step, stand, note_and_stay)
EVERY = (everything, ear, five_steps, long_one, outlasts, due_later, Box, local_steps)
