"""What must hold at every step of every history, by name: called at each change that the simulated server makes.

A `Violation` carries the name; tests of mutations assert which one caught them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tests.sim.jetstream import Message
from tests.sim.perform import BARE, delivery_of
from tests.sim.world import LEASE_S, Host
from turnout.core.events import Aborted, Cancelled, CancelRequested, Completed, Event, Failed, Received, Reported
from turnout.core.values import FINAL, Delivery, JobRecord, JobState, Outcome, Token

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

OWNERS = (Reported, Completed, Failed, Cancelled, Aborted)
EARLY_SLACK_S = 0.02


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
        self.accepted: dict[str, int] = {}
        """The newest generation of each job that was ever stored."""
        self.ended: dict[tuple[str, int], JobRecord] = {}
        """How each generation ended: (payload, generation) -> its final record. A payload names a life of an id."""
        self.runs: dict[tuple[str, int, int], int] = {}
        self.final: dict[str, int] = {}
        """The newest generation of each id that ended."""
        self.deleted: set[str] = set()
        """Ids whose record somebody deleted, and that were not submitted again."""
        self.discarded: set[str] = set()
        """The payloads of the lives that were deleted."""
        sim.work.on_store = self.stored
        sim.work.on_gone = self.gone
        sim.work.on_second_voice = self.one_voice

    # -- the record ----------------------------------------------------------------------------------------------------

    def saved(self, before: JobRecord | None, after: JobRecord, expires: bool, event: Event) -> None:
        self.deleted.discard(after.id)
        self.one_terminal_state(before, after)
        self.stale_attempts_change_nothing(before, after, event)
        self.budgets(before, after)
        self.a_healthy_owner_keeps_its_job(before, after, event)
        if expires and not after.state.final:
            raise Violation("U7 next actor", f"{after.id} is {after.state} and its record would expire")
        if after.state.final:
            self.final[after.id] = after.generation
            self.ended[after.payload.text or "", after.generation] = after
        self.accepted[after.id] = max(self.accepted.get(after.id, 0), after.generation)

    def one_terminal_state(self, before: JobRecord | None, after: JobRecord) -> None:
        """U2: a generation ends once; what its final record says stays, and only a new generation goes on."""
        if before is None:
            ended = self.ended.get((after.payload.text or "", after.generation))
            if ended is not None:
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

    def stale_attempts_change_nothing(self, before: JobRecord | None, after: JobRecord, event: Event) -> None:
        """U3: only the attempt whose token the record bears writes as its owner; others leave a running record alone,
        but for a request to cancel it and for a verdict that its owner is lost.
        """
        if isinstance(event, OWNERS) and (before is None or not before.owned_by(event.token)):
            raise Violation(
                "U3 stale attempts change nothing", f"{type(event).__name__} of {event.token} changed {before}"
            )
        if before is None or before.state is not JobState.running or isinstance(event, OWNERS):
            return
        if isinstance(event, CancelRequested):
            if after != attrs.evolve(before, cancel_request=after.cancel_request):
                raise Violation("U3 stale attempts change nothing", f"a cancel request changed more than that: {after}")
        elif after.losses != before.losses + 1:
            raise Violation("U8 one owner", f"{type(event).__name__} took {after.id} from {before.token} uncounted")

    def budgets(self, before: JobRecord | None, after: JobRecord) -> None:
        """U4: failures <= max_attempts, losses <= max_lost + 1, and every attempt is accounted for."""
        policy = after.options.retry or after.rules.retry
        if after.failures > policy.max_attempts or after.losses > after.rules.max_lost + 1:
            raise Violation("U4 budgets", f"{after.id}: {after.failures} failures, {after.losses} losses")
        number = before.attempt if before is not None else 0
        if not number <= after.attempt <= number + 1 or (
            after.attempt > number and after.state is not JobState.running
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

    def a_healthy_owner_keeps_its_job(self, before: JobRecord | None, after: JobRecord, event: Event) -> None:
        """U9: no attempt is declared lost whose owner has run it, neither frozen nor cut off, since before the verdict.

        That the server was away is no excuse: it was away for everybody.
        """
        if before is None or before.state is not JobState.running or before.token is None:
            return
        if after.losses == before.losses or isinstance(event, OWNERS):
            return
        asked_at = event.now if isinstance(event, Received) else getattr(event, "now", 0.0)
        for node in self.sim.workers:
            well = node.host.alive and not node.host.cut and node.host.well_since <= asked_at
            if before.token.nonce in node.holds and well:
                raise Violation(
                    "U9 a healthy owner keeps its job", f"{before.token} was declared lost by {type(event).__name__}"
                )

    # -- the message ---------------------------------------------------------------------------------------------------

    def stored(self, message: Message) -> None:
        self.sim.note(f"     stored: {message.subject} {message.seq} {message.headers}")
        target = message.headers.get("target", message.subject)
        if target.startswith(BARE):
            found = delivery_of(attrs.evolve(message, subject=target) if target != message.subject else message)
            self.accepted[found.id] = max(self.accepted.get(found.id, 0), found.generation)
            self.deleted.discard(found.id)

    def gone(self, message: Message, why: str) -> None:
        """U5, U6 and U1: called after a message left the stream."""
        self.sim.note(f"     {why}: {message.subject} {message.seq}")
        if message.subject == "faults" or why == "fired" or not message.subject.startswith((BARE, "timers")):
            return
        target = message.headers.get("target", message.subject)
        found = delivery_of(attrs.evolve(message, subject=target) if target != message.subject else message)
        record, _ = self.sim.registry.get(found.id)
        if why == "ack":
            self.settled_after_the_end_was_recorded(found, record)
        owed = record is not None and record.state is JobState.faulted and record.generation == found.generation
        if record is not None and owed and self.carried(found.id) < found.generation:
            self.faulted_means_a_letter(record)
        self.no_job_is_lost(found.id)

    def settled_after_the_end_was_recorded(self, found: Delivery, record: JobRecord | None) -> None:
        """U5: nobody acks a message but of a life that has ended by its record, or a duplicate of one that goes on."""
        over = record is not None and (
            record.generation > found.generation
            or record.state.final
            or (record.state is JobState.scheduled and not found.scheduled and not found.replaced)
        )
        elsewhere = self.carried(found.id) >= found.generation
        if not over and not elsewhere and found.id not in self.deleted:
            state = record.state if record is not None else "without a record"
            raise Violation("U5 settled after recorded", f"the message of {found.id} was acked while it is {state}")

    def faulted_means_a_letter(self, record: JobRecord) -> None:
        """U6: a faulted job has a dead letter, exactly one per generation, before its message goes."""
        count = len(self.sim.letters.under(f"faults.act.{record.id}.{record.generation}"))
        if count != 1:
            raise Violation(
                "U6 faulted means a letter", f"{record.id}, generation {record.generation}: {count} letters"
            )

    def carried(self, job_id: str) -> int:
        """The newest generation of a job that a message or a schedule carries, 0 for none."""
        newest = 0
        for message in self.sim.work.messages.values():
            target = message.headers.get("target", message.subject)
            if target.endswith(job_id) or target == BARE:
                found = delivery_of(message)
                if found.id == job_id or target != message.subject:
                    newest = max(newest, found.generation)
        return newest

    def no_job_is_lost(self, job_id: str) -> None:
        """U1 and U7: the newest generation of an accepted job is in a message or a schedule, or the record tells of it.

        How it ended, or all that the sweep needs to put it in anew: so it has a next actor.
        """
        record, _ = self.sim.registry.get(job_id)
        told = record.generation if record is not None else self.final.get(job_id, 0)  # its retention may be over
        known = max(told, self.carried(job_id))
        if known < self.accepted.get(job_id, 0) and job_id not in self.deleted:
            raise Violation("U1 no job is lost", f"nothing tells of {job_id}, generation {self.accepted[job_id]}")

    # -- the code ------------------------------------------------------------------------------------------------------

    def started(self, token: Token, record: JobRecord) -> None:
        """U10 and U11: code runs only for an attempt that was recorded, once, and never anew for a life that has ended.

        (A node that froze right after its start was recorded may run its code when all is over: a zombie like any.)
        """
        life = (record.payload.text or "", record.generation)
        ended = self.ended.get(life)
        if ended is not None and record.attempt not in [attempt.number for attempt in ended.attempts]:
            raise Violation("U10 ended jobs do not run again", f"{record.id} was {ended.state}")
        key = (*life, record.attempt)
        self.runs[key] = self.runs.get(key, 0) + 1
        if self.runs[key] > 1:
            raise Violation("U11 an attempt runs once", f"attempt {record.attempt} of {record.id} runs a second time")

    def zombies_stop(self, host: Host, token: Token, job_id: str) -> None:
        """U14: code whose lease was lost three leases ago, and whose node was in contact since, was told to stop."""
        record, _ = self.sim.registry.get(job_id)
        since = self.sim.world.now - 3 * LEASE_S
        if record is None or host.contact_since is None or host.contact_since > since:
            return
        for attempt in record.attempts:
            lost = attempt.outcome is Outcome.lost and attempt.number == token.attempt and attempt.node == token.node
            if lost and (attempt.ended_at or 0.0) <= since:
                raise Violation("U14 zombies stop", f"{token} ran on although it was declared lost")

    def one_voice(self, message: Message) -> None:
        """U15: nobody extends what it has itself given back with a delay (P10)."""
        raise Violation("U15 one voice", f"{message.naked_by} extended message {message.seq} after its own nak")

    def promised(self, job_id: str, generation: int) -> None:
        """U1: what a client was told is stored, is."""
        self.accepted[job_id] = max(self.accepted.get(job_id, 0), generation)
        self.no_job_is_lost(job_id)

    def not_early(self, before: JobRecord | None, after: JobRecord) -> None:
        """U12: no attempt starts before it is due."""
        if before is not None and before.due_at is not None and after.state is JobState.running:
            if before.state is not JobState.running and self.sim.world.now < before.due_at - EARLY_SLACK_S:
                raise Violation(
                    "U12 never early", f"{after.id} starts {before.due_at - self.sim.world.now:.2f} s early"
                )

    # -- at rest -------------------------------------------------------------------------------------------------------

    def unfinished(self) -> str:
        """U13: what keeps the world from rest, "" when everything has ended and been cleared away."""
        for job_id in self.accepted:
            record, _ = self.sim.registry.get(job_id)
            if job_id in self.deleted or (record is None and self.final.get(job_id, 0) >= self.accepted[job_id]):
                continue
            if record is None or record.state not in FINAL or record.generation < self.accepted[job_id]:
                return f"{job_id} is {record.state if record is not None else 'queued'}"
            if not self.sim.registry.expiring(job_id):
                return f"the record of {job_id} would be kept for ever"
        if self.sim.work.messages:
            return f"left over: {next(iter(self.sim.work.messages.values()))}"
        if any(node.live for node in self.sim.workers if node.host.alive):
            return "code runs"
        return ""

    def at_rest(self) -> None:
        for record in self.ended.values():
            if record.state is JobState.faulted and record.payload.text not in self.discarded:
                self.faulted_means_a_letter(record)
        for job_id in self.accepted:
            self.no_job_is_lost(job_id)
