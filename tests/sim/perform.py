"""The interpreter of the simulation: performs the effects of `decide()` over a link that may lose or delay them.

The same effects as src/turnout/jetstream/perform.py, in the same order, with a place to crash before each.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import attrs

from tests.sim.jetstream import Delivered, Message, WrongLastSequence
from tests.sim.world import Host, Signal, SimError, Steps, Unanswered, sleep
from turnout.core.effects import (
    Ack,
    Ask,
    Effect,
    Letter,
    Nak,
    Notify,
    Publish,
    Remove,
    Replace,
    Save,
    Schedule,
    Unschedule,
)
from turnout.core.events import (
    CancelRequested,
    Ended,
    Event,
    Expired,
    Lost,
    Received,
    RetryRequested,
    Stuck,
    Submitted,
    Verdict,
)
from turnout.core.values import Body, Delivery, JobRecord, MessageRef, SubmitOptions, Token

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

BARE = "jobs.act"
FINDING = (CancelRequested, RetryRequested, Expired, Stuck)
RETENTION_S = 7 * 86_400.0
ASK_TIMEOUT_S = 0.5
VERDICT_S = 3.0
"""How long a verdict on an owner may be acted upon."""
Loaded = tuple[JobRecord | None, int]


class Taken(SimError):
    """The subject already carries somebody else's message."""


class _MovedOn(SimError):
    """What an effect rested on is no longer so."""


def subject_of(job_id: str) -> str:
    return f"{BARE}.{job_id}"


def timer_of(job_id: str) -> str:
    return f"timers.act.{job_id}"


def delivery_of(message: Message | Delivered, max_deliver: int = 0) -> Delivery:
    """The job that a message of the work stream carries; with an ack subject if it was delivered."""
    bare = message.subject == BARE
    headers = message.headers
    delivered = isinstance(message, Delivered)
    return Delivery(
        id=f"{message.seq}-{message.time_ns:x}" if bare else message.subject.rpartition(".")[2],
        activity="act",
        message=MessageRef(message.seq, message.time_ns, f"ack.{message.seq}" if delivered else "", bare),
        generation=headers.get("generation", 1),
        payload=Body(text=message.data),
        options=headers.get("options") or SubmitOptions(),
        number=message.count if delivered else 1,
        exhausted=delivered and message.count >= max_deliver,
        scheduled="scheduled" in headers,
        replaced=headers.get("replaced", 0),
    )


