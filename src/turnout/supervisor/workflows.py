"""How many workflows are open: what the acting supervisor tells the metrics, for the whole namespace."""

from __future__ import annotations

import contextlib
from collections import Counter

from turnout.errors import TurnoutError
from turnout.nats.boottime import boottime
from turnout.store.perform import Store
from turnout.telemetry import workflow_metrics

SHARE = 20.0
"""A walk over all histories is followed by so many times its own length without one."""


class OpenWorkflows:
    """The open workflows as they were last counted, for any thread to look at."""

    def __init__(self) -> None:
        self._counted: dict[str, Counter[str]] = {}
        self._not_before = 0.0

    async def count(self, store: Store) -> None:
        """Read the newest entry of each history, unless that has just taken long. Trouble is for later."""
        began = boottime()
        if began < self._not_before:
            return
        counted: dict[str, Counter[str]] = {}
        with contextlib.suppress(TurnoutError, TimeoutError):
            async for _, entry in store.histories.entries():
                states = counted.setdefault(entry.name, Counter())
                if not entry.state.final:
                    states[entry.state.value] += 1
            workflow_metrics.serve(counted)
            self._counted = counted
        self._not_before = boottime() + SHARE * (boottime() - began)

    def look(self) -> workflow_metrics.OpenWorkflows:
        """The open workflows by name and state."""
        return self._counted

    def forget(self) -> None:
        """Somebody else tells it from now on."""
        self._counted = {}
        self._not_before = 0.0
