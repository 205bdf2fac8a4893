"""What the simulation must notice: each mutation takes one rule away from production code while it is simulated.

`MUTANTS` wrap decide(); `MISSING` are rules that the interpreter, the workers, the supervisor and the store keep. Each
has plans in which it shows when the rule is not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from tests.sim import nodes
from tests.sim.invariants import Violation
from tests.sim.network import SimConnection
from tests.sim.plan import Act, Fault, Plan
from tests.sim.seams import Patch
from tests.sim.world import HOST
from tests.support.values import changed
from turnout import wire
from turnout.core import lifecycle
from turnout.core.effects import Abandon, Ack, Effect, Nak, Replace, Save, WriteDeadLetter
from turnout.core.events import (
    Aborted,
    Cancelled,
    CancelRequested,
    Completed,
    Event,
    Expired,
    Failed,
    Leftover,
    Lost,
    Received,
    RetryRequested,
    Stuck,
    Submitted,
    Verdict,
)
from turnout.core.record import JobRecord, JobState, MessageRef
from turnout.definition.retention import Retention
from turnout.errors import OutcomeUnknown, ServerUnavailable
from turnout.nats.messages import EXPECTED
from turnout.store import records
from turnout.store.dead_letters import DeadLetters
from turnout.store.failure_detector import FailureDetector
from turnout.store.nodes import Answer, Nodes
from turnout.store.perform import Applied, Performer
from turnout.store.queue import WorkQueue
from turnout.store.records import Conflict, Registry, Versioned
from turnout.worker.attempt import Attempt
from turnout.worker.control import Control
from turnout.worker.keeper import LeaseKeeper
from turnout.worker.leases import Lease
from turnout.worker.loop_watch import LoopWatch

Effects = tuple[Effect, ...]
Decide = Callable[[JobRecord | None, Event], Effects]
ENDS = (Completed, Failed, Cancelled, Aborted)


def settle_before_save(record: JobRecord | None, event: Event) -> Effects:
    """Settling comes first: a crash in between loses the job."""
    effects = lifecycle.decide(record, event)
    if isinstance(event, ENDS):
        return tuple(sorted(effects, key=lambda effect: not isinstance(effect, Ack | Nak)))
    return effects


def letter_after_ack(record: JobRecord | None, event: Event) -> Effects:
    """P4: the dead letter comes after the message was removed."""
    return tuple(sorted(lifecycle.decide(record, event), key=lambda effect: isinstance(effect, WriteDeadLetter)))


def no_letter_for_leftovers(record: JobRecord | None, event: Event) -> Effects:
    """P4: whoever meets a faulted job's message only removes it."""
    effects = lifecycle.decide(record, event)
    met = (
        record is not None
        and record.state is JobState.faulted
        and isinstance(event, Received | Leftover | Completed | Failed)
    )
    return tuple(effect for effect in effects if not isinstance(effect, WriteDeadLetter)) if met else effects


def no_doubt_at_the_end(record: JobRecord | None, event: Event) -> Effects:
    """P1: whoever ran code writes its end, whether or not the record bears its token."""
    if isinstance(event, ENDS) and record is not None and not record.state.final:
        record = attrs.evolve(record, state=JobState.running, token=event.token)
    return lifecycle.decide(record, event)


def revision_is_ownership(record: JobRecord | None, event: Event) -> Effects:
    """P1: an owner who finds the record changed, if only by a cancel request, has lost its lease."""
    if isinstance(event, ENDS) and record is not None and record.cancel_request is not None:
        return (Abandon(),)
    return lifecycle.decide(record, event)


def generations_unseen(record: JobRecord | None, event: Event) -> Effects:
    """P2: a delivery is taken for the record's own generation."""
    if isinstance(event, Received) and record is not None:
        event = attrs.evolve(event, delivery=changed(event.delivery, generation=record.generation))
    return lifecycle.decide(record, event)


def retry_saves_first(record: JobRecord | None, event: Event) -> Effects:
    """P2: a retry resets the record in its place, and publishes nothing that tells the lives apart."""
    effects = lifecycle.decide(record, event)
    if isinstance(event, RetryRequested) and effects and record is not None:
        again = attrs.evolve(record, state=JobState.queued, failures=0, losses=0, attempts=(), finished_at=None)
        return (
            Save(again),
            *(e if not isinstance(e, Replace) else attrs.evolve(e, spec=again.spec) for e in effects[-1:]),
        )
    return effects


