"""What must hold at every step of every history, by name: called at each change that the server makes.

A `Violation` carries the name; tests of mutations assert which one caught them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tests.sim.world import BEGAN_AT
from turnout import wire
from turnout.core.failure import FaultReason
from turnout.core.record import FINAL, Delivery, JobRecord, JobState, MessageRef, Outcome, Token
from turnout.testing.memory import Message

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

LEASE_S = 2.0
EARLY_SLACK_S = 0.02
LAST_WORD_S = 0.5
"""Who comes back while he is being asked may be heard too late."""


class Violation(AssertionError):
    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self._text = text

    def __reduce__(self) -> tuple[type[Violation], tuple[str, str]]:
        return Violation, (self.name, self._text)  # from a process of the pool to the test


class Invariants:
    """The watcher. It sees what the server does, and which code runs; it knows no rule of the protocol."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.records: dict[str, JobRecord] = {}
        """Each job's record as the server has it."""
        self.expiring: set[str] = set()
        """The jobs whose record has begun to expire."""
        self.accepted: dict[str, int] = {}
        """The newest generation of each job that was ever stored."""
        self.ended: dict[tuple[str, int], JobRecord] = {}
        """How each generation ended: (payload, generation) -> its final record. A payload names a life of an id."""
        self.runs: dict[tuple[str, int], int] = {}
        self.final: dict[str, int] = {}
        """The newest generation of each id that ended."""
        self.deleted: set[str] = set()
        """Ids whose record somebody deleted, and that were not submitted again."""
        self.discarded: set[str] = set()
        """The payloads of the lives that were deleted."""
        self.leaving: set[str] = set()
        """Ids of jobs that somebody deletes, or has deleted, as nobody had begun them."""
        self.undone: set[str] = set()
        """Those among them of which he was told that they are gone."""
        self.letters: dict[str, int] = {}
        self.bare: dict[str, str] = {}
        """The ids of bare jobs, by what the plan calls them."""
        self._open: set[str] = set()
        """The jobs that may be unfinished: those of which something was stored since they were seen to be finished."""

    # -- what the server tells -----------------------------------------------------------------------------------------

    def written(self, message: Message) -> None:
        """A record, or the marker in its place, was stored."""
        if "._debounced." in message.subject:
            return
        job_id = message.subject.rpartition(".")[2]
        before = self.records.get(job_id)
        if not message.data:
            self.records.pop(job_id, None)
            if before is not None:
                self.deleted.add(job_id)
                self.discarded.add(before.spec.payload.text or "")
            return
        after = wire.load_record(message.data)
        self.sim.note(f"     saved {job_id} {after.state} g{after.generation} a{after.attempt} by {self.sim.writer()}")
        self.records[job_id] = after
        expires = "Nats-TTL" in message.headers
        (self.expiring.add if expires else self.expiring.discard)(job_id)
        self.saved(before, after, expires)
        self.not_early(before, after)

    def expired(self, message: Message) -> None:
        """A record has outlived its retention."""
        job_id = message.subject.rpartition(".")[2]
        if job_id in self.records and message.data:
            del self.records[job_id]

    def left_nothing(self, message: Message) -> None:
        """A record was removed, and nothing is in its place."""
        if (before := self.records.pop(message.subject.rpartition(".")[2], None)) is not None:
            self.discarded.add(before.spec.payload.text or "")

    def letter(self, message: Message) -> None:
        """A dead letter was stored."""
        self.letters[message.subject] = self.letters.get(message.subject, 0) + 1

    def life(self, record: JobRecord) -> str:
        """What tells a life of a job from every other: its payload."""
        return record.spec.payload.text or ""

    # -- the record ----------------------------------------------------------------------------------------------------

    def saved(self, before: JobRecord | None, after: JobRecord, expires: bool) -> None:
        self.deleted.discard(after.id)
        self._open.add(after.id)
        self.one_terminal_state(before, after)
        self.stale_attempts_change_nothing(before, after)
        self.budgets(before, after)
        self.a_healthy_owner_keeps_its_job(before, after)
        if expires and not after.state.final:
            raise Violation("U7 next actor", f"{after.id} is {after.state} and its record would expire")
        if after.state.final:
            self.final[after.id] = after.generation
            self.ended[self.life(after), after.generation] = after
        self.accepted[after.id] = max(self.accepted.get(after.id, 0), after.generation)

    def one_terminal_state(self, before: JobRecord | None, after: JobRecord) -> None:
        """U2: a generation ends once; what its final record says stays, and only a new generation goes on."""
        if before is None:
            ended = self.ended.get((self.life(after), after.generation))
            if ended is not None and not after.state.final:  # a replay puts back what the letter tells
                raise Violation(
                    "U2 one terminal state", f"{after.id} was {ended.state}, and begins again as {after.state}"
                )
            return
        if after.generation < before.generation:
            raise Violation(
                "U2 one terminal state", f"{after.id}: generation {before.generation} -> {after.generation}"
            )
        if after.generation > before.generation and not before.state.final:
            raise Violation("U2 one terminal state", f"{after.id}: generation {before.generation} had not ended")
        if before.state.final and after.generation == before.generation and after != before:
            raise Violation("U2 one terminal state", f"{after.id}: {before.state} became {after.state}")

    def stale_attempts_change_nothing(self, before: JobRecord | None, after: JobRecord) -> None:
        """U3, U8: while a job runs its owner alone writes its record; others may ask for a cancel, or count a loss."""
        if before is None or before.state is not JobState.running or before.token is None:
            return
        if after == attrs.evolve(before, cancel_request=after.cancel_request):
            return
        if after.losses == before.losses + 1:
            return
        writer = self.sim.writer()
        if writer != before.token.node or after.token != before.token:
            raise Violation(
                "U3 stale attempts change nothing" if after.state is not JobState.running else "U8 one owner",
                f"{writer} took {after.id} from {before.token} as {after.state}, {after.token}",
            )

    def budgets(self, before: JobRecord | None, after: JobRecord) -> None:
        """U4: failures <= max_attempts, losses <= max_lost + 1, and every attempt is accounted for."""
        policy = after.spec.options.retry or after.rules.retry
        if after.failures > policy.max_attempts or after.losses > after.rules.max_lost + 1:
            raise Violation("U4 budgets", f"{after.id}: {after.failures} failures, {after.losses} losses")
        last = after.attempts[-1] if after.attempts else None
        if after.reason == FaultReason.lost and last is not None and last.outcome is Outcome.lost and not last.alone:
            if after.rules.max_lost and last.generation == after.generation:
                raise Violation("U4 budgets", f"{after.id}: faulted by a loss that others may have caused")
        number = before.attempt if before is not None else 0
        begun_anew = before is not None and after.generation > before.generation and not after.attempts
        if (
            before is not None
            and not begun_anew
            and (
                not number <= after.attempt <= number + 1
                or (after.attempt > number and after.state is not JobState.running)
            )
        ):
            raise Violation("U4 budgets", f"{after.id}: attempt {number} -> {after.attempt} as {after.state}")
        of_this = [a for a in after.attempts if a.generation == after.generation]
        open_ones = sum(a.outcome is Outcome.running for a in of_this)
        counted = after.failures + after.losses + after.aborts
        ended = sum(a.outcome in (Outcome.faulted, Outcome.timed_out, Outcome.lost, Outcome.aborted) for a in of_this)
        if open_ones != (after.state is JobState.running) or (
            counted != ended and after.state is not JobState.cancelled
        ):
            raise Violation("U4 budgets", f"{after.id}: {counted} counted, {ended} ended, {open_ones} open")

    def a_healthy_owner_keeps_its_job(self, before: JobRecord | None, after: JobRecord) -> None:
        """U9: no attempt is declared lost whose owner has run it, neither frozen nor cut off, since before the verdict.

        That the server was away is no excuse: it was away for everybody.
        """
        if before is None or before.state is not JobState.running or before.token is None:
            return
        if after.losses == before.losses:
            return
        lost = next((a for a in after.attempts if a.number == before.attempt), None)
        judged_at = (lost.ended_at if lost is not None else None) or 0.0
        began_at = before.attempts[-1].started_at
        for node in self.sim.nodes:
            if node.host.name != before.token.node or not self.sim.is_well(node.host):
                continue
            well_since = node.host.well_since + BEGAN_AT
            if node.holds(before.token.nonce) and well_since + LAST_WORD_S <= judged_at:
                raise Violation(
                    "U9 a healthy owner keeps its job", f"{before.token} was declared lost by {self.sim.writer()}"
                )
            if well_since <= began_at and not node.stopping:
                raise Violation("U17 who can says how it ended", f"{before.token} was left to be found lost")

    # -- the message ---------------------------------------------------------------------------------------------------

    def stored(self, message: Message) -> None:
        self.sim.note(f"     stored: {message.subject} {message.seq} {message.headers}")
        found = self.delivery_of(message)
        if found is not None:
            self.accepted[found.id] = max(self.accepted.get(found.id, 0), found.generation)
            self.deleted.discard(found.id)
            self._open.add(found.id)
            if message.subject == self.sim.names.bare("act"):
                self.bare.setdefault(life_of(message.data.decode()).partition("#")[0], found.id)

    def delivery_of(self, message: Message) -> Delivery | None:
        """The job that a message of the work stream is, or will be when its time has come."""
        named = self.sim.names.job_of(message.headers.get("Nats-Schedule-Target", message.subject))
        if named is None:
            return None
        return wire.parse_delivery(
            *named, MessageRef(message.seq, message.time_ns), message.data, dict(message.headers)
        )

    def gone(self, message: Message, why: str) -> None:
        """U5, U6 and U1: called after a message left the stream."""
        self.sim.note(f"     {why}: {message.subject} {message.seq}")
        found = self.delivery_of(message)
        if why == "fired" or found is None:
            return
        record = self.records.get(found.id)
        if why == "ack":
            self.settled_after_the_end_was_recorded(found, record)
        owed = record is not None and record.state is JobState.faulted and record.generation == found.generation
        if record is not None and owed and self.carried(found.id) < found.generation:
            self.faulted_means_a_letter(record)
        self.no_job_is_lost(found.id)

    def settled_after_the_end_was_recorded(self, found: Delivery, record: JobRecord | None) -> None:
        """U5: nobody acks a message but of a life that has ended by its record, or waits for a limit by it, or a
        duplicate of one that goes on."""
        over = record is not None and (
            record.generation > found.generation
            or record.state.final
            or (record.state is JobState.scheduled and not found.scheduled and not found.replaced)
            or record.waits_for is not None
        )
        elsewhere = self.carried(found.id) >= found.generation
        if not over and not elsewhere and found.id not in self.deleted:
            state = record.state if record is not None else "without a record"
            raise Violation("U5 settled after recorded", f"the message of {found.id} was acked while it is {state}")

    def faulted_means_a_letter(self, record: JobRecord) -> None:
        """U6: a faulted job has a dead letter, exactly one per generation and life, before its message goes."""
        count = self.letters.get(self.sim.names.fault(record.spec.activity, record.id, record.generation), 0)
        lives = sum(1 for (_, g), e in self.ended.items() if e.id == record.id and g == record.generation)
        if not 1 <= count <= max(lives, 1):
            raise Violation(
                "U6 faulted means a letter", f"{record.id}, generation {record.generation}: {count} letters"
            )

    def carried(self, job_id: str) -> int:
        """The newest generation of a job that a message or a schedule carries, 0 for none."""
        newest = 0
        bare = self.sim.names.bare("act")
        for message in self.sim.work.messages.values():
            target = message.headers.get("Nats-Schedule-Target", message.subject)
            if target == bare or target.endswith(job_id):
                found = self.delivery_of(message)
                if found is not None and found.id == job_id:
                    newest = max(newest, found.generation)
        return newest

    def no_job_is_lost(self, job_id: str) -> None:
        """U1 and U7: the newest generation of an accepted job is in a message or a schedule, or the record tells of it.

        How it ended, or all that the sweep needs to put it in anew: so it has a next actor.
        """
        record = self.records.get(job_id)
        told = record.generation if record is not None else self.final.get(job_id, 0)  # its retention may be over
        known = max(told, self.carried(job_id))
        gone = job_id in self.deleted or job_id in self.leaving
        if known < self.accepted.get(job_id, 0) and not gone:
            raise Violation("U1 no job is lost", f"nothing tells of {job_id}, generation {self.accepted[job_id]}")

    # -- the code ------------------------------------------------------------------------------------------------------

    def started(self, record: JobRecord) -> None:
        """U10, U11 and U18: code runs only for an attempt that was recorded, once, and never anew for a life that has
        ended, nor at all for a job that somebody has deleted as nobody had begun it.

        (A node that froze right after its start was recorded may run its code when all is over: a zombie like any.)
        """
        if record.id in self.undone:
            raise Violation("U18 what was deleted does not begin", record.id)
        life = self.life(record)
        ended = self.ended.get((life, record.generation))
        if ended is not None and record.attempt not in [attempt.number for attempt in ended.attempts]:
            raise Violation("U10 ended jobs do not run again", f"{record.id} was {ended.state}")
        key = (life, record.attempt)
        self.runs[key] = self.runs.get(key, 0) + 1
        if self.runs[key] > 1:
            raise Violation("U11 an attempt runs once", f"attempt {record.attempt} of {record.id} runs a second time")

    def zombies_stop(self, contact_since: float | None, token: Token, job_id: str) -> None:
        """U14: code whose lease was lost three leases ago, and whose node was in contact since, was told to stop."""
        record = self.records.get(job_id)
        since = self.sim.world.now - 3 * LEASE_S
        if record is None or contact_since is None or contact_since > since:
            return
        for attempt in record.attempts:
            lost = attempt.outcome is Outcome.lost and attempt.number == token.attempt and attempt.node == token.node
            if lost and (attempt.ended_at or 0.0) - BEGAN_AT <= since:
                raise Violation("U14 zombies stop", f"{token} ran on although it was declared lost")

    def second_voice(self, seq: int) -> None:
        """U15: nobody extends a delivery that it has itself given back with a delay (P10)."""
        raise Violation("U15 one voice", f"{self.sim.writer()} extended message {seq} after its own nak")

    def promised(self, job_id: str, generation: int) -> None:
        """U1: what a client was told is stored, is."""
        self.accepted[job_id] = max(self.accepted.get(job_id, 0), generation)
        self.no_job_is_lost(job_id)

    def not_early(self, before: JobRecord | None, after: JobRecord) -> None:
        """U12: no attempt starts before it is due."""
        if before is not None and before.due_at is not None and after.state is JobState.running:
            early_s = before.due_at - BEGAN_AT - self.sim.world.now
            if before.state is not JobState.running and early_s > EARLY_SLACK_S:
                raise Violation("U12 never early", f"{after.id} starts {early_s:.2f} s early")

    # -- at rest -------------------------------------------------------------------------------------------------------

    def unfinished(self) -> str:
        """U13: what keeps the world from rest, "" when everything has ended and been cleared away."""
        for job_id in sorted(self._open):
            record = self.records.get(job_id)
            left = job_id in self.leaving and not self.carried(job_id)
            gone = record is None and (left or self.final.get(job_id, 0) >= self.accepted[job_id])
            if gone or job_id in self.deleted:
                self._open.discard(job_id)
                continue
            if record is None or record.state not in FINAL or record.generation < self.accepted[job_id]:
                return f"{job_id} is {record.state if record is not None else 'queued'}"
            if job_id not in self.expiring:
                return f"the record of {job_id} would be kept for ever"
            self._open.discard(job_id)
        if self.sim.work.messages:
            return f"left over: {next(iter(self.sim.work.messages.values()))}"
        if any(node.running for node in self.sim.nodes if node.host.alive):
            return "code runs"
        return ""

    def at_rest(self) -> None:
        for record in self.ended.values():
            if record.state is JobState.faulted and record.spec.payload.text not in self.discarded:
                self.faulted_means_a_letter(record)
        for job_id in self.accepted:
            self.no_job_is_lost(job_id)


def life_of(payload: str) -> str:
    """The name of a life, which its payload is: the job's as the plan calls it, and a number."""
    return payload.partition('":"')[2].partition('"')[0]
