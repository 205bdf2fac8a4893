"""`--sim-seed=N`, `--sim-plan=TEXT` see a failure again; `--sim-runs=N` sets how many random histories are run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--sim-seed", type=int, default=None, help="run the random history of this seed")
    group.addoption("--sim-plan", default=None, help="run this plan, as a failure prints it")
    group.addoption("--sim-runs", type=int, default=6000, help="how many random histories to run")
