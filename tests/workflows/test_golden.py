"""Histories that earlier versions have written are replayed by this one, for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.golden_flows import WORKFLOWS, double
from tests.workflows.make_golden import GOLDEN
from turnout import History, NonDeterminism, current_workflow, workflow
from turnout.testing import replay

FILES = sorted(GOLDEN.glob("*/*.jsonl"))
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")


@each_file
async def test_a_golden_history_is_replayed(file: Path) -> None:
    """The code of a golden history asks today for what it asked for then; nothing of the file is lost in reading."""
    text = file.read_text()
    history = History.from_jsonl(text)
    assert history.to_jsonl() == text
    await replay(history, workflows=WORKFLOWS)


def test_golden_histories_have_all_that_a_history_can_hold() -> None:
    """Between them the histories of each version hold every kind of event that one can make."""
    for version in GOLDEN.iterdir():
        kinds = {event.kind for file in version.iterdir() for event in History.from_jsonl(file.read_text())}
        assert kinds >= {
            *("started", "begin", "signal", "update", "cancel", "done", "started", "timer", "continued"),
            *("ask_activity", "ask_timer", "ask_child", "ask_local", "tried"),
            *("update_accepted", "update_rejected", "update_failed", "update_completed"),
            *("completed", "faulted", "cancelled", "terminated"),
        }
        assert any(record.patches for record in History.from_jsonl((version / "patches.jsonl").read_text()).records)


async def test_a_golden_history_tells_other_code() -> None:
    """Code that asks for something else is refused, so these tests could fail."""

    @workflow
    async def patches(number: int) -> int:
        return await double(current_workflow().run + number)

    history = History.from_jsonl((GOLDEN / "0.1" / "patches.jsonl").read_text())
    with pytest.raises(NonDeterminism, match=r"(?s)- .* activity increment"):
        await replay(history, workflows=[patches])
