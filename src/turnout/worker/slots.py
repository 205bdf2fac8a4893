"""Slots: how many jobs a node runs at once, in all and of each activity."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.define
class Slots:
    """Counts what runs, and says how many more to ask for. `limits`: each activity's own, at most the node's.

    The node's free slots are shared out among the activities, at least one each while any is free: an idle node takes a
    job of any activity at once. So it may be handed more than it can run; those wait for a slot for a moment and are
    given back then.
    """

    capacity: int
    limits: Mapping[str, int]
    running: int = 0
    held: int = 0
    running_of: dict[str, int] = attrs.field(factory=dict)
    held_of: dict[str, int] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.limits = {name: min(self.capacity, limit) for name, limit in self.limits.items()}

    def limit(self, activity: str) -> int:
        return self.limits[activity]

    def free(self, activity: str) -> int:
        """How many more jobs of this activity could start now."""
        own = self.limits[activity] - self.running_of.get(activity, 0)
        return max(0, min(own, self.capacity - self.running))

    def wanted(self, activity: str, outstanding: int) -> int:
        """How many more to ask the server for, when `outstanding` have been asked for already."""
        own = self.limits[activity] - self.running_of.get(activity, 0) - self.held_of.get(activity, 0)
        free = self.capacity - self.running - self.held
        if own <= 0 or free <= 0:
            return 0
        return min(own, max(1, free // len(self.limits))) - outstanding

    def take(self, activity: str) -> None:
        self.running += 1
        self.running_of[activity] = self.running_of.get(activity, 0) + 1

    def give(self, activity: str) -> None:
        self.running -= 1
        self.running_of[activity] -= 1

    def hold(self, activity: str, change: int) -> None:
        """One more (+1) or less (-1) that waits for a slot."""
        self.held += change
        self.held_of[activity] = self.held_of.get(activity, 0) + change
