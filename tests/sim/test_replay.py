"""See one history again, step by step: pytest tests/sim/test_replay.py --sim-seed=N (or --sim-plan=TEXT) -s."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.flow_simulation import FlowSimulation, plan_of_seed
from tests.sim.group_simulation import KINDS, GroupSimulation
from tests.sim.plan import Plan
from tests.sim.route_simulation import Routing
from tests.sim.simulation import Simulation
from tests.sim.turn_simulation import TENANTS, Dealing

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
seed=1048;jobs=expiring:TZSI,delayed:F;crash=*;faults=sup@1.6:1.8:1,kill@1.7:1.5:1,kill@6.8:1.8:0;acts=submit@2.7:0,beside@10.7:0;deliver=3;max_lost=2;supervisors=1
seed=3359312;jobs=bare:ZDCS;crash=*;acts=retry@2.4:0,retry@0.0:0;deliver=3;max_lost=2;supervisors=1
""".split()  # noqa: SIM905
"""Each of these once broke an invariant: decide() had a hole, or an actor lacked a rule."""


KNOWN_FLOWS = """
seed=1;jobs=flow:o;crash=13
seed=388;jobs=flow:ooT;crash=5+13;acts=cancel@1.62:0,cancel@3.4:0
seed=0;jobs=flow:tna;crash=*
seed=4;jobs=flow:Tas;acts=replace@0.7:0,replace@0.86:0
seed=1;jobs=flow:Tnrrrrrrrrr;faults=freeze@0.6:6.0:0,freeze@0.6:6.0:1
seed=5;jobs=flow:oT;crash=*;acts=lose@0.05:0;deliver=25;max_lost=2;supervisors=1
seed=0;jobs=flow:i;crash=*;deliver=25;max_lost=2;supervisors=1
seed=0;jobs=flow:y;crash=*;deliver=25;max_lost=2;supervisors=1
seed=5;jobs=flow:k;crash=*;acts=mend@0.0:0;deliver=25;max_lost=2;supervisors=1
seed=363;jobs=flow:FT;faults=cut@0.66:10.29:1,cut@6.13:1.69:0;acts=deploy@0.38:0
seed=71;jobs=flow:wnu;acts=fork@6.58:0
seed=265;jobs=flow:sqTs;crash=6;faults=stop@5.64:11.97:1,stop@6.16:0.54:0;acts=terminate@1.84:0,terminate@4.17:0
seed=6;jobs=flow:cT;crash=*;acts=fork@0.2:0;deliver=25;max_lost=2;supervisors=1
seed=4;jobs=flow:cj;crash=*;acts=forget@0.05:0;deliver=25;max_lost=2;supervisors=1
seed=994;jobs=flow:qj;crash=17;faults=freeze@4.12:1.31:1,server@6.97:1.44:0;acts=forget@6.34:0,again@2.06:0
seed=3;jobs=flow:eT;acts=fork@2.0:0
seed=3;jobs=flow:ET;acts=fork@2.0:0
seed=1;jobs=flow:eT;acts=fork@2.0:0
seed=11;jobs=flow:OERj;crash=20;faults=sup@3.81:7.37:0;acts=fork@0.87:0,fork@2.38:0
seed=18;jobs=flow:Yt;crash=*;acts=fork@0.9:0;deliver=25;max_lost=2;supervisors=1
seed=22;jobs=flow:eT;crash=*;acts=fork@0.5:0,fork@1.3:0;deliver=25;max_lost=2;supervisors=1
seed=251;jobs=flow:qjqu;faults=stop@3.28:5.87:1,stop@7.29:4.83:0,server@4.77:10.75:1;acts=replace@4.49:0
""".split()  # noqa: SIM905
"""The same of workflows."""

KNOWN_GROUPS = """
seed=506;jobs=whole:NL.Z!F;crash=3+12;faults=crash@0.86:0.3:1,crash@0.32:1.74:0,crash@0.24:7.03:0;acts=cancel@4.76:0,cancel@7.47:0;deliver=25;max_lost=2
seed=240;jobs=group:XK,whole:C!F;crash=20;faults=server@6.31:6.52:0,stop@1.98:6.68:0,lossy@6.82:7.59:1
""".split()  # noqa: SIM905
"""The same of groups and bursts."""


KNOWN_ROUTES = """
seed=2592;jobs=plain-gpu:SZF,plain-any:DDZ,delayed-both:LLC;crash=16;faults=lossy@14.52:6.79:1,lossy@10.4:5.2:2,freeze@9.02:1.73:0;acts=;deliver=5;max_lost=2;supervisors=2
seed=14;jobs=bare-both:LLL;crash=15;deliver=5
seed=2780;jobs=bare-both:ZZS,expiring-huge:ZZS,expiring-huge:ZKF;crash=31;faults=kill@12.89:11.65:0;acts=retry@7.97:0,cancel@8.45:0;deliver=5;supervisors=2
seed=4608;jobs=delayed-east:ZSL,plain-east:WFD,bare-east:CCL;faults=crash@12.24:11.0:1,server@14.83:3.55:2,stop@5.84:11.96:0;deliver=3;supervisors=2
""".split()  # noqa: SIM905
"""The same of routes."""


def simulation_of(plan: Plan, *, trace: bool = False) -> Simulation:
    kinds = {kind for kind, _ in plan.jobs}
    if "flow" in kinds:
        return FlowSimulation(plan, trace=trace)
    tenants = {kind.partition("-")[2] for kind in kinds} & set(TENANTS)
    if any("-" in kind for kind in kinds):
        return Dealing(plan, trace=trace) if tenants else Routing(plan, trace=trace)
    return GroupSimulation(plan, trace=trace) if kinds & set(KINDS) else Simulation(plan, trace=trace)


def known(text: str) -> Any:
    """A plan with a crash before each of its effects is many histories."""
    return pytest.param(text, marks=[pytest.mark.long, pytest.mark.breadth] * (";crash=*" in text))


@pytest.mark.parametrize("text", list(map(known, [*KNOWN, *KNOWN_FLOWS, *KNOWN_GROUPS, *KNOWN_ROUTES])))
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
