"""Every run that ends is led through its history again: code that would not do the same again is found here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from turnout.core.workflows.standing import BrokenHistory, stand
from turnout.core.workflows.values import Record, RecordKind
from turnout.definition.workflow import Workflow
from turnout.errors import WorkflowNotFound
from turnout.node import UserViews
from turnout.worker.workflows.bodies import Bodies
from turnout.worker.workflows.code import CodeThread
from turnout.worker.workflows.ends import CodeBroke
from turnout.worker.workflows.instance import Instance
from turnout.worker.workflows.replay import replay as replay_run


def runs_of(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each run: what ends one and begins the next stands in both. BrokenHistory without a begin."""
    first = next((record for record in records if record.kind is not RecordKind.deleted), None)
    if first is not None and not first.begins_run:
        raise BrokenHistory(f"the history of {first.id} does not begin with the begin of a run")
    runs: list[list[Record]] = []
    for record in records:
        if runs and record.begins_run:
            runs[-1].append(record)
        if record.begins_run:
            runs.append([record])
        elif runs:
            runs[-1].append(record)
    return runs


def replay_records(workflow: Workflow[..., Any], records: Sequence[Record]) -> None:
    """Lead the code through these records, their bodies at hand. NonDeterminism, or what the code raises.

    For the thread of workflow code.
    """
    for run in runs_of(records):
        own = run[:-1] if len(run) > 1 and run[-1].begins_run else run
        standing = stand([(record, record.number + 1) for record in own])
        try:
            instance: Instance = replay_run(workflow, run, standing, UserViews())
        except CodeBroke as broke:
            raise (broke.__cause__ or broke) from None
        instance.drop()


async def replay_all(
    records: Sequence[Record], workflows: Mapping[str, Workflow[..., Any]], code: CodeThread, bodies: Bodies | None
) -> None:
    """Replay one history. WorkflowNotFound where none of the workflows has its name."""
    name = records[0].name
    workflow = workflows.get(name)
    if workflow is None:
        known = ", ".join(sorted(workflows)) or "none"
        raise WorkflowNotFound(f"the history is of workflow {name}, which is not among those to replay: {known}")
    whole = records if bodies is None else [await bodies.of_record(record) for record in records]
    await code.run(lambda: replay_records(workflow, whole))
