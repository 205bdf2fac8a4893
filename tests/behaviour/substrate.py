"""What turnout needs of JetStream, as a small protocol with two implementations: the simulated server and a real one.

Both block. The real one speaks the wire protocol over a plain socket, so that nothing but the server is under test.
"""

from __future__ import annotations

import abc
import base64
import contextlib
import datetime
import json
import socket
import time
from typing import Any, Protocol

import attrs

from tests.sim.network import WorldClock
from tests.sim.world import World
from turnout.nats.connection import ConnectOptions, Message
from turnout.testing import NatsServer
from turnout.testing.memory import MemoryConnection, MemoryServer

ACK_WAIT_S = 1.0
MAX_DELIVER = 3
PREFIX = "jobs.act"


class Refused(Exception):
    """The server refused a publish because of its expectation."""


@attrs.frozen
class Got:
    """A delivery."""

    seq: int
    count: int
    subject: str
    data: str
    headers: dict[str, str]
    ack: str
    at: float


@attrs.frozen
class Stored:
    """The answer to a publish."""

    seq: int
    duplicate: bool = False


class Substrate(Protocol):
    """A work stream over `jobs.>` and `timers.>` with one consumer of `jobs.act` and below, and a bucket."""

    def publish(
        self,
        subject: str,
        data: str = "",
        *,
        headers: dict[str, str] | None = None,
        msg_id: str | None = None,
        expected: int | None = None,
        rollup: bool = False,
    ) -> Stored: ...
    def schedule(
        self, subject: str, data: str, delay_s: float, target: str, *, expected: int | None = None
    ) -> Stored: ...
    def pull(self, timeout_s: float = 0.3) -> Got | None: ...
    def ack(self, got: Got) -> None: ...
    def nak(self, got: Got, delay_s: float = 0.0) -> None: ...
    def nak_built(self, got: Got, dseq: int) -> None: ...
    def glance(self, timeout_s: float = 0.3) -> str: ...
    def extend(self, got: Got) -> None: ...
    def last(self, subject: str) -> int: ...
    def holds(self, seq: int) -> bool: ...
    def delete(self, seq: int) -> None: ...
    def purge(self, subject: str) -> None: ...
    def alarms(self) -> list[int]: ...
    def put(self, key: str, value: str | None, expected: int, ttl_s: float | None = None) -> int: ...
    def get(self, key: str) -> tuple[str | None, int]: ...
    def now(self) -> float: ...
    def restart(self) -> None: ...
    def pass_time(self, seconds: float) -> None: ...


