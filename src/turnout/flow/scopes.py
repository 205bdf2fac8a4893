"""Names for what a task does: paths of tasks, ordinals of commands, and hashes that are the same in each replay."""

from __future__ import annotations

import zlib

SIBLING_BITS = 20
FAMILY_MASK = (1 << 40) - 1
FAMILY_FACTOR = 0x9E3779B97F4A7C15


class Scope:
    """The identity of one task: where it stands in the tree of tasks, and how many commands it has given.

    The path of the main task is ``0``, its third child is ``0.2``, the fifth child of that ``0.2.4``. Such a name does
    not depend on what tasks of other branches do, so code that is independent may be moved.
    """

    __slots__ = ("_children", "_ordinals", "_parent", "_part", "family")

    def __init__(self, part: str | int, parent: Scope | None = None) -> None:
        self._part = part
        self._parent = parent
        self._children = 0
        self._ordinals = 0
        self.family: int = (
            zlib.crc32(str(part).encode())
            if parent is None
            else (parent.family * FAMILY_FACTOR >> 24 & FAMILY_MASK) << SIBLING_BITS ^ int(part)
        )
        """The hash of the task. Siblings have consecutive ones: a set of them mostly has the order of their birth."""

    @property
    def path(self) -> str:
        """The parts from the root down, with dots between them."""
        parts = []
        scope: Scope | None = self
        while scope is not None:
            parts.append(str(scope._part))
            scope = scope._parent
        return ".".join(reversed(parts))

    def child(self) -> Scope:
        """The scope of the next task that this one creates."""
        index = self._children
        self._children = index + 1
        return Scope(index, self)

    def next_ordinal(self) -> int:
        """The number of the next command of this task, from 0. A timer is a command too."""
        ordinal = self._ordinals
        self._ordinals = ordinal + 1
        return ordinal

    def __repr__(self) -> str:
        return f"<Scope {self.path}>"
