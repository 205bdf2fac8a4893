"""What lies between a peer and the server. This one is perfect; a simulation gives it faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from turnout.testing.memory.clock import Clock
from turnout.testing.memory.peer import Peer

Arrive = Callable[..., Any]


class Reachable(Protocol):
    """What a network knows of the server that it leads to."""

    up: bool
    clock: Clock


class Network:
    """Carries what is sent, in order, in the loop's next turn."""

    def __init__(self, server: Reachable) -> None:
        self.server = server

    def connects(self, peer: Peer) -> bool:
        """Whether a connection can be made now."""
        return self.server.up

    def pause_s(self, peer: Peer) -> float:
        """How long it takes until a connection that was lost, or could not be made, is tried again."""
        return 0.25

    def to_server(self, peer: Peer, arrive: Arrive, *args: object) -> None:
        """Have `arrive` called when what the peer has sent is there."""
        self.server.clock.soon(arrive, *args)

    def to_client(self, peer: Peer, arrive: Arrive, *args: object) -> None:
        """Have `arrive` called, in the context of the peer, when what the server has sent is there."""
        peer.loop.call_soon(arrive, *args, context=peer.context)

    def hang_up(self, peer: Peer) -> None:
        """The server has ended the connection."""
        self.to_client(peer, peer.lose, "the server closed the connection")
