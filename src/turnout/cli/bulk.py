"""`turnout job count`, and acting on all jobs or workflows that match: counted and asked about first."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import attrs
import click

from turnout.cli import exits, output, session
from turnout.cli.exits import BadInput
from turnout.cli.session import Session
from turnout.client.bulk import CANCELLABLE, DELETABLE
from turnout.client.client import Client
from turnout.client.unbegun import UNBEGUN
from turnout.client.workflows.methods import OPEN
from turnout.core.record import RETRYABLE

_DONE = {"cancel": "cancelled", "retry": "retried", "delete": "deleted", "terminate": "terminated"}

Method = Callable[..., Awaitable[int]]


@attrs.frozen
class Kind:
    """What is acted on: how it is called, in which states by which verb, and the client's methods for it."""

    name: str
    states: Mapping[str, frozenset[str]]
    count: Callable[[Client], Callable[..., Awaitable[Mapping[Any, int]]]]
    methods: Callable[[Client], Mapping[str, Method]]

    def several(self, number: int) -> str:
        """So many of them."""
        return output.several(number, self.name)


JOBS = Kind(
    "job",
    {"cancel": CANCELLABLE, "retry": RETRYABLE, "delete": DELETABLE},
    lambda client: client.count,
    lambda client: {"cancel": client.cancel_jobs, "retry": client.retry_jobs, "delete": client.delete_jobs},
)
UNBEGUN_JOBS = Kind(
    "job",
    {"delete": UNBEGUN},
    lambda client: client.count,
    lambda client: {"delete": partial(client.delete_jobs, unbegun=True)},
)
WORKFLOWS = Kind(
    "workflow",
    {"cancel": OPEN, "terminate": OPEN},
    lambda client: client.count_workflows,
    lambda client: {"cancel": client.cancel_workflows, "terminate": client.terminate_workflows},
)


async def count(s: Session, filters: Mapping[str, Any]) -> int:
    """How many jobs are in each state."""
    counts = await s.client.count(**filters)
    rows = [(state.value, str(number)) for state, number in counts.items() if number]
    total = sum(counts.values())
    s.show(counts, lambda: output.table(["state", "jobs"], [*rows, ("all", str(total))]))
    return 0


def act(
    verb: str, filters: Mapping[str, Any], *, yes: bool, more: Mapping[str, Any] | None = None, kind: Kind = JOBS
) -> int:
    """Cancel, retry, delete or terminate what matches; `more` are the verb's own options.

    On a terminal the number is told and asked about first; elsewhere nothing is done without `yes`.
    """
    if not yes and not is_asked():
        raise click.UsageError(f"nobody is there to ask how many are meant: add --yes to {verb} all that match")
    wanted = _states(kind, verb, filters.get("state"))

    async def work(s: Session) -> int:
        if not yes:
            number = sum((await kind.count(s.client)(**{**filters, "state": wanted})).values())
            if not confirmed(verb, number, kind):
                return exits.FAILED
        done = await kind.methods(s.client)[verb](**{**filters, "state": wanted}, **(more or {}))
        s.show({_DONE[verb]: done}, lambda: [f"{kind.several(done)} {_DONE[verb]}"])
        return 0

    return session.run(work)


def is_asked() -> bool:
    """Whether somebody sits there who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirmed(verb: str, number: int, kind: Kind = JOBS) -> bool:
    """Whether somebody says yes to so many; of none nobody is asked."""
    if number == 0:
        output.note(f"no {kind.name} matches")
    elif not click.confirm(f"{verb} {kind.several(number)}?", err=True):
        output.note("nothing was done")
        return False
    return True


def _states(kind: Kind, verb: str, asked: tuple[str, ...] | None) -> list[str]:
    """The states of those that are acted on. BadInput where those that are asked for can't be."""
    possible = kind.states[verb]
    wanted = possible if asked is None else possible & set(asked)
    if not wanted:
        raise BadInput(f"--state: {verb} takes {kind.name}s that are {', '.join(sorted(possible))}")
    return sorted(wanted)
