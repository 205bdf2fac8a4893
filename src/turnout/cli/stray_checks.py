"""What `turnout doctor` says of messages whose subject names no activity or workflow: nobody will ever take them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from turnout.cli import output, pasting
from turnout.cli.checks import Check
from turnout.store.names import Names


def stray_jobs(ns: str, work: str, stray: Mapping[str, int]) -> Iterator[Check]:
    """`stray` are the subjects below those of the jobs that name none, and how many messages each has."""
    if stray:
        usual = f"{ns}.jobs.ACTIVITY or {ns}.jobs.ACTIVITY.ID"
        yield Check("queues", "wrong", _found(stray, "activity"), _remedy(work, next(iter(stray)), usual))


def stray_starts(names: Names, stray: Mapping[str, int]) -> Iterator[Check]:
    """The same of bare starts of what no workflow can be called."""
    if stray:
        remedy = _remedy(names.inbox, next(iter(stray)), names.bare_start("WORKFLOW"))
        yield Check("workflows", "wrong", _found(stray, "workflow"), remedy)


def _found(stray: Mapping[str, int], what: str) -> str:
    count = sum(stray.values())
    messages = "1 message lies" if count == 1 else f"{count} messages lie"
    return f"{messages} where no {what} can be named, and nobody will take what is there: {output.listed(list(stray))}"


def _remedy(stream: str, subject: str, usual: str) -> str:
    """What is no UTF-8 in a subject reaches us as a mark that names nothing: it can only be shown."""
    command = (
        f"stream view {stream}" if "\ufffd" in subject else f"stream purge {stream} --subject={shlex.quote(subject)}"
    )
    return f"publish it on {usual}, each name of A-Z a-z 0-9 _ -, then remove it: {pasting.nats(command)}"
