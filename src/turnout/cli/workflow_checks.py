"""What `turnout doctor` says of workflows: which are stuck, and which wait for a worker that nobody runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence

from turnout.cli import pasting
from turnout.cli.checks import Check
from turnout.cli.stray_checks import stray_starts
from turnout.core.catalog import NodeInfo
from turnout.core.spec import is_name
from turnout.core.workflows.values import WorkflowState
from turnout.nats.stream import Stream
from turnout.store.perform import Store

SHOWN = 5
"""How many stuck ones of a name are named."""


async def workflow_checks(store: Store, nodes: Sequence[NodeInfo]) -> AsyncIterator[Check]:
    """Errors are those of the connection."""
    opened: Counter[str] = Counter()
    stuck: dict[str, list[str]] = {}
    pinned: dict[tuple[str, str], list[str]] = {}
    try:
        async for workflow_id, entry in store.histories.entries():
            if entry.state.final:
                continue
            opened[entry.name] += 1
            if entry.summary.pin:
                pinned.setdefault((entry.name, entry.summary.pin), []).append(workflow_id)
            if entry.state is WorkflowState.stuck:
                stuck.setdefault(entry.name, []).append(workflow_id)
    except TimeoutError:
        yield Check("workflows", "wrong", "they could not be listed in time", "is the server busy? try again")
        return
    for name, ids in sorted(stuck.items()):
        listed = ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
        found = f"{_workflows(len(ids))} of {name} stuck: {listed}"
        remedy = f"{pasting.command(f'workflow show {ids[0]}')} says why; a worker with repaired code goes on"
        yield Check("workflows", "wrong", found, remedy)
    builds = {(name, node.build) for node in nodes for name in node.workflows}
    orphans = {key: ids for key, ids in pinned.items() if key not in builds}
    for (name, build), ids in sorted(orphans.items()):
        found = f"{_workflows(len(ids))} of {name} pinned to build {build}, and no node has it: {ids[0]}"
        remedy = (
            f"start a worker of that build (--build {build} --pin), or {pasting.command(f'workflow resume {ids[0]}')} "
            f"lets another go on, whose code has to fit"
        )
        yield Check("workflows", "wrong", found, remedy)
    bare, strays = await _bare_starts(store)
    for check in stray_starts(store.names, strays):
        yield check
    served = {name for node in nodes for name in node.workflows}
    waiting = {name: opened[name] + bare[name] for name in opened.keys() | bare.keys() if name not in served}
    for name, count in sorted(waiting.items()):
        found = f"{_workflows(count)} of {name} not ended, and no node works on it"
        yield Check("workflows", "wrong", found, f"start a worker for it: {pasting.command('worker MODULE')}")
    if not (stuck or waiting or orphans or strays):
        yield Check("workflows", "ok", f"{_workflows(opened.total())} open, none stuck")


async def _bare_starts(store: Store) -> tuple[Counter[str], Counter[str]]:
    """How many starts by `nats pub` nobody has taken yet, by name; and those that name no workflow, by subject."""
    prefix, stream = store.names.bare_start(""), Stream(store.connection, store.names.inbox)
    named, stray = Counter[str](), Counter[str]()
    for pattern in ("*", "*.*"):  # an input of a workflow has a token more
        async for subject, count in stream.subjects(prefix + pattern):
            name = subject.removeprefix(prefix)
            if is_name(name):
                named[name] += count
            else:
                stray[subject] += count
    return named, stray


def _workflows(count: int) -> str:
    return "1 workflow" if count == 1 else f"{count} workflows"