def lapsed_is_dead(record: JobRecord | None, event: Event) -> Effects:
    """P5: a redelivery is the verdict; nobody is asked."""
    if isinstance(event, Received) and record is not None and record.token is not None:
        event = attrs.evolve(event, asked=record.token, verdict=Verdict.gone)
    return lifecycle.decide(record, event)


def losses_uncounted(record: JobRecord | None, event: Event) -> Effects:
    """Budgets: a lost attempt costs nothing, poison goes on for ever."""
    effects = lifecycle.decide(record, event)
    if isinstance(event, Lost | Received) and record is not None:
        return tuple(
            attrs.evolve(e, record=attrs.evolve(e.record, losses=record.losses)) if isinstance(e, Save) else e
            for e in effects
        )
    return effects


def failures_unbounded(record: JobRecord | None, event: Event) -> Effects:
    """Budgets: what the code asks for (RetryLater) is granted whatever the policy says."""
    if isinstance(event, Failed) and record is not None and event.failure.fault is None:
        effects = lifecycle.decide(attrs.evolve(record, failures=0), event)
        return tuple(
            attrs.evolve(e, record=attrs.evolve(e.record, failures=record.failures + 1)) if isinstance(e, Save) else e
            for e in effects
        )
    return lifecycle.decide(record, event)


def exhausted_is_naked(record: JobRecord | None, event: Event) -> Effects:
    """P7: the sweep NAKs what is stuck; an exhausted message is not revived by that."""
    if isinstance(event, Stuck) and event.delivery is not None and lifecycle.decide(record, event):
        return (Nak(attrs.evolve(event.delivery.message, ack="built")),)
    return lifecycle.decide(record, event)


def rounds_uncounted(record: JobRecord | None, event: Event) -> Effects:
    """P7: what was put in anew doesn't say how often, so poison that kills before the first record never ends."""
    effects = lifecycle.decide(record, event)
    return tuple(attrs.evolve(e, replaced=0) if isinstance(e, Replace) else e for e in effects)


def due_unread(record: JobRecord | None, event: Event) -> Effects:
    """A delivery starts whenever it comes: a server that forgets delays breaks the retry policy."""
    if isinstance(event, Received) and record is not None and record.state is JobState.retrying:
        record = attrs.evolve(record, due_at=0.0)
    return lifecycle.decide(record, event)


def duplicates_beside_a_schedule_run(record: JobRecord | None, event: Event) -> Effects:
    """P11: whatever message of the id comes, starts the scheduled job."""
    if isinstance(event, Received) and record is not None and record.state is JobState.scheduled:
        record = attrs.evolve(record, state=JobState.queued)
    return lifecycle.decide(record, event)


def replaced_is_a_duplicate(record: JobRecord | None, event: Event) -> Effects:
    """P11: only the timer's own message starts a scheduled job, not one that the sweep put in anew."""
    if isinstance(event, Received) and record is not None and record.state is JobState.scheduled:
        if event.delivery.replaced:
            return (Ack(event.delivery.message),)
    return lifecycle.decide(record, event)


def expiring_overwrites(record: JobRecord | None, event: Event) -> Effects:
    """P12: the queued record of an expiring job is written whatever is there by then."""
    if isinstance(event, Submitted) and record is not None and event.at is None:
        return (Save(JobRecord(event.spec, JobState.queued)),)
    return lifecycle.decide(record, event)


def supervisor_only_naks(record: JobRecord | None, event: Event) -> Effects:
    """P6: the supervisor leaves the counting to the next worker's start."""
    effects = lifecycle.decide(record, event)
    return tuple(effect for effect in effects if isinstance(effect, Nak)) if isinstance(event, Lost) else effects


def cancel_takes_the_job(record: JobRecord | None, event: Event) -> Effects:
    """P1: a client's cancel ends a running job in the record, over its owner's head."""
    if isinstance(event, CancelRequested) and record is not None and record.state is JobState.running:
        record = attrs.evolve(record, state=JobState.queued)
    return lifecycle.decide(record, event)


@attrs.frozen
class Tooth:
    """A rule, what it costs to be without it, and the invariants that may notice first.

    `take` makes the patches that take it away. `plans` are histories in which it shows.
    """

    costs: str
    caught_by: tuple[str, ...]
    plans: tuple[Plan, ...]
    take: Callable[[], list[Patch]] = list

    def unnoticed(self, rule: str, run: Callable[..., object]) -> str:
        """Why the simulation does not notice that this rule is missing, "" if it does; with it all must go well."""
        for plan in self.plans:
            try:
                run(plan, patches=self.take())
            except Violation as violation:
                run(plan)
                caught = violation.name.split()[0] in self.caught_by
                return "" if caught else f"{rule} is caught by {violation}"
        return f"{rule} survives"


