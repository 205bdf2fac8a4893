"""The JetStream API of the server in memory: the requests that are sent to `$JS.API.`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from turnout import fastjson
from turnout.testing.memory.clock import Clock
from turnout.testing.memory.consumer import Consumer
from turnout.testing.memory.message import Message
from turnout.testing.memory.refusal import Refusal, no_consumer, no_message, no_stream
from turnout.testing.memory.stream import Stream
from turnout.testing.memory.subjects import literal
from turnout.testing.memory.wire import block_of, instant, rfc3339, with_headers

_PAGE = 256
_NO_RESPONDERS = block_of({}, "503")
_NO_RESULTS = block_of({}, "404 No Results")
_NOT_FOUND = block_of({}, "404 Message Not Found")

Body = Mapping[str, Any]
Answer = dict[str, Any]


class Host(Protocol):
    """The server whose API it is."""

    streams: dict[str, Stream]
    clock: Clock

    def deliver(self, inbox: str, subject: str, reply: str, data: bytes, block: bytes) -> bool: ...
    def make_stream(self, config: Body) -> Stream: ...
    def make_consumer(self, stream: Stream, config: Body) -> Consumer: ...
    def streams_changed(self) -> None: ...
    def interest(self, inbox: str) -> bool: ...
    def next_number(self) -> int: ...


class Api:
    """Carries out requests, and answers them on their reply subject."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._streams: dict[str, Callable[[str, Body], Answer]] = {
            "STREAM.CREATE.": self._create,
            "STREAM.UPDATE.": self._update,
            "STREAM.INFO.": self._info,
            "STREAM.DELETE.": self._delete,
            "STREAM.PURGE.": self._purge,
            "STREAM.MSG.GET.": self._get,
            "STREAM.MSG.DELETE.": self._remove,
            "CONSUMER.LIST.": self._consumers,
            "CONSUMER.NAMES.": self._names,
        }

    def ask(self, verb: str, data: bytes, reply: str) -> None:
        """Answer a request, `verb` what follows `$JS.API.`."""
        if verb.startswith("CONSUMER.MSG.NEXT."):
            self._next(verb, data, reply)
            return
        if verb.startswith("DIRECT.GET."):
            self._direct(verb[len("DIRECT.GET.") :], data, reply)
            return
        answer: Answer
        try:
            answer = self.answer(verb, fastjson.loads(data) if data else {})
        except Refusal as refusal:
            answer = {"error": refusal.body()}
        self._reply(reply, fastjson.dumps(answer))

    def _reply(self, reply: str, data: bytes, block: bytes = b"") -> None:
        if reply:
            self._server.deliver(reply, reply, "", data, block)

    def answer(self, verb: str, body: Body) -> Answer:
        """What a request brings about, as an object. Raises `Refusal`."""
        if verb == "INFO":
            return {"memory": 0, "storage": 0, "streams": len(self._server.streams)}
        if verb == "STREAM.NAMES":
            return self._paged("streams", sorted(self._server.streams), body)
        if verb == "STREAM.LIST":
            return self._paged("streams", [self._info(name, {}) for name in sorted(self._server.streams)], body)
        for prefix, act in self._streams.items():
            if verb.startswith(prefix):
                return act(verb[len(prefix) :], body)
        if verb.startswith(("CONSUMER.CREATE.", "CONSUMER.DURABLE.CREATE.")):
            parts = verb.partition("CREATE.")[2].split(".")
            return self._make_consumer(parts[0], parts[1] if len(parts) > 1 else "", body)
        return self._of_consumer(verb, body)

    def _of_consumer(self, verb: str, body: Body) -> Answer:
        act, _, place = verb.removeprefix("CONSUMER.").partition(".")
        stream, _, name = place.partition(".")
        consumer = self._consumer(stream, name)
        if act == "INFO":
            return consumer.info()
        if act == "DELETE":
            del self.stream(stream).consumers[name]
            consumer.deleted()
            return {"success": True}
        raise Refusal(400, 10025, f"the server in memory knows no {verb}")

    def stream(self, name: str) -> Stream:
        """The stream of this name. Raises `Refusal` where there is none."""
        stream = self._server.streams.get(name)
        if stream is None:
            raise no_stream()
        return stream

    def _consumer(self, stream: str, name: str) -> Consumer:
        consumer = self.stream(stream).consumers.get(name)
        if consumer is None:
            raise no_consumer()
        return consumer

    # -- streams -------------------------------------------------------------------------------------------------------

    def _create(self, name: str, body: Body) -> Answer:
        stream = self._server.streams.get(name)
        if stream is not None and stream.config != dict(body):
            raise Refusal(400, 10058, "stream name already in use with a different configuration")
        if stream is None:
            self._server.make_stream(body)
        return self._info(name, {})

    def _update(self, name: str, body: Body) -> Answer:
        self.stream(name).update(body)
        self._server.streams_changed()
        return self._info(name, {})

    def _info(self, name: str, body: Body) -> Answer:
        stream = self.stream(name)
        stream.expire()
        messages = stream.messages
        state: Answer = {
            "messages": len(messages),
            "bytes": sum(len(message.data) + len(message.block) for message in messages.values()),
            "first_seq": next(iter(messages), stream.last_seq + 1),
            "last_seq": stream.last_seq,
            "last_ts": rfc3339(stream.last_ns),
            "consumer_count": len(stream.consumers),
        }
        if body.get("subjects_filter"):
            state["subjects"] = stream.subjects(body["subjects_filter"])
        return {
            "type": "io.nats.jetstream.api.v1.stream_info_response",
            "config": stream.config,
            "created": stream.created,
            "state": state,
            "ts": rfc3339(self._server.clock.now_ns()),
        }

    def _delete(self, name: str, body: Body) -> Answer:
        stream = self.stream(name)
        for consumer in stream.consumers.values():
            consumer.deleted()
        del self._server.streams[name]
        self._server.streams_changed()
        return {"success": True}

    def _purge(self, name: str, body: Body) -> Answer:
        purged = self.stream(name).purge(
            body.get("filter") or ">", below=body.get("seq"), keep=int(body.get("keep") or 0)
        )
        return {"success": True, "purged": purged}

    def _get(self, name: str, body: Body) -> Answer:
        stream = self.stream(name)
        message = wanted(stream, body)
        if message is None:
            raise no_message()
        found: Answer = {"subject": message.subject, "seq": message.seq, "time": rfc3339(message.time_ns)}
        if message.data:
            found["data"] = base64.b64encode(message.data).decode()
        if message.block:
            found["hdrs"] = base64.b64encode(message.block).decode()
        return {"type": "io.nats.jetstream.api.v1.stream_msg_get_response", "message": found}

    def _remove(self, name: str, body: Body) -> Answer:
        if not self.stream(name).delete(int(body["seq"])):
            raise Refusal(404, 10057, "no message found")
        return {"success": True}

    # -- consumers -----------------------------------------------------------------------------------------------------

    def _make_consumer(self, stream_name: str, name: str, body: Body) -> Answer:
        stream = self.stream(stream_name)
        if body["config"].get("deliver_subject"):
            self._forget_unheard(stream)
            name = name or f"push-{self._server.next_number()}"
        config = {**body["config"], "durable_name": body["config"].get("durable_name") or name}
        name = config["durable_name"]
        found = stream.consumers.get(name)
        if found is None:
            found = self._server.make_consumer(stream, config)
        elif body.get("action") == "create" and {**config, "name": name} != found.config:
            raise Refusal(400, 10148, "consumer already exists")
        else:
            found.update(config)
        return found.info()

    def _forget_unheard(self, stream: Stream) -> None:
        """Push consumers go when nobody listens."""
        for name, consumer in list(stream.consumers.items()):
            subject = consumer.config.get("deliver_subject")
            if subject and not self._server.interest(subject):
                del stream.consumers[name]

    def _consumers(self, name: str, body: Body) -> Answer:
        consumers = self.stream(name).consumers
        return self._paged("consumers", [consumers[each].info() for each in sorted(consumers)], body)

    def _names(self, name: str, body: Body) -> Answer:
        return self._paged("consumers", sorted(self.stream(name).consumers), body)

    def _paged(self, what: str, found: list[Any], body: Body) -> Answer:
        offset = int(body.get("offset") or 0)
        return {"total": len(found), "offset": offset, "limit": _PAGE, what: found[offset : offset + _PAGE]}

    def _next(self, verb: str, data: bytes, reply: str) -> None:
        _, _, _, stream_name, name = verb.split(".", 4)
        stream = self._server.streams.get(stream_name)
        consumer = stream.consumers.get(name) if stream is not None else None
        if consumer is None:
            self._reply(reply, b"", _NO_RESPONDERS)
            return
        consumer.pull(reply, fastjson.loads(data) if data.startswith(b"{") else {"batch": int(data or 1)})

    # -- direct reads --------------------------------------------------------------------------------------------------

    def _direct(self, place: str, data: bytes, reply: str) -> None:
        name, _, subject = place.partition(".")
        stream = self._server.streams.get(name)
        if stream is None:
            self._reply(reply, b"", _NO_RESPONDERS)
            return
        for answer in self.pieces(stream, {"last_by_subj": subject} if subject else fastjson.loads(data)):
            self._reply(reply, *answer)

    def pieces(self, stream: Stream, body: Body) -> list[tuple[bytes, bytes]]:
        """The answers to a direct read: bodies and header blocks."""
        if "batch" not in body and "multi_last" not in body:
            message = wanted(stream, body)
            return [(message.data, _placed(stream, message)) if message else (b"", _NOT_FOUND)]
        found, left = batch(stream, body)
        if not found:
            return [(b"", _NO_RESULTS)]
        end = {"Nats-Num-Pending": str(left), "Nats-Last-Sequence": str(found[-1].seq)}
        return [*((each.data, _placed(stream, each)) for each in found), (b"", block_of(end, "204 EOB"))]


