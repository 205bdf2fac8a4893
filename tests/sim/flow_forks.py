"""What must hold of forks: what they begin with, what they run, and whom they leave alone; and whose a child is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from tests.sim.invariants import Violation
from turnout.core.spec import Asker
from turnout.core.workflows.effects import ending_of
from turnout.core.workflows.standing import await_end, forks, settle
from turnout.core.workflows.values import Command, CommandKind, Ending, EndKind, Input, InputKind, Record, key_of


@attrs.define
class Run:
    """What a run has taken and asked for, as far as records tell; of a fork also what it shares."""

    inputs: list[Input] = attrs.field(factory=list)
    commands: list[Command] = attrs.field(factory=list)


@attrs.frozen
class Shared:
    """What a fork shares: the commands, and those of them that had no end; the inputs of a task that was cut."""

    run: int
    commands: frozenset[str]
    pending: frozenset[str]
    ahead: tuple[Any, ...] = ()


class Forks:
    """Watches the forks of one history."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, int], Run] = {}
        """By life and number."""
        self._ids: dict[str, str] = {}
        """Of which workflow a life is."""
        self._shared: dict[str, Shared] = {}
        """By the life of the fork."""
        self._parents: dict[str, Asker] = {}
        """Whose children lives are, by the child's life."""
        self._abandoned: set[str] = set()
        """The lives of children that go on when their parent has ended."""
        self._ends: dict[str, list[Ending]] = {}
        """How the lives of each id have ended."""
        self._let_down: set[str] = set()
        self._over: set[str] = set()
        """The lives that have ended."""

    def clear(self) -> None:
        """Forget all."""
        self._runs.clear()
        self._ids.clear()
        self._shared.clear()
        self._parents.clear()
        self._abandoned.clear()
        self._ends.clear()
        self._let_down.clear()
        self._over.clear()

    def appended(self, record: Record) -> None:
        """A record was stored."""
        if forks(record):
            self._begins_with_what_it_shares(record)
        self._ids[record.life] = record.id
        if record.number == 0:
            self._has_one_parent(record)
        self._runs.setdefault((record.life, record.run), Run())
        run = self._runs.setdefault((record.life, record.done_run), Run())
        run.inputs += taken_by(record)
        run.commands += record.commands
        if not forks(record):
            for given in record.inputs:
                self._is_told_the_truth(record, run, given)
        if record.state.final:
            self._over.add(record.life)
            self._ends.setdefault(record.id, []).append(ending_of(record))
            if record.life in self._shared:
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
        ahead = tuple(_input(given) for given in record.inputs[len(taken_by(record)) :])
        self._shared[record.life] = Shared(record.run, commands, frozenset(pending), ahead)

    def asked(self, what: str, asker: Asker | None) -> None:
        """F13: a fork runs no activity and starts no child that has ended in the part which it shares."""
        shared = None if asker is None else self._shared.get(asker.life)
        if shared is None or asker is None or asker.run != shared.run:
            return
        if asker.command in shared.commands - shared.pending:
            raise Violation("F13 a fork runs nothing again", f"{what} is {asker.command} of fork {asker.id}")

    # -- whose a child is ----------------------------------------------------------------------------------------------

    def _has_one_parent(self, record: Record) -> None:
        """F16: a child is its parent's who has asked for it by that id, whose command its life is named by; also the
        record of one that was taken back before it could begin."""
        parent = record.start.parent if record.start is not None else None
        if parent is not None:
            self._parents[record.life] = parent
            if record.start is not None and record.start.parent_close == "abandon":
                self._abandoned.add(record.life)
            asked = self._command(parent.life, parent.run, parent.command)
            own = record.life == key_of(parent.id, parent.life, parent.run, parent.command)
            if not own or asked is None or asked.kind is not CommandKind.child or asked.target != record.id:
                raise Violation("F16 a child has one parent", f"{record.id} says {parent}, who has asked for {asked}")
        elif record.state.final and record.reason:
            by = _taken_back_by(record.reason)
            lives = {life for life, name in self._ids.items() if name == by}
            targets = {each.target for (life, _), run in self._runs.items() if life in lives for each in run.commands}
            if record.id not in targets:
                raise Violation("F16 a child has one parent", f"{by} ends {record.id} and has never asked for it")

    def ended_by(self, life: str, reason: str) -> None:
        """F17: nobody ends a child but its parent, also not who has joined it; none that is to go on then. No fork
        replaces one that its parent waits for, unless its code says so."""
        by, parent = _taken_back_by(reason), self._parents.get(life)
        if reason == "replaced" and parent is not None and not self._is_replaced(life) and self._waits(parent):
            raise Violation("F17 a child is its parent's", f"{parent} waits for a child that is replaced")
        if not by or not life:
            return
        if parent is None or parent.id != by or (life in self._abandoned and reason.endswith("has ended")):
            raise Violation("F17 a child is its parent's", f"{reason}: a child of {parent} is to end")

    def _is_told_the_truth(self, record: Record, run: Run, given: Input) -> None:
        """F18: how a child has ended is what the one who waits for it is told."""
        shared = self._shared.get(record.life)
        if shared is not None and _input(given) in shared.ahead:
            return
        asked = next((each for each in run.commands if each.id == given.what), None)
        if given.kind is not InputKind.done or given.ending is None or asked is None:
            return
        ending = given.ending
        if asked.kind in (CommandKind.child, CommandKind.joining) and ending.kind not in _REFUSED:
            ends = [(each.kind, each.result) for each in self._ends.get(asked.target, ())]
            if (ending.kind, ending.result) not in ends:
                raise Violation("F18 an end is told as it is", f"{record.id}: {ending} of {asked.target}, not {ends}")
        askers = {
            life
            for (life, _), each in self._runs.items()
            for other in each.commands
            if other.kind is CommandKind.child and other.target == asked.target
        }
        if ending.kind is not EndKind.completed and len(askers) > 1:
            self._let_down.add(record.life)

    def let_down(self, life: str) -> bool:
        """Whether it shares a child with somebody else and that has ended, or is gone, before it should have for this
        one: it may fault by that."""
        return life in self._let_down

    def _is_replaced(self, child: str) -> bool:
        """Whether the code of another one than its parent has asked for a child in its place."""
        return any(
            each.target == self._ids[child] and each.child is not None and each.child.if_exists == "replace"
            for (life, _), run in self._runs.items()
            for each in run.commands
            if life != self._parents[child].life
            if life not in self._shared or each.id not in self._shared[life].commands
        )

    def _waits(self, parent: Asker) -> bool:
        """Whether, by what it has taken and asked for, this one waits for its child, and goes on."""
        run = self._runs.get((parent.life, parent.run), Run())
        pending: dict[str, Command] = {}
        for command in run.commands:
            await_end(pending, command)
        for given in run.inputs:
            settle(pending, given)
        return parent.command in pending and parent.life not in self._over

    def _command(self, life: str, run: int, command: str) -> Command | None:
        commands = self._runs.get((life, run), Run()).commands
        return next((each for each in commands if each.id == command), None)

    # -- whom a fork leaves alone --------------------------------------------------------------------------------------

    def _leaves_alone_who_was_forked(self, record: Record) -> None:
        """F14: nobody who waits for the workflow that was forked is told of the fork's end."""
        if record.joined:
            told = [asker.id for asker in record.joined]
            raise Violation("F14 who is forked is left alone", f"the end of fork {record.id} is told to {told}")


_REFUSED = (EndKind.exists, EndKind.unknown)


def _taken_back_by(reason: str) -> str:
    """Who has ended a child for this reason, "" where it was somebody else."""
    first, _, rest = reason.partition(" ")
    by, _, why = rest.partition(" ")
    return by if first == "workflow" and why in ("has ended", "does not wait for it any more") else ""


def taken_by(record: Record) -> tuple[Input, ...]:
    """What a record has taken: of a fork's first one not what is behind its cut, which the first task takes."""
    fork = record.start.fork if forks(record) and record.start is not None else None
    return record.inputs if fork is None else record.inputs[: sum(each.inputs for each in fork.tasks)]


def _begins(whole: Sequence[Any], part: Sequence[Any], same: Any) -> bool:
    return [same(each) for each in whole[: len(part)]] == [same(each) for each in part]


def _input(given: Input) -> tuple[Any, ...]:
    return given.kind, given.what, given.id, given.seq


def _command(command: Command) -> tuple[Any, ...]:
    of_child = command.about == CommandKind.child  # the child may be called otherwise, its workflow is not
    return command.id, command.kind, command.name.partition(" ")[2] if of_child else command.name