def plans(script: str, *extra: Fault | Act, kind: str = "plain", seeds: int = 20, **more: Any) -> tuple[Plan, ...]:
    """The same plan under several seeds."""
    faults = tuple(e for e in extra if isinstance(e, Fault))
    acts = tuple(e for e in extra if isinstance(e, Act))
    plan = attrs.evolve(Plan(jobs=((kind, script),), faults=faults, acts=acts), **more)
    return tuple(attrs.evolve(plan, seed=seed) for seed in range(seeds))


def seeds(*numbers: int) -> tuple[Plan, ...]:
    """The random plans of these seeds."""
    return tuple(map(Plan.of_seed, numbers))


# -- rules of the interpreter, the store, the workers and the supervisor -----------------------------------------------


def unfenced(*states: JobState) -> list[Patch]:
    """Records in these states are written whatever is there."""
    fenced = SimConnection.store_nowait

    def store_nowait(self: Any, subject: str, data: bytes, headers: Any = None, **more: Any) -> Any:
        if subject.startswith("$KV.sim_jobs.") and wire.state_of(data) in states:
            headers = {name: value for name, value in headers.items() if name != EXPECTED}
        return fenced(self, subject, data, headers, **more)

    return [(SimConnection, "store_nowait", store_nowait)]


def conflicts_unheeded() -> list[Patch]:
    """A write that is refused counts as done."""
    heeded = Registry.save

    async def save(self: Any, record: JobRecord, revision: int, expires: bool = False) -> Versioned:
        try:
            return await heeded(self, record, revision, expires)
        except Conflict:
            return Versioned(record, revision)

    return [(Registry, "save", save)]


def silence_is_stored() -> list[Patch]:
    """A write that nobody answers counts as done."""
    heeded = Registry.save

    async def save(self: Any, record: JobRecord, revision: int, expires: bool = False) -> Versioned:
        try:
            return await heeded(self, record, revision, expires)
        except (OutcomeUnknown, ServerUnavailable):
            return Versioned(record, revision)

    return [(Registry, "save", save)]


def nobody_asks() -> list[Patch]:
    async def ask(self: Any, token: Any, **more: Any) -> Answer:
        return Answer(Verdict.gone, said=True)

    return [(Nodes, "ask", ask)]


def silence_is_a_verdict() -> list[Patch]:
    heard = Nodes.ask

    async def ask(self: Any, token: Any, **more: Any) -> Answer:
        answer = await heard(self, token, **more)
        return Answer(Verdict.gone, said=True) if answer.verdict is Verdict.silent else answer

    return [(Nodes, "ask", ask)]


def always_confident() -> list[Patch]:
    return [(FailureDetector, "__call__", lambda self: True)]


def registered_late() -> list[Patch]:
    known = Control._answer

    def answer(self: Control, reply: str, body: dict[str, Any]) -> None:
        lease = self.leases.of(wire.load_token(body["ask"]).nonce)
        if lease is not None and lease.token is None:
            self.reply(reply, b'{"yes":false}')
        else:
            known(self, reply, body)

    return [(Control, "_answer", answer)]


def unapplied(left_out: Callable[[Event, str], bool], instead: bytes = b"") -> list[Patch]:
    """Some events, by whom they come from, do nothing; or all that is done is to settle the message so."""
    applied = Performer.apply

    async def apply(self: Any, activity: str, job_id: str, event: Event, job: Versioned | None = None) -> Applied:
        host = HOST.get()
        if host is None or not left_out(event, host.name):
            return await applied(self, activity, job_id, event, job)
        known = await self._store.registry.load(activity, job_id)
        if instead and known.record is not None and known.record.message is not None:
            self._settle(known.record.message, instead)
        return Applied(known, ())

    return [(Performer, "apply", apply)]


def of_the_sweep(event: Event, host: str) -> bool:
    return host.startswith("sup") and isinstance(event, Stuck | Leftover | Expired)


def ids_are_names() -> list[Patch]:
    named = wire.message_headers

    def message_headers(spec: Any, nonce: str, **more: Any) -> dict[str, str]:
        return {**named(spec, nonce, **more), wire.MSG_ID: spec.id}

    return [(wire, "message_headers", message_headers)]


