"""The instances that a worker keeps in memory, the ones that were used last; and whose effects it has stored itself."""

from __future__ import annotations

from collections import OrderedDict

import attrs

from turnout.core.workflows.standing import Standing
from turnout.worker.workflows.instance import Instance

EFFECTS_KNOWN = 10_000


@attrs.define
class Cached:
    """A workflow in memory: where it stands, and its code where a task has run any."""

    standing: Standing
    instance: Instance


class Cache:
    """At most `most` instances. One that has to go is dropped: its code never notices."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._cached: OrderedDict[str, Cached] = OrderedDict()
        self._effects: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cached)

    def __contains__(self, workflow_id: object) -> bool:
        return workflow_id in self._cached

    def take(self, workflow_id: str) -> Cached | None:
        """The instance, which is in nobody else's hand until it is put back."""
        return self._cached.pop(workflow_id, None)

    def put(self, workflow_id: str, cached: Cached) -> list[Instance]:
        """Keep it; those that have to go for it, for the thread that runs code to drop."""
        self._cached[workflow_id] = cached
        evicted = []
        while len(self._cached) > self._most:
            _, oldest = self._cached.popitem(last=False)
            evicted.append(oldest.instance)
        return evicted

    def clear(self) -> list[Instance]:
        """All instances, for dropping."""
        left = [cached.instance for cached in self._cached.values()]
        self._cached.clear()
        return left

    def effects_stored(self, workflow_id: str, seq: int) -> None:
        """This process has performed all effects of the record at `seq`."""
        self._effects[workflow_id] = seq
        self._effects.move_to_end(workflow_id)
        if len(self._effects) > EFFECTS_KNOWN:
            self._effects.popitem(last=False)

    def are_effects_stored(self, workflow_id: str, seq: int) -> bool:
        """Whether it is known that nothing of the record's effects is missing."""
        return self._effects.get(workflow_id) == seq
