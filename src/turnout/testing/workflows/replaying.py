"""Replaying recorded histories with the code of today: does it still do what it did?"""

from __future__ import annotations

from collections.abc import Iterable

from turnout.client.workflows.history import History
from turnout.errors import InvalidValue
from turnout.testing.workflows.verifier import replay_all
from turnout.worker.workflows.code import CodeThread
from turnout.worker.workflows.runner import workflows_by_name


async def replay(history: History | str, *, workflows: Iterable[object]) -> None:
    """Lead the code of its workflow through a history (or the text of one, JSON lines): nothing else is run.

        history = await handle.history()
        await turnout.testing.replay(history, workflows=[order])

    NonDeterminism, with both sides, where the code asks for something else than it did; what the code itself raises;
    WorkflowNotFound when the history's workflow is not among `workflows`; InvalidValue for a history without records.
    """
    found = History.from_jsonl(history) if isinstance(history, str) else history
    if not found.records:
        raise InvalidValue("the history has no records: take that of handle.history(), or read what to_jsonl() wrote")
    code = CodeThread()
    try:
        await replay_all(found.records, workflows_by_name(workflows), code, None)
    finally:
        await code.close()
