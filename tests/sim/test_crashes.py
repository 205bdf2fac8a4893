"""Crash before every effect of every short script, and in random histories with every kind of fault.

The histories are computed in a few processes, which share nothing: a violation comes back with its way to be replayed.
How many there are is for `--sim-scale` to say: a quarter is what fits into `make test`, 6 is all of them.
"""

from __future__ import annotations

import gc
import itertools
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any, ParamSpec, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.sim.plan import ACTS, FAULTS, KINDS, LETTERS, REPLACE, Act, Fault, Plan
from tests.sim.simulation import crash_everywhere, run_seed

P = ParamSpec("P")
T = TypeVar("T")

SHORT = "CPFXLTNKZDSI"
ALL = 6.0
"""The scale at which nothing is left out."""


def quiet() -> None:
    """What a process of the pool begins with: production code logs each accident, and nobody reads it."""
    logging.disable(logging.CRITICAL)
    gc.freeze()


class InPlace(Executor):
    """Does what it is given at once, in this process."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # a violation is raised where the result is asked for
            future.set_exception(error)
        return future


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    """A few processes; where this is one of several that run tests, the cores are shared out already."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        yield InPlace()
        return
    processes = min(os.cpu_count() or 1, 4)
    # Not a fork of this process, in which other tests have left threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=quiet) as pool:
        yield pool


@pytest.fixture(scope="module")
def scale(pytestconfig: pytest.Config) -> float:
    return float(pytestconfig.getoption("--sim-scale", None) or 0.25)


def long_after(names: Iterable[str], count: int) -> list[Any]:
    """The names, of which `make quick` takes the first few only."""
    return [pytest.param(name, marks=[pytest.mark.long] * (place >= count)) for place, name in enumerate(names)]


def share(cases: Sequence[T], scale: float, all_at: float = ALL) -> list[T]:
    """Every case at the scale `all_at`, and evenly fewer below it."""
    return [
        case for number, case in enumerate(cases) if int((number + 1) * scale / all_at) > int(number * scale / all_at)
    ]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", long_after(KINDS, 1))
def test_crash_before_every_effect_of_every_script(pool: Executor, kind: str, scale: float) -> None:
    """For every script of two outcomes and every n, a crash before the n-th effect loses nothing and heals.

    At scale 1 each script is played by one kind of job, at 4 by every kind.
    """
    turn = KINDS.index(kind)
    scripts = ["".join(script) for script in itertools.product(SHORT, repeat=2)]
    in_turn = sorted(scripts, key=lambda script: (sum(map(SHORT.index, script)) + turn) % len(KINDS))
    plans = [Plan(seed=hash_of(script), jobs=((kind, script),)) for script in in_turn[: int(36 * min(scale, 4))]]
    runs = sum(pool.map(crash_everywhere, plans, chunksize=4))
    assert runs > 5 * len(plans), f"{runs} crash runs"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("act", long_after([*ACTS, REPLACE], 1))
def test_crash_before_every_effect_while_a_client_acts(pool: Executor, act: str, scale: float) -> None:
    """The same while a client cancels, retries, deletes, submits anew or replaces: early, in the middle, at the end."""
    cases = list(itertools.product((0.05, 0.35, 3.2, 7.0), ("C", "W", "X", "LC", "NC", "KC", "I"), KINDS))
    plans = [
        Plan(seed=int(at * 100), jobs=((kind, script),), acts=(Act(act, at),))
        for at, script, kind in share(cases, scale)
    ]
    runs = sum(pool.map(crash_everywhere, plans, chunksize=4))
    assert runs > 70 * scale, f"{runs} crash runs"


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("deliver", [2, 3])
def test_crash_before_every_effect_when_deliveries_run_out(pool: Executor, deliver: int, scale: float) -> None:
    """The same with so few deliveries that the message is often exhausted, and must be put in anew."""
    cases = list(itertools.product(map("".join, itertools.product("FKZS", repeat=2)), KINDS))
    plans = [
        Plan(seed=hash_of(script), jobs=((kind, script),), deliver=deliver) for script, kind in share(cases, scale)
    ]
    assert sum(pool.map(crash_everywhere, plans, chunksize=4)) > 60 * scale


def hash_of(script: str) -> int:
    return sum(ord(letter) * 31**position for position, letter in enumerate(script))


def tenths(most: float) -> st.SearchStrategy[float]:
    return st.integers(0, int(most * 10)).map(lambda n: n / 10)


plans = st.builds(
    Plan,
    seed=st.integers(0, 2**32),
    jobs=st.lists(
        st.tuples(st.sampled_from(KINDS), st.text(LETTERS, min_size=1, max_size=4)), min_size=1, max_size=2
    ).map(tuple),
    faults=st.lists(
        st.builds(Fault, st.sampled_from(FAULTS), tenths(15), tenths(9), st.integers(0, 1)), max_size=3
    ).map(tuple),
    acts=st.lists(st.builds(Act, st.sampled_from(ACTS), tenths(20), st.just(0)), max_size=2).map(tuple),
    deliver=st.sampled_from((3, 5, 25)),
    supervisors=st.integers(1, 2),
)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_any_plan_with_a_crash_before_each_of_its_effects(pool: Executor, scale: float) -> None:
    """Whatever the scripts, faults and client calls, and with a crash before any effect: all invariants hold."""
    drawn: list[Plan] = []

    @settings(
        max_examples=int(60 * scale) if scale < ALL else 1000,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(plans)
    def draw(plan: Plan) -> None:
        drawn.append(plan)

    draw()
    runs = sum(pool.map(crash_everywhere, drawn))
    assert runs > 500 * scale, f"{runs} crash runs in {len(drawn)} plans"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_random_histories(pool: Executor, scale: float) -> None:
    """Hundreds of seeds, with up to two crashes among three other faults each, keep every invariant."""
    for _ in pool.map(run_seed, range(int(400 * scale)), chunksize=10):
        pass  # a violation is raised here
