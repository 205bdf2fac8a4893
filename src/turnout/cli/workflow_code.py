"""What `turnout workflow check`, `replay` and `patches` do: does new code fit what runs already?"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import attrs

from turnout.cli import output, session
from turnout.cli.exits import BadInput, ModuleUnusable
from turnout.cli.loading import definitions_of
from turnout.cli.session import Session
from turnout.cli.workflow_lint import check as find_faults
from turnout.client.workflows.history import History
from turnout.client.workflows.methods import OPEN
from turnout.core.plain import Plain
from turnout.core.workflows.standing import BrokenHistory
from turnout.definition.workflow import Workflow
from turnout.errors import NonDeterminism, UnreadableRecord, WorkflowNotFound


@attrs.frozen(kw_only=True)
class Replayed(Plain):
    """One history that was replayed. `difference` is empty where the code still does what it did."""

    id: str
    name: str
    difference: str = ""


def workflows_of(target: str) -> list[Workflow[..., Any]]:
    """The workflows of a module; ModuleUnusable when it has none."""
    found = definitions_of(target).workflows
    if not found:
        raise ModuleUnusable(f"{target} has no workflows: decorate an async function or a class of it with @workflow")
    return found


def check(target: str) -> int:
    """Look for what workflow code must not do; 1 when something is found."""
    workflows = workflows_of(target)
    found = find_faults(workflows)
    session.show(found, lambda: [each.shown for each in found], as_json=session.as_json())
    if not found:
        output.note(f"{len(workflows)} workflows: nothing found that would not be the same again")
    return 1 if found else 0


def replay_file(target: str, file: str) -> int:
    """Replay the history in a file (`-`: stdin)."""
    workflows = workflows_of(target)
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} can't be read: {error}") from error
    try:
        history = History.from_jsonl(text)
        if not history.records:
            raise BadInput(f"{file} has no history: `turnout workflow history ID -o jsonl` writes one")
        return _report([asyncio.run(_replayed(history, workflows))])
    except (UnreadableRecord, BrokenHistory) as error:
        raise BadInput(f"{file} holds no whole history: {error}") from error


async def replay_id(s: Session, target: str, workflow_id: str) -> int:
    return _report([await _replayed(await s.client.workflow(workflow_id).history(), workflows_of(target))])


async def replay_open(s: Session, target: str) -> int:
    """Replay the histories of all workflows that have not ended and whose code is in the module."""
    workflows = workflows_of(target)
    names = {each.name for each in workflows}
    results = []
    async with aclosing(s.client.workflows(state=OPEN)) as found:
        async for info in found:
            if info.name in names:
                try:
                    history = await s.client.workflow(info.id).history()
                except WorkflowNotFound:
                    continue  # it has ended and gone meanwhile
                results.append(await _replayed(history, workflows))
    return _report(results)


async def _replayed(history: History, workflows: Sequence[Workflow[..., Any]]) -> Replayed:
    from turnout.testing.workflows.replaying import replay

    record = history.records[0]
    try:
        await replay(history, workflows=workflows)
    except (WorkflowNotFound, BrokenHistory):
        raise
    except NonDeterminism as error:
        return Replayed(id=record.id, name=record.name, difference=str(error))
    except Exception as error:  # user code: whatever it raises is what is wrong with it
        text = f"the code raises {type(error).__name__}: {error}"
        return Replayed(id=record.id, name=record.name, difference=text)
    return Replayed(id=record.id, name=record.name)


def _report(results: Sequence[Replayed]) -> int:
    session.show(results, lambda: [_line(each) for each in results], as_json=session.as_json())
    wrong = sum(1 for each in results if each.difference)
    output.note(f"{len(results)} replayed, {wrong} would not go on with this code")
    return 1 if wrong else 0


def _line(result: Replayed) -> str:
    return f"{result.id}  {result.name}  " + (output.clean(result.difference) if result.difference else "fits")


@attrs.frozen(kw_only=True)
class Patch(Plain):
    """A patch that open workflows have asked for: how many of that name go its new way, and how many have not asked."""

    workflow: str
    patch: str
    new: int
    without: int


async def patches(s: Session) -> int:
    """Which patches the open workflows have: one that all of them have needs its old way no more."""
    count: Counter[str] = Counter()
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    async with aclosing(s.client.workflows(state=OPEN)) as found:
        async for info in found:
            try:
                records = (await s.client.workflow(info.id).history()).records
            except WorkflowNotFound:
                continue  # it has ended and gone meanwhile
            count[info.name] += 1
            asked[info.name].update({patch for record in records for patch in record.patches})
    listed = [
        Patch(workflow=name, patch=patch, new=number, without=count[name] - number)
        for name, of_name in sorted(asked.items())
        for patch, number in sorted(of_name.items())
    ]
    rows = [[each.workflow, each.patch, str(each.new), str(each.without)] for each in listed]
    s.show(listed, lambda: output.table(["workflow", "patch", "new way", "without"], rows))
    return 0
