"""What must hold of workflows at every step of every history, by name: called at each change that the server makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tests.sim import flows
from tests.sim.invariants import Invariants, Violation
from turnout import fastjson
from turnout.core.workflows.standing import await_end, settle
from turnout.core.workflows.values import Command, Input, InputKind, Record, RecordKind, WorkflowState
from turnout.testing.memory import Message
from turnout.wire import histories

if TYPE_CHECKING:
    from tests.sim.flow_simulation import FlowSimulation

TARGET = "Nats-Schedule-Target"


@attrs.define
class Life:
    """A workflow, as the records that were appended tell of it."""

    newest: Record
    begun: bool = False
    ended_upto: int = 0
    """What lies up to there belonged to runs that have ended."""
    cancelled: bool = False
    taken: set[int] = attrs.field(factory=set)
    last: int = 0
    counted: set[str] = attrs.field(factory=set)
    ends: set[tuple[int, str]] = attrs.field(factory=set)
    """The commands whose end was taken, by run."""
    pending: dict[str, Command] = attrs.field(factory=dict)


class FlowInvariants(Invariants):
    """The watcher of workflows. It sees what the server stores, and nothing of what workers have in memory."""

    sim: FlowSimulation

    def __init__(self, sim: FlowSimulation) -> None:
        super().__init__(sim)
        self.lives: dict[str, Life] = {}
        self._past: set[str] = set()
        """Those of the histories before, of which something may still come late."""
        self.terminates: set[str] = set()
        """Those of which a client was told that it had terminated them."""

    # -- what the server tells -----------------------------------------------------------------------------------------

    def appended(self, message: Message) -> None:
        """A record was stored."""
        record = histories.load_history_record(message.data)
        self.sim.note(
            f"     record {record.id} {record.number} {record.kind} {record.state} by {self.sim.writer()}: "
            f"{[f'{i.kind}.{i.what}' for i in record.inputs]} -> {[f'{c.kind}.{c.id}' for c in record.commands]}"
        )
        life = self.lives.get(record.id)
        if life is None:
            self.one_history(record.number == 0, record, "has no record 0")
            life = self.lives[record.id] = Life(record)
        else:
            before = life.newest
            follows = record.life == before.life and record.number == before.number + 1
            self.one_history(follows, record, f"follows record {before.number} of {before.life}")
            if before.state.final:
                raise Violation("F2 ends once", f"{record.id} was {before.state}, record {record.number} follows")
            life.newest = record
        if record.kind is RecordKind.stuck:
            raise Violation("F5 never stuck", f"{record.id}: {record.failure}")
        for given in record.inputs:
            self.taken_once(life, record, given)
        self._follow(life, record)
        if record.state.final:
            self.ends_right(record)

    def _follow(self, life: Life, record: Record) -> None:
        for command in record.commands:
            await_end(life.pending, command)
        for given in record.inputs:
            settle(life.pending, given)
            life.begun = life.begun or given.kind is InputKind.begin
            life.cancelled = life.cancelled or given.kind is InputKind.cancel
        if record.ends_run:
            life.pending.clear()
            life.begun = False
            life.ended_upto = record.upto

    def lies(self, message: Message) -> None:
        """Something was stored in the stream of the inboxes."""
        self.sim.note(f"     lies: {message.subject} {message.seq}")

    def removed(self, message: Message, why: str) -> None:
        """Something has left the stream of the inboxes."""
        self.sim.note(f"     {why}: {message.subject} {message.seq}")
        if why == "ack":
            self.no_input_is_lost(message)

    # -- the history ---------------------------------------------------------------------------------------------------

    def one_history(self, holds: bool, record: Record, text: str) -> None:
        """F1: the records of a workflow follow one another; nobody forks it."""
        if not holds:
            raise Violation("F1 one history", f"{record.id}, record {record.number} of {record.life} {text}")

    def taken_once(self, life: Life, record: Record, given: Input) -> None:
        """F3: an input is in one record, in the order of the inbox; each id and each end of a command counts once."""
        name = f"{record.id}, record {record.number}: {given.kind}.{given.what} {given.id} at {given.seq}"
        if given.seq:
            if given.seq <= life.last:
                raise Violation("F3 once and in order", f"{name} behind {life.last}")
            life.last = given.seq
            life.taken.add(given.seq)
        if given.id:
            if given.id in life.counted:
                raise Violation("F3 once and in order", f"{name} was counted before")
            life.counted.add(given.id)
        if given.kind in (InputKind.done, InputKind.timer):
            end = (record.done_run, given.what)
            if end in life.ends or (given.run and given.run != record.done_run):
                raise Violation("F3 once and in order", f"{name} has ended before, or is another run's")
            life.ends.add(end)

    def ends_right(self, record: Record) -> None:
        """F2: a workflow ends with what its script comes to, or as somebody has asked for."""
        name = record.id
        if name not in self.sim._scripts:
            return
        asked = {each.kind for each in self.sim.plan.acts if self.sim._name(each.job) == name}
        state = record.state
        if state is WorkflowState.completed:
            result = fastjson.loads(record.result.text or "") if record.result is not None else None
            if result != flows.expected(self.sim.script(name)):
                raise Violation("F2 ends once", f"{name} came to {result}")
        elif not (
            (state is WorkflowState.cancelled and "cancel" in asked)
            or (state is WorkflowState.terminated and "terminate" in asked)
        ):
            raise Violation("F2 ends once", f"{name} is {state}: {record.failure} {record.reason}")

    # -- the inbox -----------------------------------------------------------------------------------------------------

    def no_input_is_lost(self, message: Message) -> None:
        """F4: what is removed from an inbox is in a record, or means nothing to the life that it was sent to."""
        named = self.sim.names.input_of(message.subject)
        if named is None or not named[2]:
            return
        given = histories.parse_input(
            named[2], named[3], message.seq, message.time_ns / 1e9, message.data, message.headers
        )
        assert given is not None
        life = self.lives.get(named[1])
        if life is None:
            dead_client = given.kind is InputKind.start and named[1] in self.sim._scripts
            if dead_client or named[1] in self._past:
                return
            raise Violation("F4 no input is lost", f"{message.subject}: there is no such workflow")
        if not self._may_go(life, given):
            raise Violation("F4 no input is lost", f"{message.subject} {message.seq} {given.id} is in no record")

    def _may_go(self, life: Life, given: Input) -> bool:
        newest = life.newest
        if given.seq in life.taken or newest.state.final or (given.life and given.life != newest.life):
            return True
        match given.kind:
            case InputKind.start:
                return life.begun or given.seq <= life.ended_upto or self._wakes(newest)
            case InputKind.signal:
                return given.id in life.counted
            case InputKind.done | InputKind.timer | InputKind.started:
                return given.run != newest.run or given.what not in life.pending
            case _:
                return False

    def _wakes(self, newest: Record) -> bool:
        """Whether there is a wake-up for the first task of its run."""
        lying = self.sim.inbox.subjects(self.sim.names.input(newest.name, newest.id, InputKind.start))
        return bool(lying)

    # -- at rest -------------------------------------------------------------------------------------------------------

    def unfinished(self) -> str:
        for workflow_id, life in self.lives.items():
            if not life.newest.state.final:
                return f"{workflow_id} is {life.newest.state}, it waits for {list(life.pending.values())}"
            if life.cancelled and life.newest.state is WorkflowState.completed:
                raise Violation("F6 promises are kept", f"{workflow_id} was cancelled, and is {life.newest.state}")
            if workflow_id in self.terminates and life.newest.state is not WorkflowState.terminated:
                raise Violation("F6 promises are kept", f"{workflow_id} was terminated, and is {life.newest.state}")
        for message in self.sim.inbox.messages.values():
            if not message.headers.get(TARGET, "").endswith(".gc"):
                return f"left over: {message.subject} {message.seq}"
        return super().unfinished()

    def clear(self) -> None:
        """Forget what has ended, as its retention will: the next history begins with an empty stream."""
        self._past |= self.lives.keys()
        self.lives.clear()
        self.terminates.clear()
        self.sim.history.purge()
        self.sim.inbox.purge()
