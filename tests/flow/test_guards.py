"""Guards: on the guarded thread what reaches out raises, time and chance are the workflow's; others notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import queue
import random
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import pytest

from turnout.flow import guards
from turnout.flow.guards import Guard, guarded, lifted

NOW = 1_700_000_000.25
ID = uuid.UUID("12345678-1234-4678-9234-567812345678")


class NotDurable(Exception):
    """The owner's error."""


def a_guard(seed: int = 7) -> Guard:
    chance = Random(seed)
    return Guard(refuse=NotDurable, now=lambda: NOW, random=lambda: chance, uuid4=lambda: ID)


@pytest.fixture
def under_guard() -> Iterator[Guard]:
    guard = a_guard()
    with guarded(guard):
        yield guard


POOL = ThreadPoolExecutor(1)
POOL.submit(int).result()
REACHING_OUT: dict[str, Callable[[], object]] = {
    "a file": lambda: open(__file__).close(),  # noqa: PTH123
    "a file by its descriptor": lambda: os.open(__file__, os.O_RDONLY),
    "a path": lambda: Path(__file__).read_text(),
    "a folder": lambda: os.listdir("."),  # noqa: PTH208
    "a new folder": lambda: Path("/nowhere/at/all").mkdir(),
    "removing": lambda: Path("/nowhere").unlink(),
    "a temporary folder": tempfile.mkdtemp,
    "a socket": socket.socket,
    "a name": lambda: socket.gethostbyname("localhost"),
    "a connection": lambda: socket.create_connection(("127.0.0.1", 9)),
    "a process": lambda: subprocess.run(["true"], check=True),
    "a command": lambda: os.system("true"),
    "a fork": os.fork,
    "a signal": lambda: os.kill(os.getpid(), 0),
    "a thread": lambda: threading.Thread(target=int).start(),
    "a bare thread": lambda: __import__("_thread").start_new_thread(int, ()),
    "a running executor": lambda: POOL.submit(int),
    "a blocking sleep": lambda: time.sleep(0),
    "a blocking event": lambda: threading.Event().wait(0),
    "a blocking queue": lambda: queue.Queue[int]().get(timeout=1),
    "a thread's end": lambda: threading.main_thread().join(),
    "a select": lambda: select.select([], [], [], 0),
    "a secret": secrets.token_hex,
    "the system's chance": lambda: os.urandom(4),
}


@pytest.mark.parametrize("what", REACHING_OUT)
def test_reaching_out_raises_the_owners_error(what: str) -> None:
    """Each way to reach out of the program raises the owner's error, and it says what to do instead."""
    if what == "a bare thread" and sys.version_info < (3, 12):
        return  # this Python has no event for it; threading.Thread has
    with pytest.raises(NotDurable, match=r"refused in a workflow: .{20,}"), guarded(a_guard()):
        REACHING_OUT[what]()


def test_nothing_is_refused_elsewhere() -> None:
    """While one thread is guarded others reach out as ever; so does the same one afterwards, and where it is lifted."""

    def reach_out() -> bool:
        with open(__file__) as file, socket.socket():  # noqa: PTH123
            time.sleep(0)
            return bool(file.read(1)) and POOL.submit(int).result() == 0 and time.time() != NOW

    inside, done = threading.Event(), threading.Event()
    seen: list[object] = []

    def guarded_thread() -> None:
        with guarded(a_guard()):
            seen.append(time.time())
            with lifted():
                inside.set()
                seen.append(reach_out())
                done.wait()
            with pytest.raises(NotDurable):
                time.sleep(0)
        seen.append(reach_out())

    thread = threading.Thread(target=guarded_thread)
    thread.start()
    inside.wait()
    assert reach_out()
    done.set()
    thread.join()
    assert seen == [NOW, True, True]
    assert guards.guard_here() is None


def test_every_clock_shows_the_workflows_time(under_guard: Guard) -> None:
    """All the clocks of `time` agree, in seconds, nanoseconds and calendar form."""
    for clock in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        assert getattr(time, clock)() == NOW
        assert getattr(time, f"{clock}_ns")() == 1_700_000_000_250_000_000
    assert time.clock_gettime(time.CLOCK_REALTIME) == NOW
    assert time.gmtime()[:6] == (2023, 11, 14, 22, 13, 20)
    assert time.localtime() == time.localtime(NOW)
    assert time.ctime() == time.ctime(NOW) == time.asctime()
    assert time.strftime("%Y-%m", time.gmtime()) == "2023-11"
    assert time.strftime("%j") == time.strftime("%j", time.localtime(NOW))
    assert time.gmtime(0).tm_year == 1970


