"""What holds for every test: no clock for Hypothesis, Ctrl-C that is heard, and reports that reach who prints them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes on a busy machine is no property of the code.
settings.register_profile("turnout", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("turnout")

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The processes that run tests side by side have to agree on what the tests are called."""
    unsettled = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unsettled:
        raise pytest.UsageError(f"give these ids without addresses (tests.support.ids): {unsettled[:3]}")


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