def wanted(stream: Stream, body: Body) -> Message | None:
    """The one message that a read asks for."""
    if "last_by_subj" in body:
        return stream.last(body["last_by_subj"])
    if "next_by_subj" in body:
        return next(stream.after(int(body.get("seq") or 1), body["next_by_subj"]), None)
    return stream.get(int(body["seq"]))


def batch(stream: Stream, body: Body) -> tuple[list[Message], int]:
    """The messages that a batch gets, and how many there are behind its end."""
    first, limit, bytes_left = (
        int(body.get("seq") or 1),
        int(body.get("batch") or 2**62),
        body.get("max_bytes") or 2**62,
    )
    matching = _newest(stream, body["multi_last"], first) if "multi_last" in body else None
    if matching is None:
        since_ns = instant(body["start_time"]) * 1e9 if "start_time" in body else 0
        after = stream.after(first, body.get("next_by_subj") or ">")
        matching = [message for message in after if message.time_ns >= since_ns]
    found: list[Message] = []
    for message in matching[:limit]:
        bytes_left -= len(message.data)
        if found and bytes_left < 0:
            break
        found.append(message)
    return found, len(matching) - len(found)


def _newest(stream: Stream, patterns: list[str], first: int) -> list[Message]:
    newest: dict[int, Message] = {}
    for pattern in patterns:
        for subject in [pattern] if literal(pattern) else stream.subjects(pattern):
            message = stream.last(subject)
            if message is not None and message.seq >= first:
                newest[message.seq] = message
    return [newest[seq] for seq in sorted(newest)]


def _placed(stream: Stream, message: Message) -> bytes:
    """The message's headers, and behind them where it lies."""
    place = f"Nats-Stream: {stream.name}\r\nNats-Subject: {message.subject}\r\nNats-Sequence: {message.seq}\r\n"
    return with_headers(message.block, f"{place}Nats-Time-Stamp: {rfc3339(message.time_ns)}\r\n")
