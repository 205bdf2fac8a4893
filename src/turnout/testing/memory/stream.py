"""A stream: messages on subjects, with expectations, message ids, rollup, lifetimes and schedules.

It is as unkind as the real one: ids are remembered over the whole stream for a while and forgotten at a restart when
their message is gone; a fired schedule takes whatever lies on its subject with it; acknowledged messages may come back.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from turnout.testing.memory.clock import Clock
from turnout.testing.memory.consumer import Consumer
from turnout.testing.memory.message import Message
from turnout.testing.memory.refusal import Refusal, wrong_last_sequence
from turnout.testing.memory.subjects import any_of, literal, mapped, matcher
from turnout.testing.memory.wire import instant, rfc3339

EXPECTED = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
MSG_ID = "Nats-Msg-Id"
SCHEDULE = "Nats-Schedule"
_DUPLICATE_WINDOW_NS = 120_000_000_000
_ACKS_LOST_S = 30.0
"""How old an acknowledgement may be that a crash of the server undoes."""

_NO_HEADERS: Mapping[str, str] = {}

Republish = Callable[[str, bytes, Mapping[str, str]], None]
"""(subject, data, headers) of what the server tells its subscribers beside storing a message."""


class Stream:
    """One stream. `on_store` and `on_gone` are told of every message, for whoever watches; why: ack, delete, ..."""

    def __init__(self, config: Mapping[str, Any], clock: Clock, republish: Republish) -> None:
        self.config = dict(config)
        self.name: str = config["name"]
        self.created = rfc3339(clock.now_ns())
        self.messages: dict[int, Message] = {}
        self.last_seq = 0
        self.last_ns = 0
        """When the newest message was stored, whether or not that is still there."""
        self.consumers: dict[str, Consumer] = {}
        self.on_store: Callable[[Message], None] = lambda message: None
        self.on_gone: Callable[[Message, str], None] = lambda message, why: None
        self.schedule_late_s: Callable[[], float] = lambda: 0.0
        """By how much a schedule fires late."""
        self._clock = clock
        self._republish = republish
        self._subjects: dict[str, list[int]] = {}
        self._families: dict[str, dict[str, None]] = {}
        """The subjects that begin with the same tokens: thousands of workflows have an inbox each."""
        self._ids: dict[str, tuple[int, int]] = {}
        self._mortal: list[tuple[float, int]] = []
        self._scheduled: list[tuple[float, int]] = []
        self._acked: list[tuple[float, Message, dict[str, int]]] = []
        self._accepts = any_of(config.get("subjects") or [self.name])
        self._keeps_one = int(config.get("max_msgs_per_subject") or -1)
        self._work_queue = config.get("retention", "limits") != "limits"

    def accepts(self, subject: str) -> bool:
        """Whether a publish on this subject is stored here."""
        return bool(self._accepts(subject))

    def update(self, config: Mapping[str, Any]) -> None:
        """Take over another configuration; what is stored stays."""
        self.config = dict(config)
        self._accepts = any_of(config.get("subjects") or [self.name])
        self._keeps_one = int(config.get("max_msgs_per_subject") or -1)

    # -- writing -------------------------------------------------------------------------------------------------------

    def publish(self, subject: str, data: bytes, headers: Mapping[str, str] = _NO_HEADERS) -> tuple[int, bool]:
        """Store a message: its sequence, and whether its id was known, so that nothing was stored.

        The expectation is checked before the id: one's own resend is refused, not `duplicate`. Raises `Refusal`.
        """
        self.expire()
        if headers:
            self._check(subject, headers)
            known = self._ids.get(headers.get(MSG_ID, ""))
            if known is not None and self._clock.now_ns() - known[1] < self._window_ns:
                return known[0], True
        message = self._append(subject, data, headers)
        rollup = headers.get("Nats-Rollup")
        if rollup == "sub" or SCHEDULE in headers:
            self._drop(self._others(subject, message), "rollup")
        elif rollup == "all":
            self._drop([other for other in self.messages.values() if other is not message], "rollup")
        if SCHEDULE in headers:
            self._arm(message, headers)
        self._tell(message)
        return message.seq, False

    @property
    def _window_ns(self) -> int:
        return int(self.config.get("duplicate_window") or _DUPLICATE_WINDOW_NS)

    def _check(self, subject: str, headers: Mapping[str, str]) -> None:
        expected = headers.get(EXPECTED)
        if expected is not None:
            last = self.last(headers.get(EXPECTED_SUBJECT, subject))
            seq = last.seq if last is not None else 0
            if seq != int(expected):
                raise wrong_last_sequence(seq)
        expected = headers.get("Nats-Expected-Last-Sequence")
        if expected is not None and int(expected) != self.last_seq:
            raise wrong_last_sequence(self.last_seq)
        if "Nats-Rollup" in headers and not (
            self.config.get("allow_rollup_hdrs") or self.config.get("allow_msg_schedules")
        ):
            raise Refusal(400, 10111, "rollup not permitted")
        if SCHEDULE in headers and not self.config.get("allow_msg_schedules"):
            raise Refusal(400, 10188, "message schedules is disabled")
        if "Nats-TTL" in headers and not self.config.get("allow_msg_ttl"):
            raise Refusal(400, 10166, "per-message TTL is disabled")

    def _append(self, subject: str, data: bytes, headers: Mapping[str, str]) -> Message:
        self.last_seq += 1
        self.last_ns = self._clock.now_ns()
        message = Message(self.last_seq, self.last_ns, subject, data, headers)
        self.messages[message.seq] = message
        for consumer in self.consumers.values():
            consumer.stored(message)
        of_subject = self._place(subject)
        of_subject.append(message.seq)
        if MSG_ID in headers:
            self._ids[headers[MSG_ID]] = (message.seq, message.time_ns)
        lifetimes = []
        if "Nats-TTL" in headers and headers["Nats-TTL"] != "never":
            lifetimes.append(_seconds(headers["Nats-TTL"]))
        if self.config.get("max_age"):
            lifetimes.append(self.config["max_age"] / 1e9)
        if lifetimes:
            expires_at = message.expires_at = self._clock.now() + min(lifetimes)
            heapq.heappush(self._mortal, (expires_at, message.seq))
        self.on_store(message)
        if 0 < self._keeps_one < len(of_subject):
            self._drop([self.messages[seq] for seq in of_subject[: -self._keeps_one]], "limit")
        return message

    def _tell(self, message: Message) -> None:
        republish = self.config.get("republish")
        if republish:
            destination = mapped(republish["src"], republish["dest"], message.subject)
            if destination is not None:
                headers = {**message.headers, "Nats-Stream": self.name, "Nats-Subject": message.subject}
                headers["Nats-Sequence"] = str(message.seq)
                headers["Nats-Time-Stamp"] = rfc3339(message.time_ns)
                body = b"" if republish.get("headers_only") else message.data
                self._republish(destination, body, headers)
        for consumer in self.consumers.values():
            consumer.changed(message)

    # -- schedules -----------------------------------------------------------------------------------------------------

    def _arm(self, schedule: Message, headers: Mapping[str, str]) -> None:
        kind, _, at = headers[SCHEDULE].partition(" ")
        if kind != "@at":
            raise NotImplementedError(f"the server in memory knows no schedule {kind}")
        due_at = max(instant(at), self._clock.now()) + self.schedule_late_s()
        heapq.heappush(self._scheduled, (due_at, schedule.seq))
        self._clock.at(due_at, self._fire, schedule, headers["Nats-Schedule-Target"])

    def next_schedule(self, ignored: Callable[[Message], bool]) -> float | None:
        """When the first schedule fires that is not ignored."""
        scheduled, messages = self._scheduled, self.messages
        while scheduled and scheduled[0][1] not in messages:
            heapq.heappop(scheduled)
        if scheduled and not ignored(messages[scheduled[0][1]]):
            return scheduled[0][0]
        there = (due_at for due_at, seq in scheduled if seq in messages and not ignored(messages[seq]))
        return min(there, default=None)

    def _fire(self, schedule: Message, target: str) -> None:
        if self.messages.get(schedule.seq) is not schedule:
            return
        kept = {name: value for name, value in schedule.headers.items() if name not in _NOT_FIRED}
        if schedule.headers.get("Nats-Schedule-TTL"):
            kept["Nats-TTL"] = schedule.headers["Nats-Schedule-TTL"]
        kept |= {"Nats-Scheduler": schedule.subject, "Nats-Schedule-Next": "purge"}
        copy = self._append(target, schedule.data, kept)
        # The copy takes whatever is on the schedule's subject by then.
        self._drop(self._on(schedule.subject), "fired")
        self._tell(copy)

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, seq: int) -> Message | None:
        """The message at this sequence."""
        self.expire()
        return self.messages.get(seq)

    def last(self, pattern: str) -> Message | None:
        """The newest message on this subject; wildcards are allowed."""
        self.expire()
        if literal(pattern):
            seqs = self._subjects.get(pattern)
            return self.messages[seqs[-1]] if seqs else None
        newest = [seqs[-1] for subject, seqs in self._subjects.items() if matcher(pattern)(subject)]
        return self.messages[max(newest)] if newest else None

    def after(self, seq: int, pattern: str) -> Iterator[Message]:
        """The messages from this sequence on whose subject matches, in order."""
        self.expire()
        found = list(self._on(pattern))
        return (message for message in sorted(found, key=_by_seq) if message.seq >= seq)

    def subjects(self, pattern: str) -> dict[str, int]:
        """The subjects that match, and how many messages each has."""
        self.expire()
        matches = matcher(pattern)
        return {subject: len(seqs) for subject, seqs in self._subjects.items() if matches(subject)}

    def _on(self, pattern: str) -> list[Message]:
        if literal(pattern):
            return [self.messages[seq] for seq in self._subjects.get(pattern, ())]
        matches, family = matcher(pattern), _family(pattern)
        among = self._families.get(family, {}) if family and literal(family) else self._subjects
        return [self.messages[seq] for subject in among if matches(subject) for seq in self._subjects[subject]]

    def _place(self, subject: str) -> list[int]:
        """The sequences on a subject, where another may be added."""
        found = self._subjects.get(subject)
        if found is None:
            found = self._subjects[subject] = []
            self._families.setdefault(_family(subject), {})[subject] = None
        return found

    def _others(self, subject: str, message: Message) -> list[Message]:
        return [self.messages[seq] for seq in self._subjects.get(subject, ()) if seq != message.seq]

    # -- removing ------------------------------------------------------------------------------------------------------

    def delete(self, seq: int) -> bool:
        """Delete one message; False when there is none."""
        self.expire()
        message = self.messages.get(seq)
        if message is not None:
            self._drop([message], "delete")
        return message is not None

    def purge(self, pattern: str = ">", *, below: int | None = None, keep: int = 0) -> int:
        """Remove what lies on these subjects: all, what is below a sequence, or all but the newest `keep`."""
        self.expire()
        found = sorted(self._on(pattern), key=_by_seq)
        if keep:
            found = found[:-keep]
        gone = [message for message in found if below is None or message.seq < below]
        self._drop(gone, "purge")
        return len(gone)

    def acked(self, seq: int) -> None:
        """A consumer's message is settled for good: in a work queue that removes it."""
        message = self.messages.get(seq)
        if message is not None and self._work_queue:
            counts = {consumer.name: consumer.counts.get(seq, 0) for consumer in self.consumers.values()}
            self._acked.append((self._clock.now(), message, counts))
            self._drop([message], "ack")

    def expire(self) -> None:
        """Remove what has outlived its lifetime; a bucket that wants markers is left one."""
        mortal = self._mortal
        now = self._clock.now()
        while mortal and mortal[0][0] <= now:
            _, seq = heapq.heappop(mortal)
            message = self.messages.get(seq)
            if message is None or message.expires_at is None or message.expires_at > now:
                continue
            self._drop([message], "expired")
            marker_ns = self.config.get("subject_delete_marker_ttl")
            if marker_ns and message.data and not self._subjects.get(message.subject):
                headers = {"Nats-Marker-Reason": "MaxAge", "Nats-TTL": f"{int(marker_ns / 1e9)}s"}
                self._append(message.subject, b"", headers)

    def _drop(self, messages: Iterable[Message], why: str) -> None:
        for message in messages:
            if self.messages.pop(message.seq, None) is None:
                continue
            of_subject = self._subjects[message.subject]
            of_subject.remove(message.seq)
            if not of_subject:
                del self._subjects[message.subject]
                del self._families[_family(message.subject)][message.subject]
            for consumer in self.consumers.values():
                consumer.forget(message.seq)
            self.on_gone(message, why)

    # -- accidents -----------------------------------------------------------------------------------------------------

    def restarted(self, dice: random.Random, *, crashed: bool) -> None:
        """The server was away: ids of removed messages are forgotten, and after a crash some acknowledgements too."""
        self._ids = {key: known for key, known in self._ids.items() if known[0] in self.messages}
        if crashed:
            now = self._clock.now()
            for at, message, counts in self._acked:
                if now - at < _ACKS_LOST_S and message.seq not in self.messages and dice.random() < 0.7:
                    self._revive(message, counts)
        self._acked.clear()
        for consumer in self.consumers.values():
            consumer.restarted(dice, crashed=crashed)

    def _revive(self, message: Message, counts: Mapping[str, int]) -> None:
        self.messages[message.seq] = message
        self.messages = dict(sorted(self.messages.items()))
        of_subject = self._place(message.subject)
        of_subject.append(message.seq)
        of_subject.sort()
        for consumer in self.consumers.values():
            consumer.revive(message.seq, counts.get(consumer.name, 0))


_NOT_FIRED = frozenset(
    {
        "Nats-Schedule",
        "Nats-Schedule-Target",
        "Nats-Schedule-TTL",
        "Nats-Schedule-Source",
        "Nats-Schedule-Time-Zone",
        "Nats-TTL",
        "Nats-Rollup",
        MSG_ID,
        EXPECTED,
        EXPECTED_SUBJECT,
    }
)


def _family(subject: str) -> str:
    """The first four tokens of a subject, or of a pattern; "" where there are fewer, so that all of those are one."""
    tokens = subject.split(".", 4)
    return ".".join(tokens[:4]) if len(tokens) > 4 else ""


def _by_seq(message: Message) -> int:
    return message.seq


def _seconds(ttl: str) -> float:
    """A lifetime as a header spells it: `10s`, `5m`, `1h`, or plain seconds."""
    factor = {"s": 1, "m": 60, "h": 3600}.get(ttl[-1])
    return float(ttl[:-1]) * factor if factor else float(ttl)