def test_chance_and_ids_are_the_workflows() -> None:
    """The functions of `random` continue the workflow's own generator, and ids are those that its owner makes."""

    def drawn() -> list[object]:
        items = [*range(10)]
        random.shuffle(items)
        return [
            random.random(),
            random.randint(1, 99),
            random.choice("abc"),
            random.gauss(),
            items,
            random.randbytes(3),
        ]

    state = random.getstate()
    with guarded(a_guard(1)):
        first = drawn()
    with guarded(a_guard(1)):
        assert drawn() == first
    with guarded(a_guard(2)):
        assert drawn() != first
        random.seed(5)
        assert random.random() == Random(5).random()
        assert uuid.uuid4() == ID
        assert uuid.uuid1().version == 1
        assert uuid.uuid5(uuid.NAMESPACE_DNS, "a").version == 5
    assert random.getstate() == state, "the generator of everybody else was not touched"
    assert uuid.uuid4() != ID


def test_a_guard_within_a_guard_counts() -> None:
    """The innermost guard is the one that is asked, and the outer one is back afterwards, also after an error."""
    with guarded(a_guard(1)):
        with contextlib.suppress(ValueError), guarded(Guard(NotDurable, lambda: 5.0, Random, lambda: ID)):
            assert time.time() == 5.0
            raise ValueError
        assert time.time() == NOW


def test_imports_are_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first import in guarded code reads its files, and so does what a module does while it is imported."""
    (tmp_path / "imported_late.py").write_text("content = open(__file__).read()")
    monkeypatch.syspath_prepend(str(tmp_path))
    with guarded(a_guard()):
        module = importlib.import_module("imported_late")
        with pytest.raises(NotDurable):
            open(module.__file__ or "").close()  # noqa: PTH123
    assert "content" in module.content


def test_tracebacks_logs_and_time_zones_are_let_through(tmp_path: Path) -> None:
    """Lines of a traceback, log files and time zones may be opened, and a log line has the real time."""
    handler = logging.FileHandler(tmp_path / "log", delay=True)
    handler.setFormatter(logging.Formatter("%(created)f %(message)s"))
    logger = logging.Logger("guarded")
    logger.addHandler(handler)
    before = time.time()
    with guarded(a_guard()):
        try:
            raise ValueError("for its traceback")
        except ValueError:
            assert "for its traceback" in traceback.format_exc()
        logger.warning("hello")
        assert ZoneInfo.no_cache("Europe/Berlin").key == "Europe/Berlin"
    handler.close()
    created, message = (tmp_path / "log").read_text().split()
    assert message == "hello"
    assert before <= float(created) <= time.time()


def test_the_collector_is_let_through() -> None:
    """What the garbage collector frees on the guarded thread is somebody else's: it may close and remove its things."""
    seen: list[object] = []

    class Elsewhere:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            seen.append(time.time() != NOW)
            open(__file__).close()  # noqa: PTH123
            seen.append("closed")

    gc.collect()
    Elsewhere()
    with guarded(a_guard()):
        gc.collect()
    assert seen == [True, "closed"]


def test_names_that_were_imported_before_are_bound_anew() -> None:
    """A module that has `from time import time` gets a clock that knows of guards, and nothing else of it changes."""
    module = types.ModuleType("old")
    original = time.time.__wrapped__ if hasattr(time.time, "__wrapped__") else time.time
    vars(module).update(all_tasks=vars(asyncio.all_tasks).get("__wrapped__", asyncio.all_tasks))
    vars(module).update(time=original, now=time.monotonic, choice=random.choice, unhashable=[], number=3, path=Path)
    names = guards.rebind(module)
    assert {"time", "all_tasks"} <= set(names)
    assert module.all_tasks is asyncio.all_tasks
    assert not {"unhashable", "number", "path"} & set(names)
    assert guards.rebind(module) == []
    with guarded(a_guard()):
        assert module.time() == NOW
