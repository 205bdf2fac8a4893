"""What nodes and activities say of themselves in the registry's other two buckets."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class NodeInfo:
    """A worker process, as it last described itself. `id` is its name and a part that is new in every process.

    `slots` is how many jobs it runs at most, `running` how many it does. `ttl` is the seconds after which a silent
    node counts as dead; `seen_at` is filled in by the reader.
    """

    id: str
    name: str
    host: str = ""
    pid: int = 0
    version: str = ""
    activities: tuple[str, ...] = ()
    slots: int = 0
    running: int = 0
    draining: bool = False
    started_at: float = 0.0
    ttl: float = 10.0
    seen_at: float = 0.0


@attrs.frozen(kw_only=True)
class ActivityInfo:
    """An activity's contract: what its payload and result look like, and how its jobs are treated.

    `nodes` is filled in by the reader: how many living nodes work on it.
    """

    name: str
    doc: str = ""
    payload_schema: dict[str, Any] = attrs.field(factory=dict)
    result_schema: dict[str, Any] = attrs.field(factory=dict)
    options: dict[str, Any] = attrs.field(factory=dict)
    nodes: int = 0
