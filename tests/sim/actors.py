"""Who acts: worker nodes, clients, supervisors. They send events through the interpreter and keep nothing of their own
but what their product counterparts keep in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tests.sim.jetstream import Delivered, Message
from tests.sim.perform import BARE, Interpreter, Taken, delivery_of
from tests.sim.world import LEASE_S, Host, Signal, SimError, Steps, Unanswered, sleep
from turnout.core.effects import Abandon, Replace
from turnout.core.events import (
    Aborted,
    Cancelled,
    CancelRequested,
    Completed,
    Ended,
    Event,
    Expired,
    Failed,
    Leftover,
    Lost,
    Received,
    Reported,
    RetryRequested,
    Stuck,
    Submitted,
    Verdict,
)
from turnout.core.values import Body, ErrorInfo, JobRecord, JobState, MessageRef, Progress, Token

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

TTL_S = 6.0
BEAT_S = 2.0
SWEEP_S = 2.0
ERROR = ErrorInfo("ValueError", "as the script says")
RETRIED = ("builtins.ValueError", "builtins.Exception")
NOT_RETRIED = ("turnout.Odd",)


@attrs.define(eq=False)
class Running:
    """An attempt whose code runs; `signal` tells it to end: cancel, lost or stop."""

    record: JobRecord
    revision: int
    delivered_at: float
    exhausted: bool = False
    over: bool = False
    signal: Signal = attrs.field(factory=Signal)

    @property
    def token(self) -> Token:
        assert self.record.token is not None
        return self.record.token


class Node:
    """A worker process: slots that pull and run, a keeper per running attempt, answers to who asks for an owner."""

    def __init__(self, sim: Simulation, number: int, life: int) -> None:
        self.sim = sim
        self.number = number
        name = "node" if sim.without("node nonce") else f"n{number}x{life}"
        self.host = Host(sim.world, name, beat_s=BEAT_S, ttl_s=TTL_S)
        self.live: dict[str, Running | None] = {}
        self.holds: set[str] = set()
        """The attempts it really runs, or is about to; `live` is what it says it runs."""
        self.stopping = False
        self._interpreter = Interpreter(sim, self.host)
        self._idle = 0
        for _ in range(sim.slots):
            self.host.spawn(self._slot())

    def _slot(self) -> Steps:
        while not self.stopping:
            got: Delivered | None = yield self.host.link.pull(self.sim.work.pull, 10.0)
            if got is None:
                continue
            if self.stopping:
                self.host.lease_link.cast(self.sim.work.nak, got.seq)
            elif self.sim.world.now - got.at <= LEASE_S or self.sim.without("age"):
                # A delivery older than its ack wait is dropped unread (P9).
                yield from self._handle(got)
        self._idle += 1
        if self._idle == self.sim.slots:
            self.sim.stopped(self)

    def _handle(self, got: Delivered) -> Steps:
        sim = self.sim
        delivery = delivery_of(got, sim.work.max_deliver)
        nonce = sim.nonce()
        self.holds.add(nonce)
        if not sim.without("registered first"):
            self.live[nonce] = None
        event = Received(delivery=delivery, node=self.host.name, nonce=nonce, now=sim.world.now, rules=sim.rules)
        # A first delivery goes straight to the create, which refuses when there is anything; later ones look first.
        loaded = (None, 0) if got.count == 1 else None
        (record, revision), _ = yield from self._interpreter.apply(delivery.id, event, loaded)
        if record is not None and record.state is JobState.running and record.token.nonce == nonce:
            running = self.live[nonce] = Running(record, revision, got.at, delivery.exhausted)
            sim.invariants.started(running.token, record)
            self.host.spawn(self._keep(running))
            ended = yield from self._code(running, sim.letter(record))
            running.over = True
            if ended is not None:
                sim.invariants.zombies_stop(self.host, running.token, record.id)
                ended = attrs.evolve(ended, exhausted=running.exhausted)
                # It decides on what it wrote last; a conflict tells that somebody else has written since (P1).
                yield from self._interpreter.apply(record.id, ended, (running.record, running.revision))
        self.live.pop(nonce, None)
        self.holds.discard(nonce)

    def _keep(self, running: Running) -> Steps:
        """The lease thread: extends, doubts, and reads whether somebody wants the job cancelled."""
        work, world = self.sim.work, self.sim.world
        message = running.record.message
        assert message is not None
        confirmed = running.delivered_at  # not now: this process may have been frozen ever since
        while True:
            yield sleep(LEASE_S / 3)
            if running.over and not self.sim.without("one voice"):
                return
            if world.now - confirmed > LEASE_S and not self.sim.without("doubt"):
                record, _ = yield from self._interpreter.read(self.sim.registry.get, running.record.id)
                if record is None or not record.owned_by(running.token):
                    running.signal.fire("lost")
                    return
            try:
                yield self.host.lease_link.call(work.extend, message.seq, running.token.nonce)
                confirmed = world.now
                record, _ = yield self.host.link.call(self.sim.registry.get, running.record.id)
            except Unanswered:
                continue
            if running.over:
                return
            if record is not None and record.owned_by(running.token):
                if record.cancel_request is not None:
                    running.signal.fire("cancel")
            elif not self.sim.without("doubt"):
                # The verdict may have been on its way while this node came back.
                running.signal.fire("lost")
                return

    def _code(self, running: Running, letter: str) -> Steps:
        """The user's code, as the script's letter says. Returns the event that ends the attempt, or None."""
        sim, token = self.sim, running.token
        reason = yield running.signal.wait(0.3)
        if letter == "K":
            self.sim.crash_node(self)
            reason = reason or (yield running.signal.wait(1.0))
        elif letter == "S":
            self.stop()
            reason = reason or (yield running.signal.wait(1.0))
        elif letter == "Z":
            self.host.freeze(2 * TTL_S)
            reason = reason or (yield running.signal.wait(1.0))
        elif letter == "D":
            self.host.set_cut(True)
            sim.world.after(2 * TTL_S, self.host.set_cut, False)
            reason = reason or (yield running.signal.wait(4 * TTL_S))
        elif letter in "WI":
            reason = reason or (yield running.signal.wait(3 * LEASE_S))
        elif letter == "P":
            reported = Reported(token=token, progress=Progress(1, 2), checkpoint=Body(text=f"at {token.attempt}"))
            known = (running.record, running.revision)
            known, effects = yield from self._interpreter.apply(running.record.id, reported, known)
            if Abandon() in effects:
                return None
            running.record, running.revision = known
            reason = reason or (yield running.signal.wait(0.2))
        now = sim.world.now
        if reason == "lost":
            return None
        if reason == "stop":
            return Aborted(token=token, now=now)
        if reason == "cancel" and letter != "I":
            return Cancelled(token=token, now=now)
        return self._end_of(letter, token, now)

    def _end_of(self, letter: str, token: Token, now: float) -> Ended:
        if letter in "CWPKZDSI":
            return Completed(token=token, now=now, result=Body(text=f"by {token.nonce}"))
        return Failed(
            token=token,
            now=now,
            error=ERROR,
            error_mro=NOT_RETRIED if letter == "N" else RETRIED,
            u=self.sim.world.random.random(),
            retry_after=2.0 if letter == "L" else None,
            fatal="fatal" if letter == "X" else None,
            timed_out=letter == "T",
        )

    def stop(self) -> None:
        """SIGTERM with no grace: running code is aborted, the node leaves when all is written."""
        self.stopping = True
        for running in self.live.values():
            if running is not None:
                running.signal.fire("stop")

    def hear(self, kind: str, token: Token, answer: Signal | None, asker: Host | None) -> None:
        """A message on the node's control subject."""
        world = self.sim.world
        if not (self.host.reachable and world.server_up):
            return
        if self.host.thaw_at > world.now:
            world.at(self.host.thaw_at, self.hear, kind, token, answer, asker)
        elif kind == "cancel":
            running = self.live.get(token.nonce)
            if running is not None:
                running.signal.fire("cancel")
        elif answer is not None and asker is not None:
            word = "yes" if token.nonce in self.live else "no"
            world.after(world.latency(), lambda: answer.fire(word) if asker.reachable else None)


