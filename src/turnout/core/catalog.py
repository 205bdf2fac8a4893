"""What nodes and activities say of themselves in the registry's other two buckets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from turnout.core.plain import Plain
from turnout.core.routing import fits


@attrs.frozen(kw_only=True)
class NodeInfo(Plain):
    """A worker process, as it last described itself. `id` is its name and a part that is new in every process.

    `activities` and `workflows` are the names that it works on, `build` is that of its workflows' code, and `pins` says
    whether their runs stay with it. `slots` is how many jobs it runs at most, `running` how many it does, and
    `waiting` of how many of those the code waits for other jobs. `properties` are what jobs may require of a node.
    `refused` says what work it can't take since its credentials don't allow it to ask for that, if so. `ttl` is the
    seconds after which a silent node counts as dead; `seen_at` is filled in by the reader.
    """

    id: str
    name: str
    host: str = ""
    pid: int = 0
    version: str = ""
    activities: tuple[str, ...] = ()
    workflows: tuple[str, ...] = ()
    slots: int = 0
    running: int = 0
    waiting: int = 0
    draining: bool = False
    started_at: float = 0.0
    ttl: float = 10.0
    build: str = ""
    pins: bool = False
    refused: str = ""
    seen_at: float = 0.0
    properties: dict[str, str] = attrs.field(factory=dict)

    def takes(self, activity: str, requires: Mapping[str, str]) -> bool:
        """Whether it begins jobs of this activity that require so much of a node. Of one that is of a later version
        nobody here knows."""
        if not self.version:
            return True
        return activity in self.activities and not self.draining and fits(self.properties, requires)


@attrs.frozen(kw_only=True)
class ActivityInfo(Plain):
    """An activity's contract: what its payload and result look like, and how its jobs are treated.

    Filled in by the reader: `nodes`, how many living nodes work on it; `paused`, whether none of its jobs is handed out
    now, and the `note` that was given for that.
    """

    name: str
    doc: str = ""
    payload_schema: dict[str, Any] = attrs.field(factory=dict)
    result_schema: dict[str, Any] = attrs.field(factory=dict)
    options: dict[str, Any] = attrs.field(factory=dict)
    nodes: int = 0
    paused: bool = False
    note: str = ""
