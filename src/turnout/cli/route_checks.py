"""What `turnout doctor` says of jobs that require properties which no node has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from turnout.cli import pasting
from turnout.cli.checks import Check
from turnout.core.catalog import NodeInfo
from turnout.core.routing import spelled
from turnout.store.consumers import route_of


def route_checks(consumers: Iterable[Mapping[str, Any]], nodes: Sequence[NodeInfo]) -> Iterator[Check]:
    """By what the server says of the consumers of the work stream."""
    for info in consumers:
        route, count = route_of(info["config"]), info.get("num_pending", 0) + info.get("num_ack_pending", 0)
        if route is not None and count and not any(node.takes(route.activity, route.requires) for node in nodes):
            wait = "1 job of {} waits" if count == 1 else f"{count} jobs of {{}} wait"
            found = f"{wait.format(route.activity)} for a node with {spelled(route.requires)}, and no node has it"
            yield Check("queues", "wrong", found, f"start a worker that has it: {worker_with(route.requires)}")


def worker_with(requires: Mapping[str, str]) -> str:
    """The command that starts a worker with these properties."""
    given = " ".join(f"--property {name}={value}" for name, value in sorted(requires.items()))
    return pasting.command(f"worker MODULE {given}")
