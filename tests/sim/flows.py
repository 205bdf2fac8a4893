"""The code that the simulation's workflows run: a step for each letter of a script."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import attrs

from tests.sim import code
from tests.sim.invariants import LEASE_S
from turnout import JobFaulted, WorkflowFaulted, activity, current_workflow, workflow

LETTERS = "aFXgtTrswecojnlL"
"""An activity; one that fails once (F) or for good (X); three together (g); a short timer and a longer one (T); receive
a signal (r); see one handled (s); give up an activity (w), or a child (e), for a timeout; a child; an(o)ther workflow
that is signalled and awaited; one that two children join; continue as new; a quick
local activity, and one whose end has a record of its own (L)."""

ASKED = "uq"
"""What has a client wait for an answer: an update that is applied, and a query during a short timer."""

QUICK = "yYi"
"""What is over at once: an activity (y) and a child (Y) that nobody waits for, which an end takes back in the very
record that asks for them; a child that has nothing to do."""

SHARED = "mEOdfR"
"""More children, for forks: one without an id of its own (m), given up for a timeout (E), or signalled (O); one that
goes on when its parent has ended (d); one that fails (f), and another one under its id, in its place (R)."""

FAILING = "x"
"""What faults."""

BROKEN = "bk"
"""What can't go on until its code is repaired: it has a bug, or ends its process."""

RETENTION_S = 3600.0
"""Longer than a history: the histories of one are cleared away behind it."""

MAX_LOST = 10
"""More nodes than ever die over one activity."""

BRIEF_S = 3.0
"""How long the histories of those are kept whose collection is simulated."""


def trouble(workflow_id: str, letter: str) -> None:
    """What broken code does: the simulation says."""


ACT: Any = code.activity_of(LEASE_S, MAX_LOST)


@activity
async def nap(seconds: float) -> None:
    """Runs locally, longer or shorter than a task waits for it."""
    await asyncio.sleep(seconds)


