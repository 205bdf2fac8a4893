"""A simulated JetStream: what nats-server does with a work-queue stream and its consumer, a key-value bucket, and a
stream of letters, as far as turnout rests on it. tests/behaviour holds it against a real server.

It is as unkind as the real one may be: acks are not fenced, delivery counts go back and acks come back with a crash,
alarms get lost, nak delays are forgotten, ids are remembered over the whole stream and forgotten at a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import attrs

from tests.sim.world import Link, Process, SimError, World

DEDUPE_WINDOW_S = 120.0
V = TypeVar("V")


class WrongLastSequence(SimError):
    """The subject's last sequence is not the expected one."""


@attrs.define(eq=False)
class Message:
    seq: int
    time_ns: int
    subject: str
    data: Any
    headers: dict[str, Any] = attrs.field(factory=dict)
    count: int = 0
    state: str = "new"  # new | pending | ready (to be redelivered) | stuck (max_deliver is reached)
    due_at: float = 0.0
    timer: int = 0
    naked_by: str = ""


@attrs.frozen
class Delivered:
    """A message as a pull gets it."""

    seq: int
    time_ns: int
    subject: str
    data: Any
    headers: dict[str, Any]
    count: int
    at: float


@attrs.frozen
class PubAck:
    seq: int
    duplicate: bool = False


class Stream:
    """Messages on subjects, with expectations, ids, rollup and schedules."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.messages: dict[int, Message] = {}
        self.last_seq = 0
        self.msg_ids: dict[str, tuple[int, float]] = {}
        self.on_store: Callable[[Message], None] = lambda message: None
        self.on_gone: Callable[[Message, str], None] = lambda message, why: None

    def publish(
        self,
        subject: str,
        data: Any,
        headers: dict[str, Any] | None = None,
        *,
        msg_id: str | None = None,
        expected: int | None = None,
        rollup: bool = False,
    ) -> PubAck:
        """Store a message. The expectation is checked before the id: one's own resend is refused, not `duplicate`."""
        if expected is not None:
            last = self.last(subject)
            if (last.seq if last is not None else 0) != expected:
                raise WrongLastSequence(subject)
        if msg_id is not None:
            known = self.msg_ids.get(msg_id)
            if known is not None and self.world.now - known[1] < DEDUPE_WINDOW_S:
                return PubAck(known[0], duplicate=True)
        self.last_seq += 1
        message = Message(self.last_seq, int(self.world.now * 1e9), subject, data, dict(headers or {}))
        if msg_id is not None:
            message.headers["Nats-Msg-Id"] = msg_id
            self.msg_ids[msg_id] = (message.seq, self.world.now)
        self.messages[message.seq] = message
        self.on_store(message)
        if rollup:
            for old in [m for m in self.messages.values() if m.subject == subject and m is not message]:
                self._drop(old, "rollup")
        if "Nats-Schedule" in message.headers:
            self.world.at(message.headers["Nats-Schedule"] + self.world.random.random() * 0.25, self._fire, message)
        self.changed()
        return PubAck(message.seq)

    def _fire(self, schedule: Message) -> None:
        if not self.world.server_up:
            self.world.after(0.5, self._fire, schedule)
            return
        if self.messages.get(schedule.seq) is schedule:
            headers = {k: v for k, v in schedule.headers.items() if k not in ("Nats-Schedule", "Nats-Msg-Id", "target")}
            self.publish(schedule.headers["target"], schedule.data, headers)
            self._drop(schedule, "fired")

    def last(self, subject: str) -> Message | None:
        found = None
        for message in self.messages.values():
            if message.subject == subject and (found is None or message.seq > found.seq):
                found = message
        return found

    def get(self, seq: int) -> Message | None:
        return self.messages.get(seq)

    def under(self, prefix: str) -> list[Message]:
        return sorted((m for m in self.messages.values() if m.subject.startswith(prefix)), key=lambda m: m.seq)

    def delete(self, seq: int) -> bool:
        message = self.messages.get(seq)
        if message is not None:
            self._drop(message, "delete")
        return message is not None

    def purge(self, subject: str) -> None:
        for message in [m for m in self.messages.values() if m.subject == subject]:
            self._drop(message, "purge")

    def changed(self) -> None:
        """Called after every publish; the work stream delivers then."""

    def _drop(self, message: Message, why: str) -> None:
        if self.messages.pop(message.seq, None) is not None:
            self.on_gone(message, why)


