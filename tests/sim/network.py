"""The network of the simulation: slow, at times lossy, and cut in places. The connections over it are production's own
in all but the bytes; each belongs to a host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tests.sim.world import BEGAN_AT, Handle, Host, World
from turnout.nats.link import ConnectOptions
from turnout.testing.memory import MemoryConnection, MemoryServer, Network
from turnout.testing.memory.clock import Clock
from turnout.testing.memory.peer import Peer

WATCH_S = 4.0
"""After how long a connection gives up a server that says nothing."""


STALL_S = 2.0
"""A line that is held up for so long may cost its node a liveness TTL: it is as good as cut off until then."""

EFFECTS = (
    "sim.",
    "$KV.sim_jobs.",
    "$KV.sim_activities._groups.",
    "$JS.ACK.",
    "$JS.API.STREAM.MSG.DELETE.",
    "$JS.API.STREAM.PURGE.",
)
"""Where what is sent changes something for a job, or asks another process about one."""


class WorldClock(Clock):
    """The server's time, which is the world's; its timers wait in the world's heap."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return BEGAN_AT + self._world.now

    def now_ns(self) -> int:
        return int((BEGAN_AT + self._world.now) * 1e9)

    def at(self, instant: float, callback: Callable[..., object], *args: object) -> Any:
        return self._world.at(instant - BEGAN_AT, callback, *args)

    def soon(self, callback: Callable[..., object], *args: object) -> None:
        self._world.at(self._world.now, callback, *args)


class SimConnection(MemoryConnection):
    """A connection of a host. `before_effect` is told of each question and message before it is sent."""

    host: Host
    last_sent = 0.0
    last_answered = 0.0
    up_since = 0.0
    cut_off = False
    """Whether it was lost because its host was cut off, or while that stood still, and is not there again."""
    before_effect: Callable[[Host, str, bytes], None]

    def try_now(self) -> None:
        super().try_now()
        if self.up:
            self.up_since = self.host.world.now
            if self.cut_off:
                self.cut_off = False
                self.host.well_since = max(self.host.well_since, self.host.world.now)

    def lose(self, reason: str) -> None:
        if self.up and self.host.well_since == self.host.world.now:  # it has just thawed, and hears of it
            self.cut_off = True
        super().lose(reason)

    def _ask_server(self, asked: str, timeout_s: float, serve: Callable[..., Any], *args: object) -> Any:
        if not self.host.alive or asked.startswith(EFFECTS):
            self.before_effect(self.host, asked, b"")
        return super()._ask_server(asked, timeout_s, serve, *args)

    def request_nowait(self, subject: str, data: bytes = b"", **more: Any) -> Any:
        if not self.host.alive or (subject.startswith(EFFECTS) and data != b"+WPI"):
            self.before_effect(self.host, subject, data)
        return super().request_nowait(subject, data, **more)

    def send(self, subject: str, data: bytes = b"", **more: Any) -> None:
        if not self.host.alive or subject.startswith(EFFECTS):
            self.before_effect(self.host, subject, data)
        super().send(subject, data, **more)