class Interpreter:
    """Applies events on behalf of one host."""

    def __init__(self, sim: Simulation, host: Host) -> None:
        self.sim = sim
        self.host = host

    def read(self, act: Any, *args: Any) -> Steps:
        """An answer from the leader, however long it takes."""
        while True:
            try:
                return (yield self.host.link.call(act, *args))
            except Unanswered:
                yield sleep(0.2)

    def apply(self, job_id: str, event: Event, loaded: Loaded | None = None) -> Steps:
        """Returns (record, revision) and the effects performed last, () when the message turned out to be gone."""
        judged_at = self.sim.world.now
        while True:
            try:
                if loaded is None:
                    loaded = yield from self.read(self.sim.registry.get, job_id)
                    if isinstance(event, FINDING):
                        event = attrs.evolve(event, found=(yield from self.find(job_id)))
                    if loaded[0] is None and not (yield from self.may_begin(event)):
                        return loaded, ()
                if self.sim.world.now - judged_at > VERDICT_S:
                    # A verdict is not carried over an outage: the owner may be back (P5).
                    if isinstance(event, Lost):
                        return loaded, ()
                    if isinstance(event, Received):
                        event = attrs.evolve(event, asked=None, verdict=None)
                asked, loaded, effects = yield from self._perform(event, loaded)
                if asked is None:
                    return loaded, effects
                event, judged_at = asked, self.sim.world.now
            except (WrongLastSequence, _MovedOn):
                loaded = None
            except Unanswered:
                loaded = None
                yield sleep(0.1)

    def may_begin(self, event: Event) -> Steps:
        """P9, where there is no record: a message must still be there before one is created for it; and where a deleted
        record left its marker, it must be of a later life: stored after the delete, or of a newer generation.
        """
        sim = self.sim
        delivery = event.delivery if isinstance(event, Received) else getattr(event, "found", None)
        if isinstance(event, Submitted):
            marker = yield from self.read(sim.registry.marker, event.draft.id)
            return marker is None or marker[0] < event.draft.submitted_at  # else it has lived and was deleted
        if delivery is None:
            return True
        marker = yield from self.read(sim.registry.marker, delivery.id)
        if marker is not None and not sim.without("marker"):
            if delivery.message.time <= marker[0] and delivery.generation <= marker[1]:
                yield from self.remove(delivery.message)
                return False
        if not isinstance(event, Received) or sim.without("exists"):
            return True
        message = yield from self.read(sim.work.get, delivery.message.seq)
        return message is not None and message.time_ns == delivery.message.time_ns

    def find(self, job_id: str) -> Steps:
        message = yield from self.read(self.sim.work.last, subject_of(job_id))
        position = re.fullmatch(r"(\d+)-([0-9a-f]+)", job_id)
        if message is None and position is not None:
            message = yield from self.read(self.sim.work.get, int(position[1]))
            if message is not None and (message.subject != BARE or message.time_ns != int(position[2], 16)):
                message = None
        return delivery_of(message) if message is not None else None

    def _perform(self, event: Event, loaded: Loaded) -> Steps:
        effects = self.sim.decide(loaded[0], event)
        for effect in effects:
            self.sim.before_effect(self.host, effect)
            if isinstance(effect, Ask):
                assert isinstance(event, Received), "only a delivery asks for an owner"
                verdict, wait_s = yield from self.ask(effect.token)
                return attrs.evolve(event, asked=effect.token, verdict=verdict, wait_s=wait_s), loaded, effects
            loaded = yield from self._do(effect, loaded, event)
        return None, loaded, effects

    def _do(self, effect: Effect, loaded: Loaded, event: Event) -> Steps:
        sim = self.sim
        match effect:
            case Save(record, expires):
                revision = None if sim.unfenced(event) else loaded[1]
                ttl_s = (5.0 if sim.without("retention") else RETENTION_S) if expires else None
                return record, (yield self.host.link.call(sim.save, record, revision, ttl_s, event))
            case Letter(record):
                subject = f"faults.act.{record.id}.{record.generation}"
                with contextlib.suppress(WrongLastSequence):
                    yield self.host.link.call(lambda: sim.letters.publish(subject, record, expected=0))
            case Ack(message) if message.ack:
                self.host.lease_link.cast(sim.work.ack, message.seq)
            case Nak(message, delay_s) if message.ack:
                link = self.host.link if sim.without("one voice") else self.host.lease_link
                by = event.token.nonce if isinstance(event, Ended) else ""
                link.cast(sim.work.nak, message.seq, delay_s, by)
            case Publish(record):
                yield from self._publish(subject_of(record.id), record, {}, 0)
            case Schedule(record, at):
                headers = {"Nats-Schedule": at, "target": subject_of(record.id), "scheduled": True}
                yield from self._publish(timer_of(record.id), record, headers, 0)
            case Replace(record, expected_seq, replaced):
                subject = subject_of(record.id)
                if sim.without("bare moves") and record.message is not None and record.message.bare:
                    subject, expected_seq = BARE, (yield from self.read(sim.work.last, BARE)).seq
                try:
                    yield from self._publish(subject, record, {"replaced": replaced}, expected_seq, rollup=True)
                except Taken as taken:
                    if isinstance(event, FINDING):
                        raise _MovedOn from taken
            case Remove(message):
                yield from self.remove(message)
            case Unschedule(record):
                yield self.host.link.call(sim.work.purge, timer_of(record.id))
            case Notify(token, reason):
                self.host.link.cast(sim.notify, token, reason)
            case _:
                pass  # Drop and Abandon; and nobody can settle a message without an ack subject
        return loaded

    def remove(self, message: MessageRef) -> Steps:
        """Delete by sequence, after a look that it still is this very message."""
        found = yield from self.read(self.sim.work.get, message.seq)
        if found is not None and (found.time_ns == message.time_ns or self.sim.without("timestamps")):
            yield from self.read(self.sim.work.delete, message.seq)

    def _publish(
        self, subject: str, record: JobRecord, headers: dict[str, Any], expected: int, *, rollup: bool = False
    ) -> Steps:
        """Stored once; a refusal that is due to one's own earlier, unanswered try is success (P3)."""
        nonce = record.token.nonce if record.token is not None and not rollup else self.sim.nonce()
        msg_id = record.id if self.sim.without("nonces") else f"{record.id}.{record.generation}.{nonce}"
        headers = {"generation": record.generation, "options": record.options, **headers}
        for _ in range(4):
            try:
                ack = yield self.host.link.call(
                    lambda: self.sim.work.publish(
                        subject, record.payload.text, headers, msg_id=msg_id, expected=expected, rollup=rollup
                    )
                )
                return ack
            except WrongLastSequence as refused:
                message = yield from self.read(self.sim.work.last, subject)
                if message is None or message.headers.get("Nats-Msg-Id") != msg_id:
                    raise Taken(subject) from refused
                return None
            except Unanswered:
                continue
        raise Unanswered

    def ask(self, token: Token) -> Steps:
        """P5: the owner's word; without one, what its liveness key says, if one's own is in order."""
        sim = self.sim
        if sim.without("ask"):
            return Verdict.gone, 0.0
        answer = Signal()
        self.host.link.cast(sim.ask, token, answer, self.host)
        word = yield answer.wait(ASK_TIMEOUT_S)
        if word is not None:
            return (Verdict.alive if word == "yes" else Verdict.gone), 0.0
        left_s = yield from self.read(sim.key_left, token.node)
        if left_s <= 0 and (self.host.on_time or sim.without("self doubt")):
            return Verdict.gone, 0.0
        return (Verdict.gone if sim.without("silence") else Verdict.silent), max(left_s, 1.0)
