"""What `turnout doctor` says of workflows: which are stuck, and which wait for a worker that nobody runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import attrs

from turnout.cli import output, pasting
from turnout.cli.checks import Check
from turnout.cli.stray_checks import stray_starts
from turnout.core.catalog import NodeInfo
from turnout.core.spec import is_name
from turnout.core.workflows.values import WorkflowState
from turnout.nats.stream import Stream
from turnout.store.perform import Store


@attrs.frozen
class _Open:
    """The workflows that have not ended: how many of each name, and which are stuck or pinned to a build."""

    count: Counter[str] = attrs.field(factory=Counter)
    stuck: dict[str, list[str]] = attrs.field(factory=dict)
    """Ids by name."""
    pinned: dict[tuple[str, str], list[str]] = attrs.field(factory=dict)
    """Ids by name and build."""


async def workflow_checks(store: Store, nodes: Sequence[NodeInfo]) -> AsyncIterator[Check]:
    """Errors are those of the connection."""
    try:
        opened = await _opened(store)
    except TimeoutError:
        yield Check("workflows", "wrong", "they could not be listed in time", "is the server busy? try again")
        return
    halted = [*_stuck(opened.stuck), *_orphans(opened.pinned, nodes)]
    for check in halted:
        yield check
    bare, strays = await _bare_starts(store)
    not_taken = [*stray_starts(store.names, strays), *_unserved(opened.count + bare, nodes)]
    for check in not_taken:
        yield check
    if not (halted or not_taken):
        yield Check("workflows", "ok", f"{_workflows(opened.count.total())} open, none stuck")


async def _opened(store: Store) -> _Open:
    """TimeoutError when listing them takes too long."""
    opened = _Open()
    async for workflow_id, entry in store.histories.entries():
        if entry.state.final:
            continue
        opened.count[entry.name] += 1
        if entry.summary.pin:
            opened.pinned.setdefault((entry.name, entry.summary.pin), []).append(workflow_id)
        if entry.state is WorkflowState.stuck:
            opened.stuck.setdefault(entry.name, []).append(workflow_id)
    return opened


def _stuck(stuck: Mapping[str, Sequence[str]]) -> Iterator[Check]:
    for name, ids in sorted(stuck.items()):
        found = f"{_workflows(len(ids))} of {name} stuck: {output.listed(ids)}"
        remedy = f"{pasting.command(f'workflow show {ids[0]}')} says why; a worker with repaired code goes on"
        yield Check("workflows", "wrong", found, remedy)


def _orphans(pinned: Mapping[tuple[str, str], Sequence[str]], nodes: Sequence[NodeInfo]) -> Iterator[Check]:
    """Those that are pinned to a build of which no node lives."""
    builds = {(name, node.build) for node in nodes for name in node.workflows}
    for (name, build), ids in sorted(pinned.items()):
        if (name, build) not in builds:
            found = f"{_workflows(len(ids))} of {name} pinned to build {build}, and no node has it: {ids[0]}"
            remedy = (
                f"start a worker of that build (--build {build} --pin), or "
                f"{pasting.command(f'workflow resume {ids[0]}')} lets another go on, whose code has to fit"
            )
            yield Check("workflows", "wrong", found, remedy)


def _unserved(opened: Mapping[str, int], nodes: Sequence[NodeInfo]) -> Iterator[Check]:
    """Those that no node works on."""
    served = {name for node in nodes for name in node.workflows}
    for name, count in sorted(opened.items()):
        if name not in served:
            found = f"{_workflows(count)} of {name} not ended, and no node works on it"
            yield Check("workflows", "wrong", found, f"start a worker for it: {pasting.command('worker MODULE')}")


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
    return output.several(count, "workflow")