class SimNetwork(Network):
    """What is sent first over a connection arrives first, but it may take long, or be lost in a lossy spell."""

    def __init__(self, world: World, server: MemoryServer) -> None:
        super().__init__(server)
        self._world = world
        self.lossy_until = 0.0
        self._lines = (server.subscribe, server.unsubscribe)
        """No message: a connection that lives delivers them."""
        self._mute: Peer | None = None

    def latency(self) -> float:
        """Mostly a few milliseconds, now and then longer than a lease, but never as long as a node may be silent."""
        roll = self._world.random.random()
        if roll < 0.95:
            return 0.001 + roll * 0.01
        return 0.02 + (roll - 0.95) * 4 if roll < 0.998 else 0.2 + self._world.random.random() * 2

    def _fate(self) -> str:
        """What becomes of a request: in a lossy spell it, or only its answer, gets lost or is late."""
        roll = self._world.random.random()
        return "ok" if roll < 0.6 else "lost" if roll < 0.75 else "mute" if roll < 0.9 else "late"

    def connects(self, peer: Peer) -> bool:
        assert isinstance(peer, SimConnection)
        return self.server.up and not peer.host.cut

    def pause_s(self, peer: Peer) -> float:
        return 0.1 + self._world.random.random() * 1.9

    # -- to the server -------------------------------------------------------------------------------------------------

    def to_server(self, peer: Peer, arrive: Callable[..., Any], *args: object) -> None:
        assert isinstance(peer, SimConnection)
        world = self._world
        fate = self._fate() if world.now < self.lossy_until and arrive not in self._lines else "ok"
        if fate == "lost":
            return
        when = max(world.now + self.latency(), peer.last_sent)
        if fate == "late":
            when += world.random.random() * 4
            if when - world.now > STALL_S:
                peer.host.well_since = max(peer.host.well_since, when)
        peer.last_sent = when
        world.at(when, self._at_server, peer, peer.epoch, fate != "ok", arrive, args)

    def _at_server(
        self, peer: SimConnection, epoch: int, mute: bool, arrive: Callable[..., Any], args: tuple[object, ...]
    ) -> None:
        world = self._world
        if not self.server.up:
            return
        if peer.host.cut and peer.host.alive:
            # It lies in the kernel's buffer, before what is sent later; a connection that is given up takes it along.
            peer.last_sent = max(world.now + 0.3, peer.last_sent)
            world.at(peer.last_sent, self._at_server, peer, epoch, mute, arrive, args)
            return
        if (peer.epoch != epoch or not peer.up) and peer.host.alive and world.random.random() < 0.5:
            return
        self._mute = peer if mute else None
        try:
            arrive(*args)
        finally:
            self._mute = None

    # -- to the client -------------------------------------------------------------------------------------------------

    def to_client(self, peer: Peer, arrive: Callable[..., Any], *args: object) -> None:
        assert isinstance(peer, SimConnection)
        if peer is self._mute:
            return
        world = self._world
        when = max(world.now + self.latency(), peer.last_answered)
        peer.last_answered = when
        world.place(when, Handle(self._at_client, (peer, peer.epoch, arrive, args), peer.context))

    def _at_client(self, peer: SimConnection, epoch: int, arrive: Callable[..., Any], args: tuple[object, ...]) -> None:
        """The world has seen to it that the host lives and is not frozen."""
        if peer.epoch != epoch:
            return
        if peer.host.cut:
            world = self._world
            peer.last_answered = max(world.now + 0.3, peer.last_answered)
            world.place(peer.last_answered, Handle(self._at_client, (peer, epoch, arrive, args), peer.context))
        else:
            arrive(*args)

    def hang_up(self, peer: Peer) -> None:
        assert isinstance(peer, SimConnection)
        if not peer.host.cut:  # else it finds out for itself
            self.to_client(peer, peer.lose, "the server is gone")

    def cut_off(self, host: Host, connections: list[SimConnection]) -> None:
        """A host can't be reached any more: its connections give up after a while."""
        for connection in connections:
            handle = Handle(self._gives_up, (connection, connection.epoch), connection.context)
            self._world.place(self._world.now + WATCH_S, handle)

    def _gives_up(self, peer: SimConnection, epoch: int) -> None:
        if peer.host.cut and peer.epoch == epoch:
            peer.cut_off = True
            peer.lose("no sign of life")


async def connect(
    host: Host,
    server: MemoryServer,
    opened: list[SimConnection],
    before_effect: Callable[[Host, str, bytes], None],
    options: ConnectOptions,
    *,
    name: str,
) -> SimConnection:
    """What `Connection.open` is for the code of a host."""
    connection = SimConnection(server, options, name)
    connection.host = connection.party = host
    connection.before_effect = before_effect
    opened.append(connection)
    connection.try_now()
    await connection.wait_up()
    return connection


def connector(host: Host, *rest: Any) -> functools.partial[Any]:
    """`connect` for a host."""
    return functools.partial(connect, host, *rest)
