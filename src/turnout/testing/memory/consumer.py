"""A durable pull consumer with explicit acknowledgements.

Settling acts on the stream's sequence alone, whoever sends it: an old delivery's acknowledgement removes the message
while its new owner works on it. Only a NAK asks for a consumer sequence above the floor of what is acknowledged.
"""

from __future__ import annotations

import heapq
import json
import random
from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Protocol

from turnout.nats.clock import Alarm
from turnout.testing.memory.clock import Clock
from turnout.testing.memory.message import Message
from turnout.testing.memory.subjects import any_of
from turnout.testing.memory.wire import block_of, rfc3339

_NS = 1_000_000_000
_DEFAULT_ACK_WAIT_S = 30.0


class Outlet(Protocol):
    """What a consumer asks of its server. `patient`: see `MemoryServer`."""

    patient: bool

    def deliver(self, inbox: str, subject: str, reply: str, data: bytes, block: bytes) -> bool: ...
    def interest(self, inbox: str) -> bool: ...
    def advise(self, kind: str, stream: str, consumer: str, body: Mapping[str, Any]) -> None: ...


class Source(Protocol):
    """What a consumer reads of its stream, and what it tells it."""

    name: str
    messages: dict[int, Message]
    last_seq: int

    def expire(self) -> None: ...
    def acked(self, seq: int) -> None: ...


class Pending:
    """A message that was handed over and not settled. `dseq`: the consumer sequence of its first delivery."""

    __slots__ = ("delayed_by", "dseq", "due_at", "turn")

    def __init__(self, dseq: int) -> None:
        self.dseq = dseq
        self.due_at = 0.0
        self.turn = 0
        self.delayed_by: object = None
        """Who gave which delivery of it back with a delay."""


class Pull:
    """A request for messages that waits at the consumer."""

    def __init__(self, inbox: str, request: Mapping[str, Any], now: float) -> None:
        self.inbox = inbox
        self.left = int(request.get("batch") or 1)
        self.expires_at = now + int(request.get("expires") or 0) / _NS
        self.waits = self.expires_at > now and not request.get("no_wait")
        self.heartbeat_s = int(request.get("idle_heartbeat") or 0) / _NS
        self.max_bytes = int(request.get("max_bytes") or 2**62)
        self.timer: Alarm | None = None