def bare_stay() -> list[Patch]:
    moved = WorkQueue.replace

    async def replace(self: Any, spec: Any, expected_seq: int, replaced: int, nonce: str) -> None:
        if wire.parse_bare_id(spec.id) is None:
            await moved(self, spec, expected_seq, replaced, nonce)
            return
        subject = self._names.bare(spec.activity)
        last = await self._connection.get_message(self._names.work, last_by_subj=subject)
        expected = {EXPECTED: str(last.seq if last is not None else 0), "Nats-Rollup": "sub"}
        body = (spec.payload.text or "").encode()
        await self._store(subject, body, wire.message_headers(spec, nonce, replaced=replaced) | expected)

    return [(WorkQueue, "replace", replace)]


def one_more_voice() -> list[Patch]:
    def settle(self: LeaseKeeper, lease: Lease, message: MessageRef, data: bytes) -> None:
        self._work.send(message.ack, data)

    return [(LeaseKeeper, "settle", settle), (LeaseKeeper, "release", lambda self, lease: None)]


def undoubted() -> list[Patch]:
    async def confirm(self: LeaseKeeper, connection: Any, lease: Lease) -> bool:
        self._extend(connection, lease)
        return True

    return [(LeaseKeeper, "_confirm_one", confirm), (Attempt, "changed", lambda self, job: None)]


def letterless() -> list[Patch]:
    async def write(self: Any, record: JobRecord) -> None:
        pass

    return [(DeadLetters, "write", write)]


def never_late() -> list[Patch]:
    async def came_late(self: Any, job: Versioned, event: Event) -> bool:
        return False

    return [(Performer, "_came_late", came_late)]


FROZEN = plans("C", Fault("freeze", 0.1, 9.0, 0)) + plans("C", Fault("freeze", 0.1, 9.0, 1))
THAWED = plans("CW", Fault("freeze", 0.1, 9.0, 0)) + plans("CW", Fault("freeze", 0.1, 9.0, 1))
TWICE_UNRECORDED = plans("C", kind="delayed", deliver=2, crash=(3, 4))
BESIDE_A_SCHEDULE = plans("C", Act("beside", 1.0), kind="delayed")
FORGOTTEN = plans("C", Act("delete", 6.0), Fault("kill", 12.0, 3.0))

MUTANTS: dict[Decide, Tooth] = {
    settle_before_save: Tooth("a crash in between loses the job", ("U5", "U6"), plans("C") + plans("X")),
    letter_after_ack: Tooth("a crash in between loses the letter", ("U6",), plans("X")),
    no_letter_for_leftovers: Tooth("whoever died before the letter leaves none", ("U6",), plans("X", crash=(4,))),
    no_doubt_at_the_end: Tooth("a zombie writes over its successor", ("U3",), THAWED),
    revision_is_ownership: Tooth("a cancel costs an owner its job", ("U17",), plans("I", Act("cancel", 0.6))),
    generations_unseen: Tooth("a retry is taken for a duplicate", ("U1", "U5", "U13"), plans("X", Act("retry", 3.0))),
    retry_saves_first: Tooth("two lives are one", ("U2",), plans("X", Act("retry", 3.0))),
    lapsed_is_dead: Tooth("hours of work begin again", ("U9",), plans("W", Fault("early", 0.7))),
    losses_uncounted: Tooth("poison goes on for ever", ("U8", "U4", "U3"), plans("K")),
    failures_unbounded: Tooth("a job asks for attempts without end", ("U4",), plans("LLLLLL")),
    exhausted_is_naked: Tooth("nothing revives it", ("U13",), plans("KZF", deliver=2)),
    rounds_uncounted: Tooth("poison before the first record never ends", ("U5", "U13"), TWICE_UNRECORDED),
    due_unread: Tooth("a forgotten delay starts it early", ("U12",), plans("F", Fault("early", 0.8))),
    duplicates_beside_a_schedule_run: Tooth("it runs before its time", ("U12",), BESIDE_A_SCHEDULE),
    replaced_is_a_duplicate: Tooth("what the sweep put in anew is thrown away", ("U5", "U13"), TWICE_UNRECORDED),
    expiring_overwrites: Tooth("a client takes a job from its worker", ("U8", "U3", "U2"), plans("C", kind="expiring")),
    supervisor_only_naks: Tooth("poison with no worker left runs for ever", ("U13",), plans("KK", deliver=2)),
    cancel_takes_the_job: Tooth("an owner is robbed", ("U3",), plans("W", Act("cancel", 0.7))),
}
"""decide() without one of its rules."""

