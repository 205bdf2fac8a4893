"""CPython's own tests of asyncio, on our loop, under every Python that is here with its tests."""

from __future__ import annotations

import json
import subprocess
import warnings
from pathlib import Path

import pytest

from tests.support.pythons import HERE, OURS, VERSIONS, number

DRIVER = Path(__file__).with_name("cpython_driver.py")

MODULES = {
    "test_asyncio.test_tasks": ("3.11", 1000),
    "test_asyncio.test_locks": ("3.11", 70),
    "test_asyncio.test_timeouts": ("3.11", 30),
    "test_asyncio.test_taskgroups": ("3.11", 35),
    "test_asyncio.test_queues": ("3.11", 40),
    "test_asyncio.test_waitfor": ("3.11", 14),
    "test_asyncio.test_futures": ("3.11", 200),
    "test_asyncio.test_futures2": ("3.11", 2),
    "test_asyncio.test_pep492": ("3.11", 10),
    "test_asyncio.test_runners": ("3.11", 26),
    "test_asyncgen": ("3.11", 60),
    "test_asyncio.test_eager_task_factory": ("3.12", 50),
    "test_asyncio.test_staggered": ("3.13", 3),
}
"""Each module, the first Python that has it, and how many of its tests must be run at least."""

THREADS = "runs its own code in an executor, and this loop has no threads"
TASK_OF_ITS_OWN = "wants wait_for to have a task of its own, as until 3.11; on this loop it is that of 3.12"
HELD = "wants the garbage collector to destroy a pending task, but this loop holds its tasks until they have ended"
EXCLUDED = {
    "test_asyncio.test_tasks.RunCoroutineThreadsafeTests": THREADS,
    "test_asyncio.test_tasks.*.test_log_destroyed_pending_task": HELD,
    "test_asyncio.test_tasks.CoroutineGatherTests.test_issue46672": "puts a mock into asyncio's own loop class",
    "test_asyncio.test_waitfor.AsyncioWaitForTest.test_wait_for_self_cancellation": TASK_OF_ITS_OWN,
    "test_asyncio.test_futures2.FutureReprTests.test_recursive_repr_for_pending_tasks": TASK_OF_ITS_OWN,
}
"""The tests that are left out, by module, class (or *) and name, each with the reason."""
ONLY_IN = {TASK_OF_ITS_OWN: ("3.11",)}
"""The reasons that hold for some Pythons alone."""


def test_there_is_a_python_to_run_them_with() -> None:
    """At least one Python is here with its tests; those that are missing are named in a warning."""
    missing = [f"python{version}" for version in VERSIONS if version not in HERE]
    if missing:
        warnings.warn(f"not run with CPython's own tests, because it is not here: {', '.join(missing)}", stacklevel=1)
    assert HERE, "no Python on the PATH has the package test.test_asyncio (on Debian: libpython3-testsuite)"


IN_TURN = [pytest.param(version, marks=[pytest.mark.breadth] * (version != OURS)) for version in HERE]
"""`make test` runs them with its own Python; with the others CI does."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", IN_TURN)
@pytest.mark.parametrize("module", MODULES)
def test_cpythons_own_tests_pass_on_our_loop(module: str, version: str) -> None:
    """Every test of the module passes on our loop, tasks and futures, but for those that are left out with a reason."""
    first, at_least = MODULES[module]
    excluded = {
        name: why
        for name, why in EXCLUDED.items()
        if name.startswith(f"{module}.") and version in ONLY_IN.get(why, (version,))
    }
    command = [HERE[version], "-W", "ignore", str(DRIVER), module, json.dumps(excluded)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=590)
    if number(version) < number(first):
        assert f"No module named 'test.{module}'" in done.stderr, "this Python has them too: run them"
        return
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert not report["failed"], "\n".join(report["failed"].values())
    assert report["ran"] >= at_least
    assert report["used_rules"] == sorted(excluded), "a test that is left out is no longer there"