class Spoken(abc.ABC):
    """The substrate in the words of the server's API, for whoever carries them."""

    def __init__(self) -> None:
        self._api("STREAM.CREATE.work", _WORK)
        self._api("STREAM.CREATE.KV_b", _BUCKET)
        self._api("STREAM.CREATE.alarms", _ALARMS)
        self._api("CONSUMER.CREATE.work.c", {"stream_name": "work", "config": _CONSUMER})

    @abc.abstractmethod
    def _request(
        self, subject: str, data: bytes, headers: dict[str, str] | None = None
    ) -> tuple[str, dict[str, str], bytes]:
        """The first answer: (its own reply subject, headers, body)."""

    @abc.abstractmethod
    def _send(self, subject: str, data: bytes) -> None:
        """Publish, without an answer."""

    @abc.abstractmethod
    def now(self) -> float: ...

    @abc.abstractmethod
    def _unix(self) -> float:
        """Seconds by the server's wall clock."""

    def _api(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        _, _, data = self._request(f"$JS.API.{verb}", json.dumps(body).encode())
        answer: dict[str, Any] = json.loads(data)
        if "error" in answer and answer["error"].get("err_code") not in (10037, 10043):  # no message found
            raise RuntimeError(f"{verb}: {answer['error']}")
        return answer

    def _store(self, subject: str, data: str, headers: dict[str, str]) -> Stored:
        _, _, body = self._request(subject, data.encode(), headers)
        answer = json.loads(body)
        if "error" in answer:
            if answer["error"]["err_code"] == 10071:
                raise Refused(answer["error"]["description"])
            raise RuntimeError(str(answer["error"]))
        return Stored(answer["seq"], answer.get("duplicate", False))

    def publish(
        self,
        subject: str,
        data: str = "",
        *,
        headers: dict[str, str] | None = None,
        msg_id: str | None = None,
        expected: int | None = None,
        rollup: bool = False,
    ) -> Stored:
        all_headers = dict(headers or {})
        if msg_id is not None:
            all_headers["Nats-Msg-Id"] = msg_id
        if expected is not None:
            all_headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        if rollup:
            all_headers["Nats-Rollup"] = "sub"
        return self._store(subject, data, all_headers)

    def schedule(self, subject: str, data: str, delay_s: float, target: str, *, expected: int | None = None) -> Stored:
        at = datetime.datetime.fromtimestamp(self._unix() + delay_s, datetime.UTC)
        headers = {
            "Nats-Schedule": f"@at {at.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}",
            "Nats-Schedule-Target": target,
            "Own": "kept",
        }
        return self.publish(subject, data, headers=headers, msg_id=f"schedule {subject}", expected=expected)

    def pull(self, timeout_s: float = 0.3) -> Got | None:
        request = {"batch": 1, "expires": int(timeout_s * 1e9)}
        reply, headers, body = self._request("$JS.API.CONSUMER.MSG.NEXT.work.c", json.dumps(request).encode())
        if "status" in headers:
            return None
        parts = reply.split(".")
        seq, count = int(parts[5]), int(parts[4])
        stored = self._api("STREAM.MSG.GET.work", {"seq": seq})["message"]
        return Got(seq, count, stored["subject"], body.decode(), headers, reply, self.now())

    def _settle(self, got: Got, verb: bytes) -> None:
        self._send(got.ack, verb)
        self.last("flush")  # an answer on this connection: what was sent before it has arrived

    def ack(self, got: Got) -> None:
        self._request(got.ack, b"+ACK")

    def nak(self, got: Got, delay_s: float = 0.0) -> None:
        self._settle(got, b"-NAK" if not delay_s else b'-NAK {"delay": %d}' % int(delay_s * 1e9))

    def nak_built(self, got: Got, dseq: int) -> None:
        """Give back by an ack subject that is made up but for the stream's sequence and this consumer sequence."""
        self._settle(attrs.evolve(got, ack=f"$JS.ACK.work.c.1.{got.seq}.{dseq}.0.0"), b"-NAK")

    def glance(self, timeout_s: float = 0.3) -> str:
        """A pull that no message is small enough for: the status that ends it, with its words."""
        request = {"batch": 1, "expires": int(timeout_s * 1e9), "max_bytes": 1}
        _, headers, _ = self._request("$JS.API.CONSUMER.MSG.NEXT.work.c", json.dumps(request).encode())
        return f"{headers['status']} {headers['description']}".lower()

    def extend(self, got: Got) -> None:
        self._settle(got, b"+WPI")

    def last(self, subject: str) -> int:
        answer = self._api("STREAM.MSG.GET.work", {"last_by_subj": subject})
        return int(answer["message"]["seq"]) if "message" in answer else 0

    def holds(self, seq: int) -> bool:
        return "message" in self._api("STREAM.MSG.GET.work", {"seq": seq})

    def delete(self, seq: int) -> None:
        self._api("STREAM.MSG.DELETE.work", {"seq": seq, "no_erase": True})

    def purge(self, subject: str) -> None:
        self._api("STREAM.PURGE.work", {"filter": subject})

    def alarms(self) -> list[int]:
        count = self._api("STREAM.INFO.alarms", {})["state"]["messages"]
        return [count] * int(count)

    def put(self, key: str, value: str | None, expected: int, ttl_s: float | None = None) -> int:
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        if ttl_s is not None:
            headers["Nats-TTL"] = f"{int(ttl_s)}s"
        if value is None:
            headers["KV-Operation"] = "DEL"
        return self._store(f"$KV.b.{key}", value or "", headers).seq

    def get(self, key: str) -> tuple[str | None, int]:
        answer = self._api("STREAM.MSG.GET.KV_b", {"last_by_subj": f"$KV.b.{key}"})
        if "message" not in answer:
            return None, 0
        message = answer["message"]
        value = base64.b64decode(message.get("data", "")).decode()
        return value or None, int(message["seq"])


class Simulated(Spoken):
    """The server in memory, in virtual time."""

    def __init__(self) -> None:
        self._world = World(1)  # type: ignore[abstract]
        self._server = MemoryServer(clock=WorldClock(self._world))
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._world.running())
        self._connection = MemoryConnection(self._server, ConnectOptions(), "tester")
        self._connection.try_now()
        super().__init__()

    def close(self) -> None:
        self._world.close()
        self._stack.close()

    def _request(
        self, subject: str, data: bytes, headers: dict[str, str] | None = None
    ) -> tuple[str, dict[str, str], bytes]:
        inbox, answers = self._connection.new_inbox(), list[Message]()
        # A delivery bears its own subject, not the inbox, so each question has a subscription of its own.
        forget = self._connection.listen(inbox, answers.append)
        self._connection.send(subject, data, headers=headers, reply=inbox)
        while not answers:
            self._world.run_until(self._world.now + 0.01)
        forget()
        message = answers[0]
        status = {"status": str(message.status), "description": message.description}
        return message.reply, {**message.headers, **(status if message.status is not None else {})}, message.data

    def _send(self, subject: str, data: bytes) -> None:
        self._connection.send(subject, data)

    def now(self) -> float:
        return self._world.now

    def _unix(self) -> float:
        return self._server.clock.now()

    def restart(self) -> None:
        self._server.stop()
        self._world.run_until(self._world.now + 0.1)
        self._server.start(self._world.random)
        self._world.run_until(self._world.now + 1.0)

    def pass_time(self, seconds: float) -> None:
        self._world.run_until(self._world.now + seconds)


