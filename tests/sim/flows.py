"""The code that the simulation's workflows run: a step for each letter of a script."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from tests.sim import code
from tests.sim.invariants import LEASE_S
from turnout import JobFaulted, activity, current_workflow, workflow

LETTERS = "aFXgtTrswecojnlL"
"""An activity; one that fails once (F) or for good (X); three together (g); a short timer and a longer one (T); receive
a signal (r); see one handled (s); give up an activity (w), or a child (e), for a timeout; a child; an(o)ther workflow
that is signalled and awaited; one that two children join; continue as new; a quick
local activity, and one whose end has a record of its own (L)."""

RETENTION_S = 3600.0
"""Longer than a history: the histories of one are cleared away behind it."""

MAX_LOST = 10
"""More nodes than ever die over one activity."""

ACT: Any = code.activity_of(LEASE_S, MAX_LOST)


@activity
async def nap(seconds: float) -> None:
    """Runs locally, longer or shorter than a task waits for it."""
    await asyncio.sleep(seconds)


@workflow(name="flow", retention=RETENTION_S)
class Flow:
    """Does what the rest of its script says. `done` and `got` are what the runs before have done and been sent."""

    def __init__(self, script: str, done: list[str], got: list[int]) -> None:
        self.got = list(got)

    @workflow.signal
    async def add(self, number: int) -> None:
        self.got.append(number)

    @workflow.run
    async def run(self, script: str, done: list[str], got: list[int]) -> dict[str, Any]:
        done = list(done)
        try:
            for place, letter in enumerate(script):
                if letter == "n":
                    current_workflow().continue_as_new(script[place + 1 :], [*done, "n"], self.got)
                done.append(await self.step(letter, len(done), done))
        except asyncio.CancelledError:
            await act("z", "C")
            raise
        return {"done": done, "got": self.got}

    async def step(self, letter: str, number: int, done: list[str]) -> str:
        """One letter; the word for what came of it."""
        match letter:
            case "t":
                await asyncio.sleep(0.4)
            case "T":
                await asyncio.sleep(2.5)
            case "r":
                return f"r{await current_workflow().receive('go', int)}"
            case "h":
                await current_workflow().receive("never")
            case "s":
                wanted = sum(each == "s" for each in done) + 1
                await current_workflow().wait_for(lambda: len(self.got) >= wanted)
            case "g":
                await asyncio.gather(*(act(f"{number}.{n}", "C") for n in range(3)))
            case "w":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.7):
                        await act(number, "H")
            case "X":
                with contextlib.suppress(JobFaulted):
                    await act(number, "X")
            case "e":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.7):
                        await child("h", number)
            case "c":
                await child("a", number)
            case "o":
                other = await current_workflow().start_child(ref(number), "r", [], [])
                await current_workflow().workflow(other.id).signal("go", 1)
                await other.result()
            case "l" | "L":
                await nap.options(local=True)(0.1 if letter == "L" else 0.0)
            case "j":
                joined: Any = ref(number).options(if_exists="join")
                await asyncio.gather(joined("t", [], []), joined("t", [], []))
            case _:
                await act(number, {"a": "C", "F": "FC"}.get(letter, letter))
        return letter


def act(number: object, script: str) -> Any:
    """An activity of this workflow: no two of all that there are have one payload."""
    flow = current_workflow()
    return ACT(life=f"{flow.id}/{flow.run}.{number}!{script}")


def ref(number: int) -> Any:
    """A workflow whose id tells whose child it is, and which."""
    flow = current_workflow()
    return Flow.run.options(id=f"{flow.id}-{flow.run}-{number}")


def child(script: str, number: int) -> Any:
    return ref(number)(script, [], [])


def expected(script: str) -> dict[str, Any]:
    """What a workflow of this script must come to."""
    done, received, handled = [], 0, 0
    for letter in script:
        received += letter == "r"
        handled += letter == "s"
        done.append(f"r{received}" if letter == "r" else letter)
    return {"done": done, "got": list(range(1, handled + 1))}


def signals(script: str) -> list[tuple[str, int]]:
    """The signals that a script waits for, in order: name and number."""
    counts = {"go": 0, "add": 0}
    found = []
    for letter in script:
        name = {"r": "go", "s": "add"}.get(letter)
        if name is not None:
            counts[name] += 1
            found.append((name, counts[name]))
    return found
