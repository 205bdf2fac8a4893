"""Where the simulation takes hold of production code: its clock, its dice, its threads, its connections."""

from __future__ import annotations

import asyncio
import functools
import random
import secrets
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from turnout import crashpoints, loop_thread, wire
from turnout.loop_thread import LoopThread
from turnout.nats import boottime, connection
from turnout.store import nodes, perform, topology
from turnout.store.chance import Chance
from turnout.telemetry import metrics
from turnout.worker import keeper, loop_watch, runner


class Remembered:
    """Stands for the writing and reading of records and nodes, which takes longer than most of what is simulated.

    What was written is read back as it was (tests/wire holds that), and nothing is read twice.
    """

    def __init__(self, dump: Callable[..., bytes], load: Callable[[bytes], Any]) -> None:
        self._dump, self._load = dump, load
        self._known: dict[bytes, Any] = {}

    def dump(self, value: Any, most: int | None = None) -> bytes:
        data = self._dump(value) if most is None else self._dump(value, most)
        self._known[data] = value
        return data

    def load(self, data: bytes) -> Any:
        if data not in self._known:
            self._known[data] = self._load(data)
        return self._known[data]


DECLARED = functools.cache(runner._declared)
"""What a node declares of its activity takes longer to make than a history."""


class Dice:
    """Stands for the modules that make up numbers and ids."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def token_hex(self, size: int) -> str:
        return f"{self._dice.getrandbits(8 * size):0{2 * size}x}"

    @property
    def hex(self) -> str:
        return self.token_hex(16)


class Thread:
    """Stands for a thread with an event loop: its code is a task more of the host. Other threads are left out."""

    def __init__(self, target: Any, name: str, daemon: bool) -> None:
        self._thread: Any = getattr(target, "__self__", None)
        self._task: asyncio.Task[None] | None = None
        self.name = name

    def start(self) -> None:
        if isinstance(self._thread, LoopThread):
            self._task = asyncio.get_running_loop().create_task(self._run(self._thread))

    async def _run(self, thread: LoopThread) -> None:
        error: BaseException | None = None
        try:
            await thread._whole()
        except asyncio.CancelledError:
            pass
        except Exception as caught:  # as in the thread
            error = caught
        thread.call_back(loop_thread._resolve, thread.ended, error)

    @property
    def ident(self) -> int | None:
        return None if self._task is None else id(self._task)

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.done()


class Threading:
    """Stands for `threading` where threads are made."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.Thread = Thread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


async def _nothing(*_: object, **__: object) -> None:
    pass


Patch = tuple[Any, str, Any]
"""(a module or class, the name of something in it, what takes its place)"""

_ABSENT = object()


@contextmanager
def patched(pairs: Iterable[Patch]) -> Iterator[None]:
    """Production code with some of it replaced."""
    before = []
    try:
        for owner, name, value in pairs:
            before.append((owner, name, vars(owner).get(name, _ABSENT)))
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def _listed(point: str) -> None:
    """Every effect of every history has a name at which tests/crash can make a process die."""
    if point not in crashpoints.POINTS:
        raise AssertionError(f"crash point {point} is not listed in turnout.crashpoints")


@contextmanager
def taken(now: Callable[[], float], chance: random.Random, deliver: int, open_: Any) -> Iterator[None]:
    dice = Dice(chance)
    records = Remembered(wire.dump_record, wire.load_record)
    known_nodes = Remembered(wire.dump_node, wire.load_node)
    pairs: list[Patch] = []
    pairs += [
        (boottime, "_read", lambda _: now()),
        (crashpoints, "ARMED", True),
        (crashpoints, "reach", _listed),
        (secrets, "token_hex", dice.token_hex),
        (random, "random", chance.random),
        (random, "uniform", chance.uniform),
        (uuid, "uuid4", lambda: dice),
    ]
    pairs += [(module, "threading", Threading(module.threading)) for module in (loop_thread, loop_watch)]
    pairs += [
        (metrics, "look", lambda: False),
        (metrics, "watch_node", lambda *_: lambda: None),
        (metrics, "watch_queues", lambda *_: lambda: None),
        (metrics, "watch_limits", lambda *_: lambda: None),
        (runner, "_declared", DECLARED),
        (wire, "dump_record", records.dump),
        (wire, "load_record", records.load),
        (wire, "dump_node", known_nodes.dump),
        (wire, "load_node", known_nodes.load),
        (loop_watch, "AWAKE_EVERY_S", 0.66),
        (keeper, "TICK_S", 0.66),
        (perform, "Chance", functools.partial(Chance, random.Random(0))),
        (nodes, "ASK_TIMEOUT_S", 0.3),
        (topology, "DELIVERIES_BESIDE_BUDGETS", deliver),
        (topology.Topology, "ensure", _nothing),
        (connection.Connection, "open", staticmethod(open_)),
    ]
    with patched(pairs):
        yield
