"""See one history again, step by step: pytest tests/sim/test_replay.py --sim-seed=N (or --sim-plan=TEXT) -s."""

from __future__ import annotations

import pytest

from tests.sim.plan import Plan
from tests.sim.simulation import Simulation

KNOWN = (
    # What these broke, each once: the rule in brackets was missing, or decide() had a hole.
    "seed=118;jobs=delayed:WSL,expiring:X;crash=5+26;faults=freeze@15.2:6.09:1,sup@3.65:7.0:0;deliver=5;supervisors=2",
    "seed=342;jobs=delayed:W;crash=2+25;acts=cancel@29.1:0;deliver=25;supervisors=2",
    "seed=168;jobs=plain:TPF,delayed:KK;crash=5+7;faults=stop@22.33:8.03:0,cut@10.49:4.13:1,crash@9.41:11.68:1;"
    "acts=cancel@0.15:1;deliver=5;supervisors=2",
    "seed=226;jobs=plain:P;crash=27;faults=kill@23.57:4.62:1,sup@18.65:8.96:1;acts=cancel@5.18:0,delete@12.88:0;deliver=3;"
    "supervisors=2",
    "seed=15241;jobs=delayed:FXS;crash=17+24;faults=sup@2.52:4.42:1,kill@24.89:0.92:0,lossy@12.79:1.12:1;"
    "acts=delete@11.69:0,submit@25.08:0;deliver=25;supervisors=1",
    "seed=31607;jobs=bare:ZTZI;crash=4+11;faults=early@4.7:3.91:1,crash@21.17:6.24:1,crash@1.93:1.39:1;"
    "acts=retry@19.35:0;deliver=3;supervisors=1",
)


@pytest.mark.parametrize("text", KNOWN)
def test_histories_that_once_went_wrong_stay_right(text: str) -> None:
    """A history that once broke an invariant keeps all of them."""
    Simulation(Plan.parse(text)).run()


def test_the_plan_that_was_asked_for(pytestconfig: pytest.Config) -> None:
    """The history of --sim-seed or --sim-plan keeps the invariants; its steps are printed (run with -s)."""
    seed, text = pytestconfig.getoption("--sim-seed", None), pytestconfig.getoption("--sim-plan", None)
    plan = Plan.parse(text) if text else Plan.of_seed(seed or 0)
    simulation = Simulation(plan, trace=True)
    try:
        simulation.run()
    finally:
        if text or seed is not None:
            print(f"\n{plan}\n" + "\n".join(simulation.trace or ()))


def test_a_plan_survives_its_text() -> None:
    """What a failure prints is read back as the very same plan."""
    for seed in range(300):
        plan = Plan.of_seed(seed)
        assert Plan.parse(str(plan)) == plan


def test_a_seed_is_a_whole_history() -> None:
    """The same seed gives the same steps, so that a failure can be seen again."""
    first, second = (Simulation(Plan.of_seed(4), trace=True).run() for _ in range(2))
    assert first.trace == second.trace
    assert first.world.steps == second.world.steps
