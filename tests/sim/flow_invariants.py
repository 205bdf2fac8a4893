"""What must hold of workflows at every step of every history, by name: called at each change that the server makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tests.sim import flows
from tests.sim.flow_forks import Forks, taken_by
from tests.sim.invariants import Invariants, Violation
from tests.sim.world import BEGAN_AT
from turnout import fastjson
from turnout.core.record import JobRecord
from turnout.core.workflows.standing import await_end, forks, settle
from turnout.core.workflows.values import (
    Answer,
    AnswerState,
    Command,
    Input,
    InputKind,
    Record,
    RecordKind,
    WorkflowState,
)
from turnout.testing.memory import Message
from turnout.wire import histories

if TYPE_CHECKING:
    from tests.sim.flow_simulation import FlowSimulation

TARGET = "Nats-Schedule-Target"


@attrs.define
class Life:
    """A workflow, as the records that were appended tell of it."""

    newest: Record
    script: str = ""
    begun: bool = False
    ended_upto: int = 0
    """What lies up to there belonged to runs that have ended."""
    cancelled: bool = False
    last: int = 0
    counted: set[str] = attrs.field(factory=set)
    ends: set[tuple[int, str]] = attrs.field(factory=set)
    """The commands whose end was taken, by run."""
    pending: dict[str, Command] = attrs.field(factory=dict)
    answers: dict[str, Answer] = attrs.field(factory=dict)
    """The final answers of updates, by their ids."""
    wake: int = 0
    """Where its inbox begins."""
    woken_anew_above: int | None = None
    """Begun in the place of another life: where the inbox ended then. Whoever has begun it wakes it above that (W5)."""
    shared: frozenset[int] = frozenset()
    """Where the inputs lay that a fork shares: in the inbox of who was forked."""


class FlowInvariants(Invariants):
    """The watcher of workflows. It sees what the server stores, and nothing of what workers have in memory."""

    sim: FlowSimulation

    def __init__(self, sim: FlowSimulation) -> None:
        super().__init__(sim)
        self.lives: dict[str, Life] = {}
        """The newest life of each id."""
        self.begun_lives: dict[str, Life] = {}
        """All that have ever begun, by their nonces."""
        self.forks = Forks()
        self.collected: set[str] = set()
        """The ids of those whose history is gone as a whole."""
        self._past: set[str] = set()
        self._taken: set[tuple[str, int]] = set()
        """What any life has taken, which a later one may be handed again."""
        """Those of the histories before, of which something may still come late."""
        self.terminates: set[str] = set()
        """The lives of which a client was told that it had terminated them."""

    # -- what the server tells -----------------------------------------------------------------------------------------

    def appended(self, message: Message) -> None:
        """A record was stored."""
        record = histories.load_history_record(message.data)
        self.sim.note(
            f"     record {record.id} {record.number} {record.kind} {record.state} by {self.sim.writer()}: "
            f"{[f'{i.kind}.{i.what}' for i in record.inputs]} -> {[f'{c.kind}.{c.id}' for c in record.commands]}"
        )
        life = self.lives.get(record.id)
        if life is None or (life.newest.kind is RecordKind.deleted and record.life != life.newest.life):
            in_place_of = life
            life = self._begins(record)
            if in_place_of is not None:
                life.woken_anew_above = self.sim.inbox.last_seq
        else:
            before = life.newest
            follows = record.life == before.life and record.number == before.number + 1
            self.one_history(follows, record, f"follows record {before.number} of {before.life}")
            deleted = record.kind is RecordKind.deleted and before.kind is not RecordKind.deleted
            if before.state.final and not (deleted and record.state is before.state):
                raise Violation("F2 ends once", f"{record.id} was {before.state}, record {record.number} follows")
            life.newest = record
            if deleted:
                return
            if record.kind is RecordKind.stuck:
                self.stuck_for_a_cause(life, before, record)
            self.stays_with_its_build(before, record)
        for given in taken_by(record):
            self.taken_once(life, record, given)
        self._follow(life, record)
        self.forks.appended(record)
        if record.carries_out:
            self.of_this_life(record, record.carries_out)
        for answer in record.answers:
            self.answered_once(life, answer)
        if record.state.final:
            self.ends_right(life, record)

    def _begins(self, record: Record) -> Life:
        self.one_history(record.number == 0, record, "has no record 0")
        self.one_history(record.life not in self.begun_lives, record, "begins a life again")
        text = record.start.payload.text if record.start is not None else None
        arguments = fastjson.loads(text or "{}")
        life = Life(record, arguments["script"] if isinstance(arguments, dict) and arguments else "")
        self.lives[record.id] = self.begun_lives[record.life] = life
        if record.start is not None:
            life.wake = record.start.wake
            self.forks.asked(f"workflow {record.id}", record.start.parent)
        if forks(record) and record.start is not None:
            life.script = self.sim.script(record.id)
            life.shared = frozenset(given.seq for given in record.inputs)
            life.counted |= {*record.start.seen, *(given.id for given in record.start.carried)}
            life.answers |= {each.id: each for each in record.start.answers}
        return life

    def life_of(self, workflow_id: str, called: str) -> str | None:
        """The nonce of a workflow's life that is called so, if it has begun."""
        for nonce, life in self.begun_lives.items():
            if life.newest.id == workflow_id and flows.life_of(life.script) == called:
                return nonce
        return None

    def is_over(self, life: Life) -> bool:
        """Whether it was deleted, or another one has begun in its place."""
        return life.newest.kind is RecordKind.deleted or self.lives.get(life.newest.id) is not life

    def newest_life(self, workflow_id: str) -> str | None:
        life = self.lives.get(workflow_id)
        return life.newest.life if life is not None else None

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
        given = self._input_of(message)
        if given is not None and given.kind in (InputKind.cancel, InputKind.terminate):
            self.forks.ended_by(given.life, message.data.decode())

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
            self._taken.add((record.id, given.seq))
            if given.seq not in life.shared:
                self.of_this_life(record, given.seq)
        if given.id:
            if given.id in life.counted:
                raise Violation("F3 once and in order", f"{name} was counted before")
            life.counted.add(given.id)
        if given.kind in (InputKind.done, InputKind.timer):
            end = (record.done_run, given.what)
            if end in life.ends or (given.run and given.run != record.done_run):
                raise Violation("F3 once and in order", f"{name} has ended before, or is another run's")
            life.ends.add(end)

    def of_this_life(self, record: Record, seq: int) -> None:
        """F7: nothing that was sent to another life is taken, or carried out."""
        lies = self.sim.inbox.messages.get(seq)
        parsed = None if lies is None else self._input_of(lies)
        if parsed is not None and parsed.life and parsed.life != record.life:
            name = f"{record.id}, record {record.number} of {record.life}"
            raise Violation("F7 lives apart", f"{name} takes {parsed.kind}.{parsed.what} of {parsed.life}")

    def stuck_for_a_cause(self, life: Life, before: Record, record: Record) -> None:
        """F5: only code that is broken gets stuck, and a workflow says that once."""
        if not set(life.script) & set(flows.BROKEN):
            raise Violation("F5 never stuck", f"{record.id}: {record.failure}")
        if before.kind is RecordKind.stuck:
            raise Violation("F5 never stuck", f"{record.id}, record {record.number}: it was stuck already")

    def stays_with_its_build(self, before: Record, record: Record) -> None:
        """F15: the code of a run that is pinned to a build is run by that build alone."""
        pin, ran = before.summary.pin, record.inputs or record.kind in (RecordKind.stuck, RecordKind.trying)
        if pin and ran and record.build != pin:
            name = f"{record.id}, record {record.number}"
            raise Violation("F15 a pinned run stays", f"{name} is by {record.build}, the run is pinned to {pin}")

    def saved(self, before: JobRecord | None, after: JobRecord, expires: bool) -> None:
        super().saved(before, after, expires)
        if before is None:
            self.forks.asked(f"job {after.id}", after.spec.options.parent)

    def life(self, record: JobRecord) -> str:
        """What a fork asks for anew has the payload that it had when another workflow asked for it, and so has what a
        child does that is started again in its own place."""
        parent = record.spec.options.parent
        return f"{'' if parent is None else parent.life} {super().life(record)}"

    def forgotten(self, message: Message, _: str) -> None:
        """F11: a history is kept until its time has come, or somebody has deleted it; but for runs that have ended."""
        if not self.begun_lives:
            return  # all is cleared away
        record = histories.load_history_record(message.data)
        self.sim.note(f"     gone: record {record.id} {record.number} by {self.sim.writer()}")
        life = self.begun_lives[record.life]
        newest = life.newest
        if record.run == newest.run and newest.kind is not RecordKind.deleted:
            due_at = newest.gc_at
            if not newest.state.final or due_at is None or self.sim.world.now + BEGAN_AT < due_at:
                raise Violation("F11 histories are kept", f"{record.id}, record {record.number} is gone too soon")
        if record.number == newest.number and self.lives.get(record.id) is life:
            del self.lives[record.id]
            self._past.add(record.id)
            self.collected.add(record.id)

    def waits_for_repair(self, workflow_id: str) -> bool:
        """Whether it is stuck, and nothing goes on that is not."""
        stuck = [name for name, life in self.lives.items() if life.newest.kind is RecordKind.stuck]
        return workflow_id in stuck and all(
            name in stuck or life.newest.state.final for name, life in self.lives.items()
        )

    def answered_once(self, life: Life, answer: Answer) -> None:
        """F8: an update has one final answer."""
        before = life.answers.get(answer.id)
        if before is not None and answer != before:
            raise Violation("F8 answered once", f"{life.newest.id}: {before}, then {answer}")
        if answer.state is not AnswerState.accepted:
            life.answers[answer.id] = answer

    def told(self, nonce: str, update_id: str, value: int) -> None:
        """F8: what a client was told is what is on record."""
        answer = self.begun_lives[nonce].answers.get(update_id)
        text = answer.result.text if answer is not None and answer.result is not None else None
        if text is None or fastjson.loads(text) != value:
            raise Violation("F8 answered once", f"a client was told {value} of {update_id}, on record is {answer}")

    def shows(
        self, workflow_id: str, nonce: str | None, known: dict[str, list[int]], sent: set[tuple[str, int]]
    ) -> None:
        """F9: a query sees what was sent before it, unless a termination came before the code could take that."""
        life = self.begun_lives.get(nonce or "")
        if life is not None and life.newest.state is WorkflowState.terminated:
            return
        missing = {(name, n) for name, n in sent if n not in known["got" if name == "add" else "puts"]}
        if missing:
            raise Violation("F9 a query sees what was sent", f"{workflow_id}: {known} lacks {sorted(missing)}")

    def ends_right(self, life: Life, record: Record) -> None:
        """F2: a workflow ends with what its script comes to, or as somebody has asked for."""
        name = record.id
        if name not in self.sim._scripts:
            return
        forked = self.sim.forks.get(name)
        asked = {each.kind for each in self.sim.plan.acts if self._is_about(self.sim._name(each.job), forked or name)}
        state = record.state
        if state is WorkflowState.completed:
            result = fastjson.loads(record.result.text or "") if record.result is not None else None
            if result != flows.expected(life.script):
                raise Violation("F2 ends once", f"{name} came to {result}")
        elif not (
            (state is WorkflowState.cancelled and ("cancel" in asked or (forked and "unfork" in asked)))
            or (state is WorkflowState.terminated and asked & {"terminate", "replace"} and not forked)
            or (state is WorkflowState.faulted and self.forks.let_down(record.life))
        ):
            raise Violation("F2 ends once", f"{name} is {state}: {record.failure} {record.reason}")

    def _is_about(self, name: str, workflow_id: str) -> bool:
        """Whether a workflow is the one of this name, or a child or a fork of it."""
        return workflow_id == name or workflow_id.startswith((f"{name}-", f"{name}fork"))

    # -- the inbox -----------------------------------------------------------------------------------------------------

    def no_input_is_lost(self, message: Message) -> None:
        """F4: what is removed from an inbox is in a record, or means nothing to the life that it was sent to."""
        given = self._input_of(message)
        if given is None:
            return
        _, workflow_id, *_ = self.sim.names.input_of(message.subject) or ("", "")
        life = self.lives.get(workflow_id)
        if life is None:
            dead_client = given.kind is InputKind.start and workflow_id in self.sim._scripts
            if dead_client or workflow_id in self._past:
                return
            raise Violation("F4 no input is lost", f"{message.subject}: there is no such workflow")
        if not self._may_go(life, given):
            raise Violation("F4 no input is lost", f"{message.subject} {message.seq} {given.id} is in no record")

    def _input_of(self, message: Message) -> Input | None:
        named = self.sim.names.input_of(message.subject)
        if named is None or not named[2]:
            return None
        at = message.time_ns / 1e9
        return histories.parse_input(named[2], named[3], message.seq, at, message.data, message.headers)

    def _may_go(self, life: Life, given: Input) -> bool:
        newest = life.newest
        if (newest.id, given.seq) in self._taken or newest.state.final or (given.life and given.life != newest.life):
            return True
        match given.kind:
            case InputKind.start if given.what in life.pending and given.run == newest.run:
                return False  # it keeps a local activity (W14)
            case InputKind.start:
                void_before = life.woken_anew_above is not None and given.seq <= life.woken_anew_above
                return life.begun or void_before or given.seq <= life.ended_upto or self._wakes(newest)
            case InputKind.signal | InputKind.update:
                return given.id in life.counted
            case InputKind.joining:
                return given.seq < life.wake  # who asked for the end of the life before has been told
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
                return f"{workflow_id} is {life.newest.state}, it waits for {list(life.pending)}"
            if life.cancelled and life.newest.state is WorkflowState.completed:
                raise Violation("F6 promises are kept", f"{workflow_id} was cancelled, and is {life.newest.state}")
            if life.newest.life in self.terminates and life.newest.state is not WorkflowState.terminated:
                raise Violation("F6 promises are kept", f"{workflow_id} was terminated, and is {life.newest.state}")
            if self.sim.collects and workflow_id in self.sim._scripts:
                return f"the history of {workflow_id} is kept"
        for message in self.sim.inbox.messages.values():
            if not message.headers.get(TARGET, "").endswith(".gc"):
                return f"left over: {message.subject} {message.seq}"
        return super().unfinished()

    def clear(self) -> None:
        """Forget what has ended, as its retention will: the next history begins with an empty stream."""
        self._past |= self.lives.keys()
        self.lives.clear()
        self.begun_lives.clear()
        self.terminates.clear()
        self.collected.clear()
        self.forks.clear()
        self.sim.history.purge()
        self.sim.inbox.purge()
