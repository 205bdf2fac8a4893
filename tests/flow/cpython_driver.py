"""Runs CPython's own asyncio tests on the loop of turnout.flow, under whatever interpreter runs this file.

    python3.12 cpython_driver.py test_asyncio.test_tasks '{"test.test_asyncio...": "why it is left out"}'

The tests are those that the interpreter came with. They make their loops by the event loop policy, by
`asyncio.new_event_loop`, or by the TestLoop of their own utilities; all of these are replaced. What happened is printed
as one line of JSON. It is a program of its own, so that interpreters can run it in which nothing is installed.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import unittest
import warnings
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVarTuple

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from turnout.flow import Deadlock, Future, Loop, Task, Timer, reporting

Args = TypeVarTuple("Args")

SPINS_MAX = 1000
AHEAD = 1e-9


class TestedLoop(Loop):
    """A loop with the one private name that the clean-up of CPython's tests looks at."""

    _default_executor = None


class Policy(asyncio.DefaultEventLoopPolicy):
    """Every new loop is one of ours."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return TestedLoop()


class GeneratorLoop(TestedLoop):
    """What CPython's TestLoop is to its tests: a generator is told of each timer, and says how far the time goes on."""

    def __init__(self, gen: Any = None) -> None:
        super().__init__()
        self._gen = gen() if gen is not None else iter(())
        self._told: list[float] = []
        self._spins = 0
        if gen is not None:
            next(self._gen)

    def call_at(
        self, when: float, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> Timer:
        self._told.append(when)
        return super().call_at(when, callback, *args, context=context)

    def advance_time(self, advance: float) -> None:
        if advance:
            self.clock.now += advance

    def _ready_what_is_due(self) -> None:
        # Times that are sums of floats are compared by TestLoop with this much of patience.
        now = self.clock.now
        self.clock.now = now + AHEAD
        super()._ready_what_is_due()
        self.clock.now = now

    def _run_once(self) -> bool:
        ran = super()._run_once()
        told, self._told = self._told, []
        for when in told:
            self.advance_time(self._gen.send(when))
        return ran or bool(told)

    def _jump(self) -> None:
        self._spins += 1
        if self._spins > SPINS_MAX or self.next_due() is None:
            raise Deadlock("nothing can happen any more")

    def close(self) -> None:
        open_before = not self.is_closed()
        super().close()
        if open_before and hasattr(self._gen, "send"):
            try:
                self._gen.send(0)
            except StopIteration:
                pass
            else:
                raise AssertionError("Time generator is not finished")


def tests_of(suite: unittest.TestSuite | unittest.TestCase) -> list[unittest.TestCase]:
    """All the tests in a suite of suites."""
    if isinstance(suite, unittest.TestCase):
        return [suite]
    return [test for part in suite for test in tests_of(part)]


def left_out(test: unittest.TestCase, excluded: dict[str, str]) -> str | None:
    """The rule by which a test is left out: its name, or that of its class."""
    module, case, method = type(test).__module__.removeprefix("test."), type(test).__name__, test._testMethodName
    names = (f"{module}.{case}.{method}", f"{module}.*.{method}", f"{module}.{case}")
    return next((name for name in names if name in excluded), None)


class Log:
    """The log that CPython's tests put a mock in place of."""

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(asyncio.base_events)["logger"], name)


TASKS: dict[str, Any] = {"Task": Task, "Future": Future}
OURS: dict[tuple[str, ...], dict[str, Any]] = {
    ("BaseTaskTests", "SetMethodsTest"): TASKS,
    ("BaseNonEagerTaskFactoryTests",): TASKS,
    ("BaseEagerTaskFactoryTests",): TASKS,
    ("EagerTaskFactoryLoopTests",): TASKS,
    ("BaseFutureTests",): {"cls": Future},
    ("BaseFutureDoneCallbackTests",): {"_new_future": lambda self: Future(loop=self.loop)},
    ("BaseFutureInheritanceTests",): {"_get_future_cls": lambda self: Future},
}
"""The cases that CPython runs on several classes of tasks and futures, and what it takes to run them on ours."""


def with_our_classes(module: Any, utils: Any) -> None:
    """Let the module's tests of task and future classes be run on ours too."""
    for names, ours in OURS.items():
        bases = [getattr(module, name) for name in names if hasattr(module, name)]
        if len(bases) == len(names):
            case = f"Flow{names[0]}"
            setattr(module, case, type(case, (*bases, utils.TestCase), ours | {"__module__": module.__name__}))


def main(module_name: str, excluded: dict[str, str]) -> dict[str, Any]:
    """Run one module of tests."""
    utils: Any = importlib.import_module("test.test_asyncio.utils")
    utils.TestLoop = GeneratorLoop
    warnings.simplefilter("ignore", DeprecationWarning)
    module = importlib.import_module(f"test.{module_name}")
    with_our_classes(module, utils)
    vars(reporting)["logger"] = Log()
    tests = tests_of(unittest.defaultTestLoader.loadTestsFromModule(module))
    rules = {test.id(): left_out(test, excluded) for test in tests}
    kept = [test for test in tests if rules[test.id()] is None]
    asyncio.set_event_loop_policy(Policy())
    gc.collect()
    gc.freeze()  # a few tests collect a hundred times, and need not look at all that was imported
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=0).run(unittest.TestSuite(kept))
    return {
        "python": sys.version.split()[0],
        "ran": result.testsRun,
        "skipped": [f"{test.id()}: {why}" for test, why in result.skipped],
        "failed": {test.id(): trace for test, trace in [*result.failures, *result.errors]},
        "used_rules": sorted({rule for rule in rules.values() if rule is not None}),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})))
