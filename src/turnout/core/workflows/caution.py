"""Whether code may be loaded for a task that may be about to kill its process, as others before it (W7).

Pure. A count of hand-overs alone proves nothing: they are counted for what is given back, too. So what has come back
often is tried under a record that names the node, and a node that has died over it is counted.
"""

from __future__ import annotations

import enum
from collections.abc import Collection

from turnout.core.evolve import evolve
from turnout.core.failure import ErrorInfo
from turnout.core.struct import struct
from turnout.core.workflows.standing import Standing
from turnout.core.workflows.task import Author, bare_record
from turnout.core.workflows.values import Failure, Record, RecordKind

POISON = "killed_its_process"
"""The reason of a workflow that is stuck since every process that ran its code has died."""

RESUME = "resume"
"""What a `start` says by which a person asks for another try."""

HANDED = 3
"""From how many hand-overs of one input on it is tried with caution."""

DEATHS = 3
"""How many nodes may die over one task."""

TRYING_S = 60.0
"""For how long a node that lives is left alone with what it tries."""


class Caution(enum.Enum):
    """What is to be done with a task before any code is loaded."""

    free = "free"
    """Nothing speaks against it."""
    declare = "declare"
    """A record has to say first which node tries."""
    elsewhere = "elsewhere"
    """Another node is trying."""
    poison = "poison"
    """Node after node has died over it: it is stuck."""
    not_here = "not_here"
    """Another build's worker has it, or nobody of that build lives."""
    leave = "leave"
    """It is stuck for that, and neither the code nor a person's word is new."""


@struct(kw_only=True)
class Handed:
    """Who was handed the input how often, and when. `resumed`: a person has just asked for another try."""

    node: str
    build: str
    number: int
    resumed: bool
    now: float
    ack_wait_s: float


def caution(standing: Standing, handed: Handed, living: Collection[str]) -> Caution:
    """Whether the code may be loaded; `living` are the nodes that are alive."""
    newest = standing.newest
    if newest.kind is RecordKind.stuck:
        if newest.reason != POISON:
            return Caution.free
        return Caution.declare if handed.resumed or newest.build != handed.build else Caution.leave
    if newest.kind is RecordKind.trying:
        if newest.node == handed.node:
            return Caution.free
        if len([node for node in standing.tried_by if node not in living]) >= DEATHS:
            return Caution.poison
        if newest.node in living and handed.now - newest.at < TRYING_S:
            return Caution.elsewhere
        return Caution.declare
    often = handed.number >= HANDED and handed.now - newest.at > 2 * handed.ack_wait_s
    return Caution.declare if often else Caution.free


def trying_record(standing: Standing, author: Author, at: float) -> Record:
    """The record that says which node is about to try. Listings go on to show the state before it."""
    before = standing.newest
    record = evolve(bare_record(standing, author, at), kind=RecordKind.trying)
    return evolve(record, failure=before.failure, reason=before.reason) if standing.stuck else record


def poison_failure(standing: Standing) -> Failure:
    """What a workflow is stuck with that has killed node after node."""
    nodes = ", ".join(standing.tried_by[-DEATHS:])
    message = f"the processes of {DEATHS} workers ended while they ran its code: {nodes}"
    return Failure(ErrorInfo("ProcessKilled", message), (), POISON)
