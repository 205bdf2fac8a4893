"""What holds for every test: no clock for Hypothesis, Ctrl-C that is heard, and reports that reach who prints them."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import quick_server
from turnout.testing.server import NatsServer

ROOT = Path(__file__).parents[1]

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Where the environment forbids to keep bytecode, as containers do, each of the many Pythons that the tests start would
# spend a second on compiling what it imports. What is compiled here is kept apart from the sources.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / ".cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure() -> None:
    """Only here is Hypothesis imported: with bytecode that is kept, also where that is kept apart."""
    from hypothesis import HealthCheck, settings

    # How long an example takes on a busy machine is no property of the code.
    settings.register_profile("turnout", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("turnout")


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """That of the plugin, a little quicker."""
    with quick_server() as server:
        yield server


FIRST = (
    "workers/test_ffmpeg.py",
    "workers/test_media.py",
    "flow/test_cpython.py",
    "sim/",
    "docs/test_examples.py",
    "demo/",
    "typing/",
    "packaging/",
    "workers/",
    "processes/",
)
"""What takes long, in this order: begun last, each would keep one process busy when the others have nothing left."""


def place(item: pytest.Item) -> int:
    """Where a test comes: behind it is what is named behind it in `FIRST`, and what is not named at all."""
    path = item.nodeid.removeprefix("tests/")
    return next((number for number, long in enumerate(FIRST) if path.startswith(long)), len(FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The processes that run tests side by side have to agree on what the tests are called; the longest go first."""
    items.sort(key=place)
    unsettled = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unsettled:
        raise pytest.UsageError(f"give these ids without addresses (tests.support.ids): {unsettled[:3]}")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, Any, Any]:
    """What all those modules are made of stays to the end: the collector need not look at it again and again."""
    gc.disable()
    try:
        load_a_share(session.config)
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def load_a_share(config: pytest.Config) -> None:
    """The processes that run tests side by side load different modules first: each is compiled once, and not by all."""
    worker = getattr(config, "workerinput", None)
    if worker is None:
        return
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    left_out = [Path(folder).resolve() for folder in config.getoption("ignore") or ()]
    modules = sorted(path.resolve() for folder in config.args for path in Path(folder).rglob("test_*.py"))
    for path in modules[number::count]:
        if not any(path.is_relative_to(folder) for folder in left_out):
            with contextlib.suppress(Exception):  # the collection tells of it
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Half a surrogate pair, which some tests log, is no text that can be sent to another process: it is spelt out."""
    return spelt_out((yield))


def spelt_out(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {key: spelt_out(inner) for key, inner in value.items()}
        case list() | tuple():
            return type(value)(map(spelt_out, value))
        case _:
            return value
