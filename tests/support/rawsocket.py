"""The bytes that `nats pub` sends, over a plain socket: a submitter that has no NATS library, let alone ours.

tests/interop/test_natscli.py holds these bytes against those of the real `nats` program.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

CONNECT = {
    "verbose": False,
    "pedantic": False,
    "tls_required": False,
    "name": "raw socket",
    "lang": "none",
    "version": "0",
    "protocol": 1,
    "echo": True,
    "headers": True,
    "no_responders": True,
}


def publish_bytes(subject: str | bytes, body: str | bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """The PUB, or with headers (sorted by name, as Go writes them) the HPUB, of one message."""
    data = body.encode() if isinstance(body, str) else body
    subject = subject.encode() if isinstance(subject, str) else subject
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (subject, len(data), data)
    lines = "".join(f"{name}: {value}\r\n" for name, value in sorted(headers.items()))
    block = f"NATS/1.0\r\n{lines}\r\n".encode()
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(block), len(block) + len(data), block, data)


def raw_publish(url: str, subject: str | bytes, body: str | bytes, headers: Mapping[str, str] | None = None) -> None:
    """Publish one message as `nats pub` does, and return when the server has taken it (it answers PONG).

    ConnectionError: the server refused it; the text is the server's.
    """
    raw_send(url, publish_bytes(subject, body, headers))


def raw_send(url: str, commands: bytes) -> None:
    """Say these bytes to the server, and return when it has taken them; ConnectionError as for `raw_publish`."""
    address = urlsplit(url)
    if address.hostname is None:
        raise ValueError(f"url {url!r}: nats://host:port expected")
    with socket.create_connection((address.hostname, address.port or 4222), timeout=30) as connection:
        answers = connection.makefile("rb")
        if not answers.readline().startswith(b"INFO "):
            raise ConnectionError(f"what answers at {url} is not a NATS server")
        options = CONNECT | {"user": address.username, "pass": address.password} if address.username else CONNECT
        connect = b"CONNECT %b\r\n" % json.dumps(options).encode()
        connection.sendall(connect + commands + b"PING\r\n")
        for line in answers:
            if line == b"PONG\r\n":
                return
            if line.startswith(b"-ERR"):
                raise ConnectionError(line.decode().strip())
        raise ConnectionError(f"{url} closed the connection before it answered")