MISSING: dict[str, Tooth] = {
    "start CAS": Tooth(
        "two start it, or one starts what has ended",
        ("U2", "U3", "U8", "U4"),
        seeds(*range(20)),
        lambda: unfenced(JobState.running),
    ),
    "end CAS": Tooth(
        "an end that was held up overwrites what has happened since",
        ("U2", "U3"),
        FROZEN,
        lambda: unfenced(JobState.completed, JobState.faulted, JobState.retrying),
    ),
    "conflicts": Tooth(
        "what was refused is settled upon",
        ("U2", "U5", "U8", "U11", "U13", "U17"),
        seeds(*range(20)),
        conflicts_unheeded,
    ),
    "unanswered writes": Tooth(
        "what never arrived is settled upon",
        ("U1", "U5", "U9", "U10", "U11", "U17"),
        plans("PC", Fault("lossy", 0.1, 2.0), seeds=60),
        silence_is_stored,
    ),
    "letters": Tooth("a fault leaves no letter", ("U6",), plans("X"), letterless),
    "ask": Tooth("a redelivery is a verdict", ("U9",), plans("W", Fault("early", 0.7)), nobody_asks),
    "silence": Tooth(
        "no answer is a verdict",
        ("U9",),
        plans("W", Fault("lossy", 0.3, 5.0), Fault("early", 0.7), Fault("early", 1.4), seeds=400),
        silence_is_a_verdict,
    ),
    "self doubt": Tooth(
        "after an outage whoever is back first declares the others dead",
        ("U9",),
        plans("WC", Fault("server", 0.4, 5.0), Fault("early", 6.0))
        + plans("WC", Fault("kill", 0.4, 7.0), Fault("early", 8.2)),
        always_confident,
    ),
    "registered first": Tooth(
        "an owner denies the attempt that it is about to start",
        ("U9",),
        plans("W", Fault("lossy", 0.0, 3.0), *(Fault("early", n / 10) for n in range(1, 12)), seeds=400),
        registered_late,
    ),
    "supervisor decides": Tooth(
        "poison with no worker left runs for ever",
        ("U13",),
        plans("KK", deliver=2),
        lambda: unapplied(lambda event, host: host.startswith("sup") and isinstance(event, Lost), b"-NAK"),
    ),
    "sweep": Tooth("what is exhausted stays so", ("U13",), plans("KZF", deliver=2), lambda: unapplied(of_the_sweep)),
    "walks the stream": Tooth(
        "nobody finds a job that never got a record",
        ("U13",),
        plans("C", deliver=2, crash=(2, 3)),
        lambda: unapplied(lambda event, host: isinstance(event, Stuck) and event.delivery is not None),
    ),
    "nonces": Tooth("the window swallows a retry", ("U1",), plans("X", Act("retry", 5.0)), ids_are_names),
    "bare moves": Tooth(
        "a rollup on the bare subject wipes all bare jobs",
        ("U1",),
        plans("K", jobs=(("bare", "K"),) * 3, deliver=2),
        bare_stay,
    ),
    "node nonce": Tooth(
        "a namesake answers for the owner",
        ("U9", "U17"),
        plans("W", Fault("early", 0.7)),
        lambda: [(nodes, "node_name", lambda number, life: "node")],
    ),
    "age": Tooth(
        "what lay in a frozen worker runs when all trace of the job is gone",
        ("U2",),
        sum((plans("C", Fault("freeze", n / 1000, 60.0), Act("delete", 10.0), seeds=6) for n in range(2, 20, 3)), ()),
        lambda: [
            (LoopWatch, "asleep_s", lambda self: 0.0),
            (LeaseKeeper, "trouble", None),
            (records, "MARKER_TTL_S", 20),
        ],
    ),
    "late": Tooth(
        "a delivery of a job that was deleted meanwhile begins it again", ("U2", "U10"), FORGOTTEN, never_late
    ),
    "marker": Tooth(
        "an ack that comes back revives a deleted job",
        ("U2",),
        FORGOTTEN,
        lambda: [(Versioned, "late", lambda self, message: False)],
    ),
    "retention": Tooth(
        "an ack that comes back finds no record any more",
        ("U2",),
        plans("C", Fault("pass", 0.5, 9.0), Fault("kill", 10.0, 2.0)),
        lambda: [(Retention, "of", lambda self, state, generation=1: 5.0)],
    ),
    "doubt": Tooth("a zombie holds the message and runs on", ("U14",), plans("D"), undoubted),
    "one voice": Tooth(
        "one's own +WPI undoes one's own nak(delay)", ("U15",), plans("FC") + plans("LC"), one_more_voice
    ),
}
"""Rules that the interpreter, the store, the workers and the supervisor keep."""
