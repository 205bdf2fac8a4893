"""Forking: a new workflow that goes on from any event of another one, or from where that has failed (W16)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from turnout import wire
from turnout.client.submitter import new_id
from turnout.client.workflows.reader import WorkflowReader, refuse_another
from turnout.core.spec import valid_name
from turnout.core.workflows.fork import Forking, failed_at, forked
from turnout.core.workflows.task import Starting
from turnout.core.workflows.values import Command, Record, WorkflowState
from turnout.errors import InvalidState
from turnout.store.commit import Committer
from turnout.store.ends import Ends
from turnout.store.forks import Forks
from turnout.store.histories import is_deleted
from turnout.store.perform import Store
from turnout.store.starts import IdTaken
from turnout.telemetry import spans, workflow_metrics


@attrs.frozen
class Forked:
    """A fork that is there: its id, and its life."""

    id: str
    life: str


class Forker:
    """Forks workflows for a client. Errors: InvalidValue, `IdTaken`, WorkflowNotFound and those of the connection."""

    def __init__(self, store: Store, reader: WorkflowReader) -> None:
        self._store = store
        self._reader = reader
        self._forks = Forks(store)
        self._ends = Ends(store, Committer(store).commit)

    async def fork(self, workflow_id: str, life: str | None, at: int, fork_id: str | None) -> Forked:
        """A new workflow that shares the events before number `at` of the newest run."""
        return await self._fork(workflow_id, life, fork_id, lambda records: at)

    async def retry(self, workflow_id: str, life: str | None, fork_id: str | None) -> Forked:
        """A new workflow that goes on from where this one faulted. InvalidState for one that did not."""
        return await self._fork(workflow_id, life, fork_id, _failure)

    async def _fork(
        self, workflow_id: str, life: str | None, fork_id: str | None, cut: Callable[[Sequence[Record]], int]
    ) -> Forked:
        if fork_id is not None:
            valid_name(fork_id, "id")
            await self._check_free(fork_id)
        newest = await self._reader.newest(workflow_id)
        refuse_another(workflow_id, newest.record.life, life)
        records = [stored.record for stored in await self._store.histories.read(workflow_id, newest)]
        now, chance = self._store.connection.now(), self._store.chance
        forking = Forking(id=fork_id or new_id(), life=chance.nonce(), at=now)
        start, past = forked(records, cut(records), forking)
        if any(_joins(command) for command in past.commands):
            await self._ends.make_sure(newest)  # what is not there yet is to be its child, and not the fork's
        name = newest.record.name
        workflow_metrics.started_by(name)
        with spans.starting(name, forking.id, self._store.names.bare_start(name)) as headers:
            start = attrs.evolve(start, headers=headers, trace_id=wire.trace_id_of(headers, name, forking.id))
            starting = Starting(id=forking.id, name=name, life=forking.life, nonce=chance.nonce(), start=start)
            await self._forks.start(starting, past)
        return Forked(forking.id, forking.life)

    async def _check_free(self, fork_id: str) -> None:
        existing = await self._store.histories.newest(fork_id)
        if existing is not None and not is_deleted(existing):
            raise IdTaken(existing)


def _joins(command: Command) -> bool:
    """Whether a fork that asks for this child anew joins the one that is there."""
    return command.child is not None and command.child.if_exists == "join"


def _failure(records: Sequence[Record]) -> int:
    newest = records[-1]
    if newest.state is not WorkflowState.faulted:
        raise InvalidState(
            f"workflow {newest.id} is {newest.state}: only a faulted one goes on from where it failed; fork() goes on "
            f"from any event"
        )
    return failed_at(records)
