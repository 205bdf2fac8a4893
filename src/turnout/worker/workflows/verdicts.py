"""What lies in the inbox, and what was handed over of it, as a task sees it (W3)."""

from __future__ import annotations

from collections.abc import Sequence

from turnout.core.workflows.standing import Standing, Verdict, judge
from turnout.core.workflows.values import Input, InputKind, Record
from turnout.store.inbox import Lying, Wakeup


def ends_locals(record: Record) -> bool:
    """Whether this record has the end of a local activity, which never lay in the inbox."""
    return any(each.kind is InputKind.done and not each.seq for each in record.inputs)


def ends_uncovered(record: Record) -> bool:
    """Whether the run has ended in a task that need not cover the input that has woken it: its first one, or one that
    takes only what a fork has brought."""
    if not record.ends_run or not record.inputs:
        return False
    return record.upto == record.behind or any(each.kind is InputKind.begin for each in record.inputs)


def is_plain_news(standing: Standing, lying: Sequence[Lying], handed: set[int]) -> bool:
    """Whether all that was handed over is there and to be taken, as far as this (maybe stale) standing tells."""
    verdicts = {each.given.seq: judge(standing, each.given, each.name) for each in lying}
    return all(verdicts.get(seq) is Verdict.take for seq in handed)


def void_among(standing: Standing, wakeups: Sequence[Wakeup]) -> set[int]:
    """The sequences of what means nothing to this workflow."""
    return {
        wakeup.seq
        for wakeup in wakeups
        if wakeup.given is None or judge(standing, wakeup.given, wakeup.name) is Verdict.void
    }


def ends_at_once(standing: Standing, lying: Sequence[Lying]) -> Input | None:
    """The input that ends the workflow whatever lies before it, if there is one (W8)."""
    for each in lying:
        if judge(standing, each.given, each.name) is Verdict.end:
            return each.given
    return None