class Consumer:
    """One consumer of one stream. `on_second_voice` is told of a message that somebody extends who has given it back
    with a delay himself, by the same delivery."""

    def __init__(self, config: Mapping[str, Any], stream: Source, clock: Clock, outlet: Outlet) -> None:
        self.name: str = config.get("durable_name") or config["name"]
        self.stream = stream
        self.created = rfc3339(clock.now_ns())
        self.counts: dict[int, int] = {}
        """How often each message that is still there was delivered."""
        self.pending: dict[int, Pending] = {}
        self.delivered_seq = 0
        self.on_second_voice: Callable[[int], None] = lambda seq: None
        self._clock = clock
        self._outlet = outlet
        self._dseq = 0
        self._next_seq = 1
        self._fresh: dict[int, None] = {}
        """What has not been handed to anybody yet: the sequences from the next one on that it is meant for."""
        self._ready: deque[int] = deque()
        self._due: list[tuple[float, int, int]] = []
        self._turns = 0
        self._waiting: deque[Pull] = deque()
        self._alarm: Alarm | None = None
        self.update(config)
        self._begin(config)
        if config.get("deliver_subject"):
            self._push_to(config["deliver_subject"])

    def update(self, config: Mapping[str, Any]) -> None:
        """Take over another configuration."""
        self.config = {**config, "durable_name": self.name, "name": self.name}
        filters = config.get("filter_subjects") or ([config["filter_subject"]] if config.get("filter_subject") else [])
        self._matches = any_of(filters)
        self.ack_wait_s = (config.get("ack_wait") or _DEFAULT_ACK_WAIT_S * _NS) / _NS
        self.max_deliver = int(config.get("max_deliver") or -1)
        self._max_ack_pending = int(config.get("max_ack_pending") or 1000)
        self._headers_only = bool(config.get("headers_only"))
        self._explicit = config.get("ack_policy", "explicit") == "explicit"
        self._look_through()

    def _begin(self, config: Mapping[str, Any]) -> None:
        policy = config.get("deliver_policy", "all")
        if policy == "new":
            self._next_seq = self.stream.last_seq + 1
        elif policy == "by_start_sequence":
            self._next_seq = int(config["opt_start_seq"])
        elif policy == "last_per_subject":
            newest = {message.subject: message.seq for message in self.stream.messages.values()}
            self._ready.extend(sorted(seq for subject, seq in newest.items() if self._matches(subject)))
            self._next_seq = self.stream.last_seq + 1
        self._look_through()

    def _look_through(self) -> None:
        found = self.stream.messages.values()
        self._fresh = {each.seq: None for each in found if each.seq >= self._next_seq and self._matches(each.subject)}

    def info(self) -> dict[str, Any]:
        """What the server says of it."""
        self._collect_due()
        stream = self.stream
        floor = self._floor()
        return {
            "type": "io.nats.jetstream.api.v1.consumer_info_response",
            "stream_name": stream.name,
            "name": self.name,
            "created": self.created,
            "config": self.config,
            "delivered": {"consumer_seq": self._dseq, "stream_seq": self.delivered_seq},
            "ack_floor": {"consumer_seq": floor, "stream_seq": min(self.pending, default=self.delivered_seq + 1) - 1},
            "num_ack_pending": len(self.pending),
            "num_redelivered": sum(count > 1 for count in self.counts.values()),
            "num_waiting": sum(self._outlet.interest(pull.inbox) for pull in self._waiting),
            "num_pending": len(self._fresh),
            "ts": rfc3339(self._clock.now_ns()),
        }

    # -- handing over --------------------------------------------------------------------------------------------------

    def pull(self, inbox: str, request: Mapping[str, Any]) -> None:
        """Ask for messages, to be sent to `inbox`."""
        pull = Pull(inbox, request, self._clock.now())
        self._waiting.append(pull)
        self.pump()
        if pull not in self._waiting:
            return
        if not pull.waits:
            self._end(pull, "404 No Messages")
        elif self._outlet.patient:
            pull.expires_at = inf
        else:
            self._watch(pull)

    def _push_to(self, subject: str) -> None:
        """A push consumer sends to its subject as if somebody had asked there for all that there ever is."""
        pull = Pull(subject, {"batch": 2**62}, self._clock.now())
        pull.expires_at = inf
        self._waiting.append(pull)
        self.pump()

    def stored(self, message: Message) -> None:
        """The stream has this message."""
        if message.seq >= self._next_seq and self._matches(message.subject):
            self._fresh[message.seq] = None

    def changed(self, message: Message) -> None:
        """The stream has stored this message, and whatever goes with it is done."""
        if self._waiting and self._matches(message.subject):
            self.pump()

    def pump(self) -> None:
        """Hand over for as long as somebody waits and there is something."""
        self._collect_due()
        waiting = self._waiting
        while waiting:
            pull = waiting[0]
            if pull.expires_at < self._clock.now() or not self._outlet.interest(pull.inbox):
                self._withdraw(pull)
                continue
            message = self._next()
            if message is None:
                break
            while len(message.subject) + len(message.data) > pull.max_bytes:
                self._end(pull, "409 Message Size Exceeds MaxBytes")
                if not waiting:
                    self._put_back(message)
                    return
                pull = waiting[0]
            self._hand_over(message, pull)
        self._set_alarm()

    def _put_back(self, message: Message) -> None:
        """Nobody who waits could take it."""
        if message.seq == self._next_seq - 1 and not self.counts.get(message.seq):
            self._next_seq = message.seq
            self._fresh[message.seq] = None
        else:
            self._ready.appendleft(message.seq)

    def _next(self) -> Message | None:
        messages = self.stream.messages
        while self._ready:
            seq = self._ready.popleft()
            message = messages.get(seq)
            if message is None:
                continue
            if 0 < self.max_deliver <= self.counts.get(seq, 0):
                self.pending.pop(seq, None)
                self._outlet.advise(
                    "MAX_DELIVERIES",
                    self.stream.name,
                    self.name,
                    {"stream_seq": seq, "deliveries": self.counts[seq]},
                )
                continue
            return message
        if 0 < self._max_ack_pending <= len(self.pending) and self._explicit:
            return None
        self.stream.expire()
        while self._next_seq <= self.stream.last_seq:
            seq = self._next_seq
            self._next_seq += 1
            if seq in self._fresh:
                del self._fresh[seq]
                return messages[seq]
        return None

    def _hand_over(self, message: Message, pull: Pull) -> None:
        seq = message.seq
        count = self.counts.get(seq, 0) + 1
        self._dseq += 1
        self.delivered_seq = max(self.delivered_seq, seq)
        if self._explicit:
            self.counts[seq] = count
            pending = self.pending.get(seq)
            if pending is None:
                pending = self.pending[seq] = Pending(self._dseq)
            pending.delayed_by = None
            self._wait(seq, pending, self._held_for_s)
        pull.left -= 1
        if not pull.left:
            self._withdraw(pull)
        place = f"{self.stream.name}.{self.name}.{count}.{seq}.{self._dseq}.{message.time_ns}"
        reply = f"$JS.ACK.{place}.{len(self._fresh)}"
        data = b"" if self._headers_only else message.data
        self._outlet.deliver(pull.inbox, message.subject, reply, data, message.block)

    def _watch(self, pull: Pull) -> None:
        at = pull.expires_at
        if pull.heartbeat_s:
            at = min(at, self._clock.now() + pull.heartbeat_s)
        pull.timer = self._clock.at(at, self._tick, pull)

    def _tick(self, pull: Pull) -> None:
        if self._clock.now() >= pull.expires_at:
            self._end(pull, "408 Request Timeout")
            return
        self._outlet.deliver(pull.inbox, pull.inbox, "", b"", block_of({}, "100 Idle Heartbeat"))
        self._watch(pull)

    def _end(self, pull: Pull, status: str) -> None:
        self._withdraw(pull)
        headers = {"Nats-Pending-Messages": str(pull.left), "Nats-Pending-Bytes": "0"}
        self._outlet.deliver(pull.inbox, pull.inbox, "", b"", block_of(headers, status))

    def _withdraw(self, pull: Pull) -> None:
        if pull.timer is not None:
            pull.timer.cancel()
        if pull in self._waiting:
            self._waiting.remove(pull)

    def deleted(self) -> None:
        """The consumer is gone; whoever waits is told."""
        for pull in list(self._waiting):
            self._end(pull, "409 Consumer Deleted")

    # -- redelivering --------------------------------------------------------------------------------------------------

    @property
    def _held_for_s(self) -> float:
        """How long whoever was handed a message may say nothing."""
        return inf if self._outlet.patient else self.ack_wait_s

    @property
    def held(self) -> int:
        """How many messages are in somebody's hand, of a patient server."""
        return sum(pending.turn > 0 and pending.due_at == inf for pending in self.pending.values())

    @property
    def holds(self) -> bool:
        """Whether any message is in somebody's hand."""
        return any(pending.turn > 0 and pending.due_at == inf for pending in self.pending.values())

    def next_redelivery(self, ignored: Callable[[Message], bool]) -> float | None:
        """When the first message that was given back with a delay comes again, of those that are not ignored."""
        found = self.stream.messages
        due = (
            pending.due_at
            for seq, pending in self.pending.items()
            if pending.turn and pending.due_at < inf and seq in found and not ignored(found[seq])
        )
        return min(due, default=None)

    def _wait(self, seq: int, pending: Pending, delay_s: float) -> None:
        self._turns += 1
        pending.turn = self._turns
        pending.due_at = self._clock.now() + delay_s
        if pending.due_at < inf:
            heapq.heappush(self._due, (pending.due_at, seq, pending.turn))

    def _collect_due(self) -> None:
        now = self._clock.now()
        due = self._due
        while due and due[0][0] <= now:
            _, seq, turn = heapq.heappop(due)
            pending = self.pending.get(seq)
            if pending is not None and pending.turn == turn:
                self._redeliver(seq, pending)

    def _redeliver(self, seq: int, pending: Pending) -> None:
        pending.turn = 0
        self._ready.append(seq)

    def _set_alarm(self) -> None:
        """Wake up for the next redelivery, if anybody waits for it."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        due = self._due
        while due and ((pending := self.pending.get(due[0][1])) is None or pending.turn != due[0][2]):
            heapq.heappop(due)
        if due and self._waiting:
            self._alarm = self._clock.at(due[0][0], self.pump)

    # -- settling ------------------------------------------------------------------------------------------------------

    def settle(self, seq: int, dseq: int, data: bytes, by: object = None) -> None:
        """What was sent to an ack subject: `+ACK` (or nothing), `-NAK`, `+WPI` or `+TERM`."""
        self._collect_due()
        if data in (b"", b"+ACK", b"+TERM"):
            message = self.stream.messages.get(seq)
            if message is not None and seq < self._next_seq and self._matches(message.subject):
                self.forget(seq)
                self.stream.acked(seq)
        elif data.startswith(b"-NAK"):
            self._nak(seq, dseq, data, by)
        elif data.startswith(b"+WPI"):
            pending = self.pending.get(seq)
            if pending is not None and pending.turn:
                if by is not None and pending.delayed_by == (by, dseq):
                    self.on_second_voice(seq)
                self._wait(seq, pending, self._held_for_s)
        if self._waiting:
            self.pump()

    def _nak(self, seq: int, dseq: int, data: bytes, by: object) -> None:
        pending = self.pending.get(seq)
        if pending is None or not pending.turn or not self._floor() < dseq <= self._dseq + 1:
            return
        delay_s = json.loads(data[4:])["delay"] / _NS if len(data) > 4 and b"{" in data else 0.0
        if delay_s > 0:
            pending.delayed_by = (by, dseq)
            self._wait(seq, pending, delay_s)
        else:
            self._redeliver(seq, pending)

    def _floor(self) -> int:
        """The consumer sequence up to which everything is settled."""
        return min((pending.dseq for pending in self.pending.values()), default=self._dseq + 1) - 1

    def forget(self, seq: int) -> None:
        """The message is settled, or not there any more."""
        self.pending.pop(seq, None)
        self.counts.pop(seq, None)
        self._fresh.pop(seq, None)

    # -- accidents -----------------------------------------------------------------------------------------------------

    def early(self) -> None:
        """What is being worked on is delivered once more, as after a change of the leader."""
        for seq, pending in list(self.pending.items()):
            if pending.turn:
                self._redeliver(seq, pending)
        self.pump()

    def restarted(self, dice: random.Random, *, crashed: bool) -> None:
        """The server was away: pulls are gone, delays may be forgotten, and after a crash counts go back."""
        for pull in list(self._waiting):
            self._withdraw(pull)
        for seq, pending in list(self.pending.items()):
            if pending.turn and dice.random() < 0.5:
                self._redeliver(seq, pending)
        if crashed:
            for seq, count in list(self.counts.items()):
                self._recount(seq, max(0, count - dice.randrange(3)))

    def revive(self, seq: int, count: int) -> None:
        """An acknowledgement was undone by a crash."""
        self._recount(seq, max(0, count - 1))
        self.stored(self.stream.messages[seq])
        if self._matches(self.stream.messages[seq].subject) and seq < self._next_seq:
            pending = self.pending[seq] = Pending(self._dseq)
            self._redeliver(seq, pending)

    def _recount(self, seq: int, count: int) -> None:
        """A message whose deliveries had run out may have some again."""
        self.counts[seq] = count
        if seq not in self.pending and seq in self.stream.messages and count < self.max_deliver:
            pending = self.pending[seq] = Pending(self._dseq)
            self._redeliver(seq, pending)
