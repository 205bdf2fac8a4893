"""A nats-server in memory, for tests: no process, no port, and time that may be virtual.

`MemoryServer` does what JetStream was seen to do: the same behavioural tests run on it and on a real nats-server.
`MemoryConnection` is the connection to it that production code uses as its own.
"""

from __future__ import annotations

from turnout.testing.memory.connection import MemoryConnection
from turnout.testing.memory.message import Message
from turnout.testing.memory.network import Network
from turnout.testing.memory.server import MemoryServer
from turnout.testing.memory.stream import Stream

__all__ = ["MemoryConnection", "MemoryServer", "Message", "Network", "Stream"]
