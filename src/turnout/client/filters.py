"""Which jobs a listing or a count wants, and how much of that can be told from bytes."""

from __future__ import annotations

import re

import attrs

from turnout import fastjson
from turnout.core.values import FINAL, JobRecord, JobState

_PLAIN = re.compile(r"[ !#-\[\]-~]*")
_CLOCKS_S = 60.0
"""By how much the clocks of those who submit and of those who store may differ."""


@attrs.frozen
class Filters:
    """What is asked for; None asks for all."""

    states: frozenset[JobState] | None = None
    activity: str | None = None
    node: str | None = None
    label: tuple[str, str | None] | None = None
    since: float | None = None

    def match(self, record: JobRecord) -> bool:
        return (
            (self.states is None or record.state in self.states)
            and (self.activity is None or record.activity == self.activity)
            and (self.node is None or _on_node(record, self.node))
            and (self.label is None or _has_label(record, self.label))
            and (self.since is None or record.submitted_at >= self.since)
        )

    @property
    def wanted(self) -> frozenset[JobState]:
        """The states that a job which matches can be in: on a node is what runs."""
        states = frozenset(JobState) if self.states is None else self.states
        return states if self.node is None else states & {JobState.running}

    @property
    def ended(self) -> bool:
        """Whether jobs that have ended are wanted: only their records tell of them."""
        return not self.wanted.isdisjoint(FINAL)

    @property
    def needle(self) -> bytes:
        """Bytes that are in every record that matches."""
        if self.label is None:
            return b""
        name, value = self.label
        if not _PLAIN.fullmatch(name + (value or "")):
            return b'"labels":'
        return fastjson.dumps(name) + b":" + (b"" if value is None else fastjson.dumps(value))

    @property
    def oldest_write(self) -> float:
        """Whatever was stored before this instant is of no job that matches: nothing is written before its job is."""
        return 0.0 if self.since is None else self.since - _CLOCKS_S


def _on_node(record: JobRecord, node: str) -> bool:
    """By a node's id or its name, which is the id without the random part."""
    if record.state is not JobState.running or record.token is None:
        return False
    return node in (record.token.node, record.token.node.rpartition("-")[0])


def _has_label(record: JobRecord, label: tuple[str, str | None]) -> bool:
    name, value = label
    return name in record.options.labels and value in (None, record.options.labels[name])
