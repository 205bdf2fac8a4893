"""See one history again, step by step: pytest tests/sim/test_replay.py --sim-seed=N (or --sim-plan=TEXT) -s."""

from __future__ import annotations

import pytest

from tests.sim.flow_simulation import FlowSimulation, plan_of_seed
from tests.sim.plan import Plan
from tests.sim.simulation import Simulation

KNOWN = """
seed=118;jobs=delayed:WSL,expiring:X;crash=5+26;faults=freeze@15.2:6.09:1,sup@3.65:7.0:0;deliver=5;supervisors=2
seed=342;jobs=delayed:W;crash=2+25;acts=cancel@29.1:0;deliver=25;supervisors=2
seed=168;jobs=plain:TPF,delayed:KK;crash=5+7;faults=stop@22.33:8.03:0,cut@10.49:4.13:1;acts=cancel@0.15:1;deliver=5
seed=226;jobs=plain:P;faults=kill@23.57:4.62:1,sup@18.65:8.96:1;acts=cancel@5.18:0,delete@12.88:0;deliver=3
seed=15241;jobs=delayed:FXS;crash=17+24;faults=kill@24.89:0.92:0;acts=delete@11.69:0,submit@25.08:0
seed=31607;jobs=bare:ZTZI;crash=4+11;faults=early@4.7:3.91:1,crash@1.93:1.39:1;acts=retry@19.35:0;deliver=3
seed=5357;jobs=expiring:FZK;faults=server@5.18:8.79:1,kill@24.4:3.26:0;acts=delete@7.41:0,cancel@0.81:0;deliver=3
seed=5620;jobs=expiring:W,bare:TDNS;faults=server@8.98:4.75:0;acts=retry@8.16:0;deliver=3
seed=6839;jobs=delayed:NW,expiring:NZ;crash=24;faults=freeze@4.16:7.47:0,kill@24.01:4.47:0;acts=retry@10.76:0
seed=2;jobs=bare:ZZ;crash=6;deliver=2;supervisors=1
seed=3;jobs=bare:ZZ;crash=6;deliver=2;supervisors=1
seed=0;jobs=plain:Z;faults=kill@19.0:2.0:0;acts=delete@17.0:0;deliver=2;supervisors=1
seed=5;jobs=plain:ZC;faults=kill@19.0:2.0:0;acts=delete@17.0:0;deliver=2;supervisors=1
""".split()  # noqa: SIM905
"""Each of these once broke an invariant: decide() had a hole, or an actor lacked a rule."""


KNOWN_FLOWS = """
seed=1;jobs=flow:o;crash=13
seed=388;jobs=flow:ooT;crash=5+13;acts=cancel@1.62:0,cancel@3.4:0
seed=0;jobs=flow:tna;crash=*
seed=1;jobs=flow:Tnrrrrrrrrr;faults=freeze@0.6:6.0:0,freeze@0.6:6.0:1
""".split()  # noqa: SIM905
"""The same of workflows."""


def simulation_of(plan: Plan, *, trace: bool = False) -> Simulation:
    flows = any(kind == "flow" for kind, _ in plan.jobs)
    return FlowSimulation(plan, trace=trace) if flows else Simulation(plan, trace=trace)


@pytest.mark.parametrize("text", [*KNOWN, *KNOWN_FLOWS])
def test_histories_that_once_went_wrong_stay_right(text: str) -> None:
    """A history that once broke an invariant keeps all of them."""
    simulation_of(Plan.parse(text)).play()


def test_the_plan_that_was_asked_for(pytestconfig: pytest.Config) -> None:
    """The history of --sim-seed or --sim-plan keeps the invariants; its steps are printed (run with -s)."""
    seed, text = pytestconfig.getoption("--sim-seed", None), pytestconfig.getoption("--sim-plan", None)
    plan = Plan.parse(text) if text else Plan.of_seed(seed or 0)
    simulation = simulation_of(plan, trace=True)
    try:
        simulation.play()
    finally:
        if text or seed is not None:
            print(f"\n{plan}\n" + "\n".join(simulation.trace or ()))


def test_a_plan_survives_its_text() -> None:
    """What a failure prints is read back as the very same plan."""
    for seed in range(300):
        for plan in (Plan.of_seed(seed), plan_of_seed(seed)):
            assert Plan.parse(str(plan)) == plan


def test_a_seed_is_a_whole_history() -> None:
    """The same seed gives the same steps, so that a failure can be seen again."""
    for plan in (Plan.of_seed(4), plan_of_seed(4)):
        first, second = (simulation_of(plan, trace=True).run() for _ in range(2))
        assert first.trace == second.trace
        assert first.world.steps == second.world.steps
