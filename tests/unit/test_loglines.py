"""Lines of a job: what they carry, how long they may be, and what stands for those that were dropped."""

from __future__ import annotations

import pytest

from tests.support.values import job_record
from turnout.core.loglines import LINE_BYTES, Line, cut, fields_of, marker
from turnout.core.record import AttemptRecord, JobState
from turnout.core.spec import Asker, SubmitOptions

LINE = Line(12.5, "INFO", 2, "node-1", "hello")


def test_a_line_carries_the_attempt_that_its_record_tells_of_last() -> None:
    """Without attempts there is no node."""
    queued = job_record("j", "act", JobState.queued)
    running = job_record("j", "act", JobState.running, attempts=(AttemptRecord(1, 1, "node-1", 10.0),), attempt=1)
    assert fields_of(queued)["turnout_node"] == ""
    assert (fields_of(running)["turnout_job"], fields_of(running)["turnout_node"]) == ("j", "node-1")


def test_a_line_of_a_workflows_activity_says_whose_it_is() -> None:
    """By the workflow's id, its name and its run; that of any other job says nothing of one."""
    asked = SubmitOptions(parent=Asker("o-17", "order", "life", 2, "0-0"))
    found = fields_of(job_record("j", "charge", JobState.queued, options=asked))
    workflow = {"turnout_workflow": "o-17", "turnout_workflow_name": "order", "turnout_run": 2}
    assert found == fields_of(job_record("j", "charge", JobState.queued)) | workflow


@pytest.mark.parametrize("text", ["short", "a" * LINE_BYTES, "ä" * (LINE_BYTES // 2), "half \ud800"], ids=len)
def test_what_fits_stays_as_it_is(text: str) -> None:
    """Bytes count, and what is no UTF-8 is spelt out."""
    assert cut(text) == text.replace("\ud800", "\\ud800")


@pytest.mark.parametrize("most", [10, 50, LINE_BYTES])
def test_a_long_text_keeps_both_ends(most: int) -> None:
    """It is never longer than allowed once there is room for a mark, and no character is torn."""
    text = "€" * LINE_BYTES + "end"
    short = cut(text, most)
    assert len(short.encode()) <= max(most, 40)
    assert "bytes) ..." in short
    assert "\ufffd" not in short
    assert most < 40 or short.endswith("end")


def test_dropped_lines_leave_a_mark() -> None:
    """It says how many there were, at the place of the line that follows them."""
    assert marker(7, LINE) == Line(12.5, "WARNING", 2, "node-1", "... 7 lines dropped")