class Real(Spoken):
    """A nats-server, over a plain socket."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self._connect()
        self._inbox = 0
        super().__init__()

    def close(self) -> None:
        self._socket.close()

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._server.port), timeout=30)
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self._write(b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}\r\n')

    def _write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _send(self, subject: str, data: bytes) -> None:
        self._pub(subject, data)

    def _pub(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        if headers:
            block = ("NATS/1.0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n").encode()
            self._write(
                f"HPUB {subject} {reply} {len(block)} {len(block) + len(data)}\r\n".encode() + block + data + b"\r\n"
            )
        else:
            self._write(f"PUB {subject} {reply} {len(data)}\r\n".encode() + data + b"\r\n")

    def _request(
        self, subject: str, data: bytes, headers: dict[str, str] | None = None
    ) -> tuple[str, dict[str, str], bytes]:
        """The first answer: (its own reply subject, headers, body)."""
        self._inbox += 1
        inbox = f"_R.{self._inbox}"
        # A delivery bears its own subject, not the inbox: the number of the subscription tells whose answer it is.
        self._write(f"SUB {inbox} {self._inbox}\r\n".encode())
        self._pub(subject, data, inbox, headers)
        while True:
            line = self._lines.readline()
            if not line:
                raise ConnectionError("the server closed the connection")
            words = line.decode().split()
            if words[0] == "PING":
                self._write(b"PONG\r\n")
            if words[0] not in ("MSG", "HMSG"):
                continue
            sizes = words[-2:] if words[0] == "HMSG" else ["0", words[-1]]
            body = self._lines.read(int(sizes[1]) + 2)[:-2]
            raw, body = body[: int(sizes[0])], body[int(sizes[0]) :]
            if words[2] == str(self._inbox):
                self._write(f"UNSUB {self._inbox}\r\n".encode())
                reply = words[3] if len(words) > (5 if words[0] == "HMSG" else 4) else ""
                return reply, _headers(raw), body

    def now(self) -> float:
        return time.monotonic()

    def _unix(self) -> float:
        return time.time()

    def restart(self) -> None:
        self._socket.close()
        self._server.restart()
        self._connect()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # the server answers before its consumers are there again
            _, headers, _ = self._request("$JS.API.CONSUMER.INFO.work.c", b"")
            if "status" not in headers:
                return

    def pass_time(self, seconds: float) -> None:
        """What happens by the clock alone needs the clock to run."""
        time.sleep(seconds)


def _headers(raw: bytes) -> dict[str, str]:
    """The headers of a message; `status` is that of a message that is only a status."""
    lines = raw.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    status = lines[0].removeprefix("NATS/1.0").split()
    return {"status": status[0], "description": " ".join(status[1:]), **headers} if status else headers


_WORK = {
    "name": "work",
    "subjects": ["jobs.>", "timers.>"],
    "retention": "workqueue",
    "storage": "file",
    "allow_direct": True,
    "allow_msg_schedules": True,
    "allow_msg_ttl": True,
    "allow_rollup_hdrs": True,
    "max_msg_size": -1,
    "num_replicas": 1,
}
_BUCKET = {
    "name": "KV_b",
    "subjects": ["$KV.b.>"],
    "max_msgs_per_subject": 1,
    "discard": "new",
    "storage": "file",
    "allow_rollup_hdrs": True,
    "deny_delete": True,
    "allow_msg_ttl": True,
    "subject_delete_marker_ttl": int(60e9),
    "num_replicas": 1,
}
_ALARMS = {"name": "alarms", "subjects": ["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.work.>"], "num_replicas": 1}
_CONSUMER = {
    "durable_name": "c",
    "ack_policy": "explicit",
    "ack_wait": int(ACK_WAIT_S * 1e9),
    "max_deliver": MAX_DELIVER,
    "filter_subjects": [PREFIX, f"{PREFIX}.>"],
}