class Client:
    """Submits, cancels, retries and deletes; each call is a process of its own."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.host = Host(sim.world, "client", beat_s=BEAT_S, ttl_s=TTL_S)
        self._interpreter = Interpreter(sim, self.host)
        self.refused: list[str] = []

    def submit(self, job_id: str, kind: str, *, blind: bool = False) -> Steps:
        """`blind`: the look at the record was before anything was there, as when two submit at once."""
        sim = self.sim
        now = sim.world.now
        text = f"{job_id}#{sim.nonce()}"
        if kind == "bare":
            self.host.link.cast(sim.work.publish, BARE, text)
            return
        options = attrs.evolve(sim.options, expires_in=25.0) if kind == "expiring" else sim.options
        token = Token("", 1, 0, sim.nonce())
        draft = JobRecord(
            job_id, "act", JobState.queued, submitted_at=now, payload=Body(text=text), options=options, token=token
        )
        loaded = (None, 0) if blind else (yield from self._interpreter.read(sim.registry.get, job_id))
        if loaded[0] is not None:
            self.refused.append(job_id)
            return
        try:
            at = now + 4.0 if kind == "delayed" else None
            yield from self._interpreter.apply(job_id, Submitted(draft=draft, at=at), loaded)
        except Taken:
            self.refused.append(job_id)

    def cancel(self, job_id: str) -> Steps:
        event = CancelRequested(reason="as the plan says", now=self.sim.world.now)
        yield from self._interpreter.apply(job_id, event)

    def retry(self, job_id: str) -> Steps:
        _, effects = yield from self._interpreter.apply(job_id, RetryRequested(now=self.sim.world.now))
        for effect in effects:
            if isinstance(effect, Replace):
                self.sim.invariants.promised(job_id, effect.record.generation)

    def delete(self, job_id: str) -> Steps:
        """A finished job: its message goes first, like a left-over one, then a marker takes the record's place (P9)."""
        interpreter, sim = self._interpreter, self.sim
        found = yield from interpreter.find(job_id)
        record, revision = yield from interpreter.read(sim.registry.get, job_id)
        if record is None or not record.state.final or (found is not None and found.generation > record.generation):
            return
        if found is not None:
            (_, revision), _ = yield from interpreter.apply(job_id, Leftover(found=found, now=sim.world.now))
        sim.before_effect(self.host, None)
        try:
            yield self.host.link.call(sim.delete, job_id, revision)
        except SimError:
            return


