"""`--sim-seed=N`, `--sim-plan=TEXT` see a failure again; `--sim-scale=N` sets how many histories there are."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--sim-seed", type=int, default=None, help="run the random history of this seed")
    group.addoption("--sim-plan", default=None, help="run this plan, as a failure prints it")
    group.addoption("--sim-scale", type=float, default=0.25, help="how many histories: 0.25 for some, 6 for all")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Production code logs each accident, of which there are thousands here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
