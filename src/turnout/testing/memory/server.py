"""The server in memory: who is connected, who listens to what, the streams, and who gets what."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from turnout import fastjson
from turnout.testing.memory.api import Api
from turnout.testing.memory.clock import Clock
from turnout.testing.memory.consumer import Consumer
from turnout.testing.memory.message import Message
from turnout.testing.memory.network import Network
from turnout.testing.memory.peer import Peer
from turnout.testing.memory.refusal import NoResponders, Refusal
from turnout.testing.memory.stream import Stream
from turnout.testing.memory.subjects import Matcher, literal, matcher
from turnout.testing.memory.wire import block_of

NO_RESPONDERS = block_of({}, "503")
_API = "$JS.API."
_ACK = "$JS.ACK."
_NO_HEADERS: Mapping[str, str] = {}


@attrs.frozen(eq=False)
class Interest:
    """A peer listens to a subject."""

    peer: Peer
    sid: int
    pattern: str
    queue: str
    matches: Matcher


class MemoryServer:
    """A nats-server with JetStream, on the event loop that makes it.

    `clock`: its time, that of the loop unless given. `network`: makes what lies between the peers and the server.
    `patient`: whoever has asked for messages, or was handed one, may take as long as he likes: for peers whose time is
    not the server's.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        network: Callable[[MemoryServer], Network] = Network,
        patient: bool = False,
    ) -> None:
        self.clock = clock or Clock(asyncio.get_running_loop())
        self.patient = patient
        self.network = network(self)
        self.streams: dict[str, Stream] = {}
        self.peers: dict[Peer, None] = {}
        self.up = True
        self.speaker: Peer | None = None
        """Whose message is being dealt with."""
        self.loses_advisory: Callable[[], bool] = lambda: False
        self.on_consumer: Callable[[Consumer], None] = lambda consumer: None
        self.on_stream: Callable[[Stream], None] = lambda stream: None
        self.api = Api(self)
        self._by_subject: dict[str, Stream | None] = {}
        self._interest: dict[tuple[Peer, int], Interest] = {}
        self._literal: dict[str, list[Interest]] = {}
        self._families: dict[str, list[Interest]] = {}
        """Those whose subject ends in `.*`, by what is before it: inboxes."""
        self._wild: list[Interest] = []
        self._turn = itertools.count()

    def next_number(self) -> int:
        """A number that it has never given before."""
        return next(self._turn)

    # -- peers ---------------------------------------------------------------------------------------------------------

    def connected(self, peer: Peer) -> None:
        """Somebody has connected."""
        self.peers[peer] = None

    def disconnected(self, peer: Peer) -> None:
        """Somebody is gone, and all interest with him."""
        self.peers.pop(peer, None)
        for key in [key for key in self._interest if key[0] is peer]:
            self.unsubscribe(*key)

    def subscribe(self, peer: Peer, sid: int, subject: str, queue: str = "") -> None:
        """A peer listens to a subject from now on."""
        interest = Interest(peer, sid, subject, queue, matcher(subject))
        self._interest[peer, sid] = interest
        self._shelf(subject).append(interest)

    def unsubscribe(self, peer: Peer, sid: int) -> None:
        """It does not any more."""
        interest = self._interest.pop((peer, sid), None)
        if interest is not None:
            self._shelf(interest.pattern).remove(interest)

    def _shelf(self, pattern: str) -> list[Interest]:
        if literal(pattern):
            return self._literal.setdefault(pattern, [])
        family, _, last = pattern.rpartition(".")
        if last == "*" and literal(family):
            return self._families.setdefault(family, [])
        return self._wild

    def _interested(self, subject: str) -> list[Interest]:
        found = self._literal.get(subject, []) + self._families.get(subject.rpartition(".")[0], [])
        return found + [each for each in self._wild if each.matches(subject)] if self._wild else found

    # -- who gets what -------------------------------------------------------------------------------------------------

    def publish(self, subject: str, data: bytes, headers: Mapping[str, str] = _NO_HEADERS, reply: str = "") -> None:
        """Something was published, by a peer or by the server itself; whoever asked for an answer gets one."""
        if subject.startswith(_API):
            self.api.ask(subject[len(_API) :], data, reply)
        elif subject.startswith(_ACK):
            if self.settle(subject, data) and reply:
                self.deliver(reply, reply, "", b"", b"")
        elif self.stream_of(subject) is not None:
            answer = self._answer(subject, data, headers)
            if reply:
                self.deliver(reply, reply, "", fastjson.dumps(answer), b"")
        else:
            heard = self.deliver(subject, subject, reply, data, block_of(headers))
            if reply and not heard:
                self.deliver(reply, reply, "", b"", NO_RESPONDERS)

    def _answer(self, subject: str, data: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        try:
            stream, seq, duplicate = self.store(subject, data, headers)
        except Refusal as refusal:
            return {"error": refusal.body(), "stream": "", "seq": 0}
        return {"stream": stream, "seq": seq, **({"duplicate": True} if duplicate else {})}

    def store(self, subject: str, data: bytes, headers: Mapping[str, str]) -> tuple[str, int, bool]:
        """Store in the stream of the subject: its name, the sequence, whether the message's id was known.

        Raises `Refusal`, and `NoResponders` where there is no such stream.
        """
        stream = self.stream_of(subject)
        if stream is None:
            raise NoResponders(subject)
        seq, duplicate = stream.publish(subject, data, headers)
        if not duplicate and self._interested(subject):
            self.deliver(subject, subject, "", data, block_of(headers))
        return stream.name, seq, duplicate

    def deliver(self, inbox: str, subject: str, reply: str, data: bytes, block: bytes) -> bool:
        """Send a message of this subject to whoever listens at `inbox`; whether anybody does."""
        found = self._interested(inbox)
        queues: dict[str, list[Interest]] = {}
        for each in found:
            if each.queue:
                queues.setdefault(each.queue, []).append(each)
            else:
                self.network.to_client(each.peer, each.peer.arrived, each.sid, subject, reply, data, block)
        for group in queues.values():
            each = group[next(self._turn) % len(group)]
            self.network.to_client(each.peer, each.peer.arrived, each.sid, subject, reply, data, block)
        return bool(found)

    def interest(self, inbox: str) -> bool:
        """Whether anybody listens there."""
        return bool(self._interested(inbox))

    # -- JetStream -----------------------------------------------------------------------------------------------------

    def stream_of(self, subject: str) -> Stream | None:
        """The stream that stores what is published on this subject."""
        if subject not in self._by_subject:
            found = (stream for stream in self.streams.values() if stream.accepts(subject))
            self._by_subject[subject] = next(found, None)
        return self._by_subject[subject]

    def streams_changed(self) -> None:
        """There is another stream, or one less, or one has other subjects."""
        self._by_subject.clear()

    def make_stream(self, config: Mapping[str, Any]) -> Stream:
        """Create a stream."""
        stream = Stream(config, self.clock, self._republish)
        self.streams[stream.name] = stream
        self.streams_changed()
        self.on_stream(stream)
        return stream

    def make_consumer(self, stream: Stream, config: Mapping[str, Any]) -> Consumer:
        """Create a consumer."""
        consumer = Consumer(config, stream, self.clock, self)
        stream.consumers[consumer.name] = consumer
        self.on_consumer(consumer)
        return consumer

    def settle(self, ack: str, data: bytes) -> bool:
        """What was sent to an ack subject; whether there is such a consumer."""
        parts = ack.split(".")
        stream = self.streams.get(parts[2])
        consumer = stream.consumers.get(parts[3]) if stream is not None else None
        if consumer is None:
            return False
        party = self.speaker.party if self.speaker is not None else None
        consumer.settle(int(parts[5]), int(parts[6]), data, party)
        return True

    def next_due(self, ignored: Callable[[Message], bool]) -> float | None:
        """When the next schedule fires, or the next delayed message comes again, of those that are not ignored."""
        found: list[float | None] = [stream.next_schedule(ignored) for stream in self.streams.values()]
        for stream in self.streams.values():
            found += [consumer.next_redelivery(ignored) for consumer in stream.consumers.values() if consumer.pending]
        return min((due for due in found if due is not None), default=None)

    def advise(self, kind: str, stream: str, consumer: str, body: Mapping[str, Any]) -> None:
        """Tell an advisory, which may get lost."""
        if not self.loses_advisory():
            advisory = {"stream": stream, "consumer": consumer, **body}
            self.publish(f"$JS.EVENT.ADVISORY.CONSUMER.{kind}.{stream}.{consumer}", fastjson.dumps(advisory))

    def _republish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        if self._interested(subject):
            self.deliver(subject, subject, "", data, block_of(headers))

    # -- accidents -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The server goes away, and every connection with it."""
        self.up = False
        for peer in list(self.peers):
            self.disconnected(peer)
            self.network.hang_up(peer)

    def start(self, dice: random.Random, *, crashed: bool = False) -> None:
        """The server is back, and has forgotten what a real one forgets, more of it when it had crashed."""
        self.up = True
        for stream in self.streams.values():
            stream.restarted(dice, crashed=crashed)

    def newest(self, stream: str, subject: str) -> Message | None:
        """What lies on a subject, for whoever watches."""
        return self.streams[stream].last(subject)