class Supervisor:
    """Counts the losses of dead nodes, and sweeps: what no delivery will bring back is put in anew."""

    def __init__(self, sim: Simulation, number: int, life: int) -> None:
        self.sim = sim
        self.number = number
        self.host = Host(sim.world, f"sup{number}x{life}", beat_s=BEAT_S, ttl_s=TTL_S)
        self._interpreter = Interpreter(sim, self.host)
        self._seen: dict[str, tuple[object, float]] = {}
        self.host.spawn(self._loop())

    def _loop(self) -> Steps:
        while True:
            yield sleep(SWEEP_S * (0.75 + self.sim.world.random.random() / 2))
            if not self.host.on_time and not self.sim.without("self doubt"):
                continue
            records: list[JobRecord] = yield from self._interpreter.read(self.sim.registry.values)
            yield from self._lost_nodes(records)
            if not self.sim.without("sweep"):
                yield from self._sweep(records)

    def _lost_nodes(self, records: list[JobRecord]) -> Steps:
        for record in records:
            if record.state is not JobState.running or record.token is None:
                continue
            now = self.sim.world.now
            left_s = yield from self._interpreter.read(self.sim.key_left, record.token.node)
            if left_s > 0:
                continue
            verdict, _ = yield from self._interpreter.ask(record.token)
            if verdict is not Verdict.gone:
                continue
            if self.sim.without("supervisor decides"):
                if record.message is not None:
                    self.host.link.cast(self.sim.work.nak, record.message.seq)
            else:
                yield from self._apply(record.id, Lost(token=record.token, now=now))

    def _sweep(self, records: list[JobRecord]) -> Steps:
        work = self.sim.work
        alarms, work.alarms = work.alarms, []
        messages: list[Message] = yield from self._interpreter.read(work.under, BARE)
        if self.sim.without("walks the stream"):
            messages = [m for m in messages if any(r.id == delivery_of(m).id for r in records)]
        carried = set()
        for message in messages:
            found = delivery_of(message)
            carried.add(found.id)
            if message.seq <= work.delivered_seq:
                record, _ = yield from self._interpreter.read(self.sim.registry.get, found.id)
                yield from self._look_at(found.id, record, found.message, message.seq in alarms)
        for record in records:
            # A listing may be old: what seems to have no message is judged after it has not changed for two leases.
            if record.id not in carried:
                yield from self._look_at(record.id, record, None, False)
            if record.expires_at is not None and self.sim.world.now >= record.expires_at and not record.state.final:
                yield from self._apply(record.id, Expired(now=self.sim.world.now))

    def _look_at(self, job_id: str, record: JobRecord | None, message: MessageRef | None, alarm: bool) -> Steps:
        now = self.sim.world.now
        found = yield from self._interpreter.find(job_id)
        if message is not None and message.bare and found is not None and not found.message.same(message):
            # Whoever moved it onto its id's subject died before it removed the bare one (P8).
            yield from self._interpreter.remove(message)
            return
        old = record is not None and found is not None and found.generation <= record.generation
        if (
            record is not None
            and found is not None
            and old
            and (record.state.final or found.generation < record.generation)
        ):
            yield from self._apply(job_id, Leftover(found=found, now=now))
            return
        if record is not None and record.state is JobState.running and (found is None or old):
            return
        if record is not None and record.state.final and found is None:
            if self.sim.registry.expiring(job_id):
                return
        state = (message, record)
        since = self._seen.get(job_id)
        if since is None or since[0] != state:
            self._seen[job_id] = (state, now)
            if not alarm:
                return
        due = max(self._seen[job_id][1], (record.due_at or 0.0) if record is not None else 0.0)
        if alarm or now >= due + 2 * LEASE_S:
            del self._seen[job_id]
            yield from self._apply(job_id, Stuck(now=now, max_lost=self.sim.rules.max_lost))

    def _apply(self, job_id: str, event: Event) -> Steps:
        yield from self._interpreter.apply(job_id, event)
