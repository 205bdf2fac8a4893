"""Tries to change values that are frozen to the type checkers, and quick to make at run time."""

from __future__ import annotations

from turnout.core.effects import Ack
from turnout.core.record import JobRecord, JobState, MessageRef, Token
from turnout.core.spec import JobSpec

token = Token("a", 1, 1, "b")
token.attempt = 2  # wrong
record = JobRecord(JobSpec("a", "add"), JobState.queued)
record.state = JobState.running  # wrong
effect = Ack(MessageRef(1, 2))
effect.message = MessageRef(2, 3)  # wrong
Token("a", 1, "1", "b")  # wrong
