"""The real `nats` program and our raw socket say the same to a server, byte for byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.natscli import NatsCli
from tests.support.rawsocket import raw_publish
from turnout.testing import NatsServer


class Recorder:
    """A TCP proxy before a server that keeps what the client said."""

    def __init__(self, server: NatsServer, listener: socket.socket) -> None:
        self._server = server
        self._listener = listener
        self.url = f"nats://127.0.0.1:{listener.getsockname()[1]}"
        self.said = b""

    def serve_one(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(("127.0.0.1", self._server.port)) as server:
            back = threading.Thread(target=self._pump, args=(server, client))
            back.start()
            while data := client.recv(65536):
                self.said += data
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            back.join()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65536):
            try:
                sink.sendall(data)
            except OSError:  # the client has what it wanted and is gone
                return


@contextmanager
def recording(server: NatsServer) -> Iterator[Recorder]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        recorder = Recorder(server, listener)
        thread = threading.Thread(target=recorder.serve_one)
        thread.start()
        yield recorder
        thread.join()


def published(said: bytes) -> bytes:
    """What a client said from its PUB or HPUB on. What comes before is its name and version."""
    lines = said.split(b"\r\n")
    first = next(number for number, line in enumerate(lines) if line.startswith((b"PUB ", b"HPUB ")))
    return b"\r\n".join(lines[first:])


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ('{"path": "a.mp4"}', {}),
        ("", {}),
        ('{"title": "Fähre – 渡し"}', {}),
        ("not json", {"Nats-Msg-Id": "ferry-7"}),
        ("{}", {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Nats-Msg-Id": "a b"}),
    ],
)
def test_raw_publish_sends_what_nats_pub_sends(
    nats_server: NatsServer, nats_cli: NatsCli, body: str, headers: dict[str, str]
) -> None:
    """From the PUB line to the last PING, the raw socket's bytes are those of `nats pub`."""
    options = [part for name, value in headers.items() for part in ("--header", f"{name}:{value}")]
    with recording(nats_server) as cli:
        nats_cli(cli.url, "pub", *options, "turnout.jobs.convert_video", body)
    with recording(nats_server) as raw:
        raw_publish(raw.url, "turnout.jobs.convert_video", body, headers)
    assert published(raw.said) == published(cli.said)


def test_raw_publish_tells_a_refusal() -> None:
    """A message that the server refuses raises with the server's words."""
    with NatsServer(config="max_payload: 64") as server, pytest.raises(ConnectionError, match="Maximum Payload"):
        raw_publish(server.url, "turnout.jobs.x", "x" * 65)