@workflow(name="flow", retention=RETENTION_S)
class Flow:
    """Does what the rest of its script says. `done`, `got` and `put_before` are what the runs before have done and been
    sent. A digit in front of the script is its life's: nothing of two lives may look the same."""

    def __init__(self, script: str, done: list[str], got: list[int], put_before: list[int] | None = None) -> None:
        self.got = list(got)
        self.puts = list(put_before or ())
        self.life = life_of(script)
        self.left: list[asyncio.Task[Any]] = []

    @workflow.signal
    async def add(self, number: int) -> None:
        self.got.append(number)

    @workflow.update
    async def put(self, number: int) -> int:
        """Its place among those that were put; every other one takes an activity first."""
        if number % 2 == 0:
            await self.act(f"put{number}.{len(self.puts)}.{current_workflow().uuid4()}", "C")
        self.puts.append(number)
        return len(self.puts)

    @workflow.query
    def known(self) -> dict[str, list[int]]:
        return {"got": self.got, "puts": self.puts}

    @workflow.run
    async def run(
        self, script: str, done: list[str], got: list[int], put_before: list[int] | None = None
    ) -> dict[str, Any]:
        done, steps = list(done), script.removeprefix(self.life)
        try:
            for place, letter in enumerate(steps):
                if letter == "n":
                    rest = self.life + steps[place + 1 :]
                    current_workflow().continue_as_new(rest, [*done, "n"], self.got, self.puts)
                done.append(await self.step(letter, len(done), done))
        except asyncio.CancelledError:
            await self.act("z", "C")
            raise
        return {"done": done, "got": self.got, "puts": self.puts}

    async def step(self, letter: str, number: int, done: list[str]) -> str:
        """One letter; the word for what came of it."""
        match letter:
            case "t" | "q":
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
            case "u":
                wanted = sum(each == "u" for each in done) + 1
                await current_workflow().wait_for(lambda: len(self.puts) >= wanted)
            case "g":
                await asyncio.gather(*(self.act(f"{number}.{n}", "C") for n in range(3)))
            case "w":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.7):
                        await self.act(number, "H")
            case "X":
                with contextlib.suppress(JobFaulted):
                    await self.act(number, "X")
            case "e" | "c" | "o" | "j" | "i" | "m" | "E" | "O" | "d" | "f" | "R":
                await self.reach(letter, number)
            case "l" | "L":
                await nap.options(local=True)(0.1 if letter == "L" else 0.0)
            case "y" | "Y":
                given = self.act(number, "H") if letter == "y" else self.child("h", number)
                self.left.append(asyncio.create_task(given))
                await asyncio.sleep(0)
            case "x":
                await self.act(number, "X")
            case "b" | "k":
                trouble(current_workflow().id, letter)
            case _:
                await self.act(number, {"a": "C", "F": "FC"}.get(letter, letter))
        return letter

    async def reach(self, letter: str, number: int) -> None:
        """A letter that has to do with other workflows."""
        match letter:
            case "e":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.7):
                        await self.child("h", number)
            case "c":
                await self.child("a", number)
            case "i":
                await self.child("", number)
            case "o":
                other = await current_workflow().start_child(self.ref(number), "r", [], [])
                await current_workflow().workflow(other.id).signal("go", 1)
                await other.result()
            case "j":
                joined: Any = self.ref(number).options(if_exists="join")
                await asyncio.gather(joined("t", [], []), joined("t", [], []))
            case _:
                await self.share(letter, number)

    async def share(self, letter: str, number: int) -> None:
        """A letter of those that only forks are tried with."""
        match letter:
            case "m":
                await Flow.run("a", [], [])
            case "E":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.7):
                        await Flow.run("h", [], [])
            case "O":
                other = await current_workflow().start_child(Flow.run, "r", [], [])
                await other.signal("go", 1)
                await other.result()
            case "d":
                await current_workflow().start_child(self.ref(number).options(parent_close="abandon"), "t", [], [])
            case _:
                with contextlib.suppress(WorkflowFaulted):
                    await self.child(FAILING, number)
                if letter == "R":
                    await self.ref(number).options(if_exists="replace")("a", [], [])

    def act(self, number: object, script: str) -> Any:
        """An activity of this workflow: no two of all that there are have one payload."""
        flow = current_workflow()
        return ACT(life=f"{flow.id}{self.life and '_'}{self.life}/{flow.run}.{number}!{script}")

    def ref(self, number: int) -> Any:
        """A workflow whose id tells whose child it is, and which."""
        flow = current_workflow()
        return Flow.run.options(id=f"{flow.id}-{self.life}{self.life and '-'}{flow.run}-{number}")

    def child(self, script: str, number: int) -> Any:
        return self.ref(number)(script, [], [])


def brief() -> Any:
    """The same workflow for a client whose workflows are soon collected."""
    run: Any = Flow.run.options()
    run.settings = attrs.evolve(run.settings, retention=BRIEF_S)
    return run


def life_of(script: str) -> str:
    """What its life is called, "" for the first one."""
    return script[:1] if script[:1].isdigit() else ""


def expected(script: str) -> dict[str, Any]:
    """What a workflow of this script must come to."""
    done, received, steps = [], 0, script.removeprefix(life_of(script))
    for letter in steps:
        received += letter == "r"
        done.append(f"r{received}" if letter == "r" else letter)
    return {"done": done, "got": list(range(1, steps.count("s") + 1)), "puts": list(range(1, steps.count("u") + 1))}


def signals(script: str) -> list[tuple[str, int]]:
    """What a client sends to a script that waits for it, in order: name and number."""
    counts = {"go": 0, "add": 0, "put": 0, "ask": 0}
    found = []
    for letter in script:
        name = {"r": "go", "s": "add", "u": "put", "q": "ask"}.get(letter)
        if name is not None:
            counts[name] += 1
            found.append((name, counts[name]))
    return found