class WorkStream(Stream):
    """A work-queue stream and one explicit-ack pull consumer over the subjects under `prefix`."""

    def __init__(self, world: World, prefix: str, *, ack_wait_s: float, max_deliver: int) -> None:
        super().__init__(world)
        self.prefix = prefix
        self.ack_wait_s = ack_wait_s
        self.max_deliver = max_deliver
        self.alarms: list[int] = []
        self.delivered_seq = 0
        self.pulls: list[tuple[Link, Process, int, float]] = []
        self.on_second_voice: Callable[[Message], None] = lambda message: None
        self._acked: list[tuple[float, Message]] = []

    # -- delivering ----------------------------------------------------------------------------------------------------

    def pull(self, link: Link, process: Process, cookie: int, expires_at: float) -> None:
        self.pulls.append((link, process, cookie, expires_at))
        self.changed()

    def changed(self) -> None:
        while self.pulls and self.world.server_up:
            link, process, cookie, expires_at = self.pulls[0]
            if expires_at <= self.world.now:
                self.pulls.pop(0)
                continue
            message = self._next()
            if message is None:
                return
            self.pulls.pop(0)
            link.push(process, cookie, self.hand_over(message))

    def _next(self) -> Message | None:
        while True:
            best = None
            for message in self.messages.values():
                if message.state in ("ready", "new") and message.subject.startswith(self.prefix):
                    if best is None or (message.state, -message.seq) > (best.state, -best.seq):
                        best = message
            if best is None or best.count < self.max_deliver:
                return best
            best.state = "stuck"
            best.timer += 1
            if self.world.random.random() < 0.5:  # the other half of the alarms is lost
                self.alarms.append(best.seq)

    def hand_over(self, message: Message) -> Delivered:
        message.count += 1
        message.naked_by = ""
        message.state = "pending"
        self.delivered_seq = max(self.delivered_seq, message.seq)
        self._due(message, self.ack_wait_s)
        return Delivered(
            message.seq, message.time_ns, message.subject, message.data, message.headers, message.count, self.world.now
        )

    def _due(self, message: Message, delay_s: float) -> None:
        message.timer += 1
        message.due_at = self.world.now + delay_s
        self.world.at(message.due_at, self._redeliver, message, message.timer)

    def _redeliver(self, message: Message, timer: int) -> None:
        if self.messages.get(message.seq) is message and message.state == "pending" and message.timer == timer:
            message.state = "ready"
            self.changed()

    # -- settling: on the sequence alone, whoever sends it

    def ack(self, seq: int) -> None:
        message = self.messages.get(seq)
        if message is not None and message.count > 0:
            self._drop(message, "ack")
            self._acked.append((self.world.now, message))

    def nak(self, seq: int, delay_s: float = 0.0, by: str = "") -> None:
        message = self.messages.get(seq)
        if message is None or message.state != "pending":
            return
        if delay_s > 0:
            message.naked_by = by
            self._due(message, delay_s)
        else:
            message.state = "ready"
            message.timer += 1
            self.changed()

    def extend(self, seq: int, by: str = "") -> None:
        """+WPI: starts the ack wait anew, whatever the delivery; it also overrides the delay of a nak."""
        message = self.messages.get(seq)
        if message is not None and message.state == "pending":
            if by and message.naked_by == by:
                self.on_second_voice(message)
            self._due(message, self.ack_wait_s)

    # -- accidents -----------------------------------------------------------------------------------------------------

    def early(self) -> None:
        """A message that is being worked on is delivered once more."""
        for message in list(self.messages.values()):
            if message.state == "pending":
                message.state = "ready"
                message.timer += 1
        self.changed()

    def forget(self, crashed: bool) -> None:
        """The server was restarted: delays and the ids of removed messages are gone; after a crash, counts and acks."""
        dice = self.world.random
        for message in self.messages.values():
            if message.state == "pending" and dice.random() < 0.5:
                message.state = "ready"
                message.timer += 1
            if crashed and message.count:
                message.count = max(0, message.count - dice.randrange(3))
        if crashed:
            for at, message in self._acked:
                if self.world.now - at < 30 and message.seq not in self.messages and dice.random() < 0.7:
                    message.state, message.count = "ready", max(0, message.count - 1)
                    self.messages[message.seq] = message
        self._acked.clear()
        self.msg_ids = {key: known for key, known in self.msg_ids.items() if known[0] in self.messages}
        self.pulls.clear()

    def lose_tail(self, first_lost: int) -> None:
        """A power cut lost what was not synced; the sequences will be used again."""
        for seq in [seq for seq in self.messages if seq >= first_lost]:
            del self.messages[seq]
        self.last_seq = first_lost - 1


@attrs.define
class _Entry(Generic[V]):
    value: V | None
    revision: int
    expires_at: float | None
    written_at: float = 0.0
    note: int = 0


class Bucket(Generic[V]):
    """A key-value bucket of history 1: compare-and-set, a TTL per write, markers where a value was."""

    def __init__(self, world: World, *, marker_ttl_s: float = 60.0) -> None:
        self.world = world
        self.revision = 0
        self.marker_ttl_s = marker_ttl_s
        self._entries: dict[str, _Entry[V]] = {}

    def get(self, key: str) -> tuple[V | None, int]:
        """Value and revision; (None, revision) for a marker, (None, 0) for a key that is not there."""
        entry = self._entries.get(key)
        if entry is None:
            return None, 0
        if entry.expires_at is not None and entry.expires_at <= self.world.now:
            if entry.value is None or self.world.now >= entry.expires_at + self.marker_ttl_s:
                del self._entries[key]
                return None, 0
            self.revision += 1
            self._entries[key] = _Entry(None, self.revision, entry.expires_at + self.marker_ttl_s)
            return None, self.revision
        return entry.value, entry.revision

    def put(self, key: str, value: V | None, expected: int | None, ttl_s: float | None = None, note: int = 0) -> int:
        """Write if the revision is still `expected`; 0: only where nothing is, not even a marker; None: in any case."""
        _, revision = self.get(key)
        if expected is not None and revision != expected:
            raise WrongLastSequence(key)
        self.revision += 1
        expires_at = None if ttl_s is None else self.world.now + ttl_s
        self._entries[key] = _Entry(value, self.revision, expires_at, self.world.now, note)
        return self.revision

    def marker(self, key: str) -> tuple[float, int] | None:
        """When a delete left the marker that is there, and the header it bears; None when there is none."""
        self.get(key)
        entry = self._entries.get(key)
        return (entry.written_at, entry.note) if entry is not None and entry.value is None and entry.note else None

    def values(self) -> list[V]:
        found = (self.get(key)[0] for key in list(self._entries))
        return [value for value in found if value is not None]

    def expiring(self, key: str) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.expires_at is not None
