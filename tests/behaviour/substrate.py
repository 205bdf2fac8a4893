"""What turnout needs of JetStream, as a small protocol with two implementations: the simulated server and a real one.

Both block. The real one speaks the wire protocol over a plain socket, so that nothing but the server is under test.
"""

from __future__ import annotations

import base64
import datetime
import json
import socket
import time
from typing import Any, Protocol

import attrs

from tests.sim.jetstream import Bucket, Delivered, WorkStream, WrongLastSequence
from tests.sim.world import Host, Process, SimError, Steps, World
from turnout.testing import NatsServer

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


class Simulated:
    """tests/sim/jetstream.py, spoken to as a server over a link without delay."""

    def __init__(self) -> None:
        self.world = World(1)
        self.world.latency = lambda: 0.0005  # type: ignore[method-assign]
        self.work = WorkStream(self.world, PREFIX, ack_wait_s=ACK_WAIT_S, max_deliver=MAX_DELIVER)
        self.bucket: Bucket[str] = Bucket(self.world)
        self.host = Host(self.world, "tester", beat_s=1.0, ttl_s=3.0)
        self._deliveries: list[Delivered] = []

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
        try:
            ack = self.work.publish(subject, data, dict(headers or {}), msg_id=msg_id, expected=expected, rollup=rollup)
        except WrongLastSequence as error:
            raise Refused(str(error)) from error
        return Stored(ack.seq, ack.duplicate)

    def schedule(self, subject: str, data: str, delay_s: float, target: str, *, expected: int | None = None) -> Stored:
        headers: dict[str, Any] = {"Nats-Schedule": self.world.now + delay_s, "target": target, "Own": "kept"}
        try:
            msg_id = f"schedule {subject}"
            ack = self.work.publish(subject, data, headers, msg_id=msg_id, expected=expected, rollup=True)
        except WrongLastSequence as error:
            raise Refused(str(error)) from error
        return Stored(ack.seq, ack.duplicate)

    def pull(self, timeout_s: float = 0.3) -> Got | None:
        answers: list[Delivered | None] = []

        def steps() -> Steps:
            answers.append((yield self.host.link.pull(self.work.pull, timeout_s)))

        Process(self.host, steps())
        until = self.world.now + timeout_s + 0.01
        while not answers and self.world.now < until:
            self.world.run_until(self.world.now + 0.01)
        got = answers[0] if answers else None
        if got is None:
            return None
        headers = {key: str(value) for key, value in got.headers.items()}
        return Got(got.seq, got.count, got.subject, got.data, headers, str(got.seq), got.at)

    def ack(self, got: Got) -> None:
        self.work.ack(got.seq)

    def nak(self, got: Got, delay_s: float = 0.0) -> None:
        self.work.nak(got.seq, delay_s)

    def extend(self, got: Got) -> None:
        self.work.extend(got.seq)

    def last(self, subject: str) -> int:
        message = self.work.last(subject)
        return message.seq if message is not None else 0

    def holds(self, seq: int) -> bool:
        return self.work.get(seq) is not None

    def delete(self, seq: int) -> None:
        self.work.delete(seq)

    def purge(self, subject: str) -> None:
        self.work.purge(subject)

    def alarms(self) -> list[int]:
        return list(self.work.alarms)

    def put(self, key: str, value: str | None, expected: int, ttl_s: float | None = None) -> int:
        try:
            return self.bucket.put(key, value, expected, ttl_s)
        except SimError as error:
            raise Refused(str(error)) from error

    def get(self, key: str) -> tuple[str | None, int]:
        return self.bucket.get(key)

    def now(self) -> float:
        return self.world.now

    def restart(self) -> None:
        self.work.forget(crashed=False)

    def pass_time(self, seconds: float) -> None:
        self.world.run_until(self.world.now + seconds)


class Real:
    """A nats-server, over a plain socket."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self._connect()
        self._inbox = 0
        self._alarms: list[int] = []
        self._api("STREAM.CREATE.work", _WORK)
        self._api("STREAM.CREATE.KV_b", _BUCKET)
        self._api("STREAM.CREATE.alarms", _ALARMS)
        self._api("CONSUMER.CREATE.work.c", {"stream_name": "work", "config": _CONSUMER})

    def close(self) -> None:
        self._socket.close()

    # -- the protocol --------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._server.port), timeout=10)
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self._send(b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"protocol":1}\r\n')

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _pub(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        if headers:
            block = ("NATS/1.0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n").encode()
            self._send(
                f"HPUB {subject} {reply} {len(block)} {len(block) + len(data)}\r\n".encode() + block + data + b"\r\n"
            )
        else:
            self._send(f"PUB {subject} {reply} {len(data)}\r\n".encode() + data + b"\r\n")

    def _request(
        self, subject: str, data: bytes, headers: dict[str, str] | None = None
    ) -> tuple[str, dict[str, str], bytes]:
        """The first answer: (its own reply subject, headers, body)."""
        self._inbox += 1
        inbox = f"_R.{self._inbox}"
        # A delivery bears its own subject, not the inbox: the number of the subscription tells whose answer it is.
        self._send(f"SUB {inbox} {self._inbox}\r\n".encode())
        self._pub(subject, data, inbox, headers)
        while True:
            line = self._lines.readline()
            if not line:
                raise ConnectionError("the server closed the connection")
            words = line.decode().split()
            if words[0] == "PING":
                self._send(b"PONG\r\n")
            if words[0] not in ("MSG", "HMSG"):
                continue
            sizes = words[-2:] if words[0] == "HMSG" else ["0", words[-1]]
            body = self._lines.read(int(sizes[1]) + 2)[:-2]
            raw, body = body[: int(sizes[0])], body[int(sizes[0]) :]
            if words[2] == str(self._inbox):
                self._send(f"UNSUB {self._inbox}\r\n".encode())
                reply = words[3] if len(words) > (5 if words[0] == "HMSG" else 4) else ""
                return reply, _headers(raw), body

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

    # -- the substrate -------------------------------------------------------------------------------------------------

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
        at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=delay_s)
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
        self._pub(got.ack, verb)
        self.last("flush")  # an answer on this connection: what was sent before it has arrived

    def ack(self, got: Got) -> None:
        self._request(got.ack, b"+ACK")

    def nak(self, got: Got, delay_s: float = 0.0) -> None:
        self._settle(got, b"-NAK" if not delay_s else b'-NAK {"delay": %d}' % int(delay_s * 1e9))

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

    def now(self) -> float:
        return time.monotonic()

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
    return {"status": status[0], **headers} if status else headers


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
