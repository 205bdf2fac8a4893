"""What must hold of forks: what they begin with, what they run, and whom they leave alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from tests.sim.invariants import Violation
from turnout.core.spec import Asker
from turnout.core.workflows.standing import await_end, forks, settle
from turnout.core.workflows.values import Command, Input, Record


@attrs.define
class Run:
    """What a run has taken and asked for, as far as records tell; of a fork also what it shares."""

    inputs: list[Input] = attrs.field(factory=list)
    commands: list[Command] = attrs.field(factory=list)


@attrs.frozen
class Shared:
    """What a fork shares: the commands, and those of them that had no end."""

    run: int
    commands: frozenset[str]
    pending: frozenset[str]


class Forks:
    """Watches the forks of one history."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, int], Run] = {}
        """By life and number."""
        self._ids: dict[str, str] = {}
        """Of which workflow a life is."""
        self._shared: dict[str, Shared] = {}
        """By the life of the fork."""

    def clear(self) -> None:
        """Forget all."""
        self._runs.clear()
        self._ids.clear()
        self._shared.clear()

    def appended(self, record: Record) -> None:
        """A record was stored."""
        if forks(record):
            self._begins_with_what_it_shares(record)
        self._ids[record.life] = record.id
        self._runs.setdefault((record.life, record.run), Run())
        run = self._runs.setdefault((record.life, record.done_run), Run())
        run.inputs += record.inputs
        run.commands += record.commands
        if record.state.final and record.life in self._shared:
            self._leaves_alone_who_was_forked(record)

    def _begins_with_what_it_shares(self, record: Record) -> None:
        """F12: what a fork has in common with a run is what that has begun with, without a gap."""
        fork = record.start.fork if record.start is not None else None
        assert fork is not None
        runs = [
            run for (life, number), run in self._runs.items() if self._ids[life] == fork.id and number == record.run
        ]
        if not any(
            _begins(run.inputs, record.inputs, _input) and _begins(run.commands, record.commands, _command)
            for run in runs
        ):
            raise Violation("F12 a fork shares a beginning", f"{record.id}: no run of {fork.id} has begun like it")
        pending: dict[str, Command] = {}
        for command in record.commands:
            await_end(pending, command)
        for given in record.inputs:
            settle(pending, given)
        commands = frozenset(command.id for command in record.commands)
        self._shared[record.life] = Shared(record.run, commands, frozenset(pending))

    def asked(self, what: str, asker: Asker | None) -> None:
        """F13: a fork runs no activity and starts no child that has ended in the part which it shares."""
        shared = None if asker is None else self._shared.get(asker.life)
        if shared is None or asker is None or asker.run != shared.run:
            return
        if asker.command in shared.commands - shared.pending:
            raise Violation("F13 a fork runs nothing again", f"{what} is {asker.command} of fork {asker.id}")

    def _leaves_alone_who_was_forked(self, record: Record) -> None:
        """F14: nobody who waits for the workflow that was forked is told of the fork's end."""
        if record.joined:
            told = [asker.id for asker in record.joined]
            raise Violation("F14 who is forked is left alone", f"the end of fork {record.id} is told to {told}")


def _begins(whole: Sequence[Any], part: Sequence[Any], same: Any) -> bool:
    return [same(each) for each in whole[: len(part)]] == [same(each) for each in part]


def _input(given: Input) -> tuple[Any, ...]:
    return given.kind, given.what, given.id, given.seq


def _command(command: Command) -> tuple[Any, ...]:
    return command.id, command.kind, command.name
