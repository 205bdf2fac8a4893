"""Virtual time: a heap of events, processes that are stepped by hand, and hosts whose links to the server can fail.

Nothing here knows of jobs. A process is a generator; it yields a command (`sleep`, `Link.call`, `Signal.wait`) and is
resumed with the answer. Everything random comes from one seeded source, so a seed is a whole history.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Generator
from typing import Any

Command = Callable[["Process"], None]
Steps = Generator[Command, Any, Any]

CALL_TIMEOUT_S = 1.0
LEASE_S = 3.0


class SimError(Exception):
    """What a server answers instead of a value."""


class Unanswered(SimError):
    """No answer in time: whether it was done is unknown."""


class Crashed(BaseException):
    """The host of the running process dies at this very point."""


class World:
    """The clock, the heap, the dice."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1_700_000_000.0
        self.steps = 0
        self.server_up = True
        self.lossy_until = 0.0
        self.hosts: list[Host] = []
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def at(self, when: float, act: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), act, args))

    def after(self, delay_s: float, act: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._heap, (self.now + delay_s, next(self._order), act, args))

    def run_until(self, instant: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= instant:
            self.now, _, act, args = heapq.heappop(heap)
            self.steps += 1
            act(*args)
        self.now = instant

    def latency(self) -> float:
        """Mostly a few milliseconds, now and then longer than a lease: what is sent first need not arrive first."""
        roll = self.random.random()
        if roll < 0.9:
            return 0.001 + roll * 0.01
        return 0.02 + (roll - 0.9) * 2 if roll < 0.995 else 0.2 + self.random.random() * 6

    def fate(self) -> str:
        """What becomes of a request: in a lossy spell it, or only its answer, gets lost or is late."""
        if self.now >= self.lossy_until:
            return "ok"
        roll = self.random.random()
        return "ok" if roll < 0.6 else "lost" if roll < 0.75 else "mute" if roll < 0.9 else "late"

    def set_server(self, up: bool) -> None:
        """The server goes away, or is back: then every client takes its own time to connect again."""
        self.server_up = up
        for host in self.hosts:
            if up:
                host.connected_at = self.now + self.random.random() * 2
                self.at(host.connected_at, host.connected)
            host.contact_changed()


class Process:
    """A generator on a host. A resumption has a cookie, so that of an answer and its timeout only the first counts."""

    __slots__ = ("cookie", "done", "host", "running", "steps")

    def __init__(self, host: Host, steps: Steps) -> None:
        self.host = host
        self.steps = steps
        self.cookie = 0
        self.done = False
        self.running = False
        host.processes.append(self)
        host.world.after(0.0, self.resume, 0, None)

    def resume(self, cookie: int, value: Any = None, error: SimError | None = None) -> None:
        if self.done or cookie != self.cookie:
            return
        if self.host.thaw_at > self.host.world.now:
            self.host.world.at(self.host.thaw_at, self.resume, cookie, value, error)
            return
        self.cookie += 1
        self.running = True
        try:
            command = self.steps.send(value) if error is None else self.steps.throw(error)
        except StopIteration:
            self.done = True
            return
        except Crashed:
            self.done = True
            self.host.crash()
            return
        finally:
            self.running = False
        if not self.done:
            command(self)

    def kill(self) -> None:
        self.done = True
        if not self.running:
            self.steps.close()


class Signal:
    """Something that can happen to a process that waits; the first thing that happened stays."""

    def __init__(self) -> None:
        self.value: Any = None
        self._waiting: list[tuple[Process, int]] = []

    def fire(self, value: Any) -> None:
        if self.value is None:
            self.value = value
            for process, cookie in self._waiting:
                process.host.world.after(0.0, process.resume, cookie, value)

    def wait(self, timeout_s: float) -> Command:
        """Answers the signal's value, None when the time ran out first."""

        def arm(process: Process) -> None:
            process.host.world.after(
                0.0 if self.value is not None else timeout_s, process.resume, process.cookie, self.value
            )
            self._waiting.append((process, process.cookie))

        return arm


def sleep(seconds: float) -> Command:
    return lambda process: process.host.world.after(seconds, process.resume, process.cookie)


class Link:
    """A connection to the server: in order, but it may lose what is under way, or deliver it after an outage."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._last_arrival = 0.0
        self._held: list[tuple[Any, ...]] = []

    def call(self, act: Callable[..., Any], *args: Any, timeout_s: float = CALL_TIMEOUT_S) -> Command:
        """Have the server do `act(*args)` and answer its value; raises Unanswered, or the SimError of `act`."""

        def arm(process: Process) -> None:
            process.host.world.after(timeout_s, process.resume, process.cookie, None, Unanswered())
            self._transmit(act, args, process, process.cookie)

        return arm

    def cast(self, act: Callable[..., Any], *args: Any) -> None:
        """The same without an answer."""
        self._transmit(act, args, None, 0)

    def pull(self, register: Callable[..., Any], timeout_s: float) -> Command:
        """Wait for a delivery, which may come at any time; None when none came."""

        def arm(process: Process) -> None:
            world = process.host.world
            world.after(timeout_s, process.resume, process.cookie)
            self._transmit(register, (self, process, process.cookie, world.now + timeout_s), None, 0)

        return arm

    def push(self, process: Process, cookie: int, value: Any) -> None:
        """The server sends something that was not called for: it is lost when the host can't be reached."""
        world = self.host.world
        world.after(world.latency(), self._answer, process, cookie, value, None)

    def flush(self) -> None:
        """The connection is back: what the client's buffer held goes out now."""
        held, self._held = self._held, []
        for request in held:
            self._last_arrival = max(self.host.world.now + self.host.world.latency(), self._last_arrival)
            self.host.world.at(self._last_arrival, self._arrive, *request)

    def _transmit(self, act: Callable[..., Any], args: tuple[Any, ...], process: Process | None, cookie: int) -> None:
        world = self.host.world
        fate = world.fate()
        if fate == "lost":
            return
        when = max(world.now + world.latency(), self._last_arrival)
        if fate == "late":
            when += world.random.random() * 4
        self._last_arrival = when
        world.at(when, self._arrive, act, args, None if fate in ("late", "mute") else process, cookie)

    def _arrive(self, act: Callable[..., Any], args: tuple[Any, ...], process: Process | None, cookie: int) -> None:
        world = self.host.world
        if not (self.host.reachable and world.server_up):
            if self.host.alive and world.random.random() < 0.5:
                self._held.append((act, args, process, cookie))
            return
        value, error = None, None
        try:
            value = act(*args)
        except SimError as refused:
            error = refused
        if process is not None:
            world.after(world.latency(), self._answer, process, cookie, value, error)

    def _answer(self, process: Process, cookie: int, value: Any, error: SimError | None) -> None:
        if self.host.reachable and self.host.world.server_up:
            process.resume(cookie, value, error)


class Host:
    """A machine with processes, two links and a liveness key that is rewritten for as long as it is in contact."""

    def __init__(self, world: World, name: str, *, beat_s: float, ttl_s: float) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.cut = False
        self.thaw_at = 0.0
        self.connected_at = 0.0
        self.well_since = world.now
        self.processes: list[Process] = []
        self.link = Link(self)
        self.lease_link = Link(self)
        self.contact_since: float | None = world.now
        self._last_beat = world.now
        self._beat_s = beat_s
        self._ttl_s = ttl_s
        world.hosts.append(self)
        self.contact_changed()

    @property
    def reachable(self) -> bool:
        return self.alive and not self.cut and self.connected_at <= self.world.now

    @property
    def in_contact(self) -> bool:
        return self.reachable and self.world.server_up and self.thaw_at <= self.world.now

    def spawn(self, steps: Steps) -> Process:
        if len(self.processes) > 16:
            self.processes = [process for process in self.processes if not process.done]
        return Process(self, steps)

    def crash(self) -> None:
        """The process is gone; what it had already sent may still arrive."""
        if self.alive:
            self.alive = False
            self.contact_changed()
            for process in self.processes:
                process.kill()

    def freeze(self, seconds: float) -> None:
        self.thaw_at = self.well_since = max(self.thaw_at, self.world.now + seconds)
        self.contact_changed()
        self.world.at(self.thaw_at, self.contact_changed)

    def set_cut(self, cut: bool) -> None:
        self.cut = cut
        self.well_since = max(self.well_since, self.world.now)
        self.connected()

    def connected(self) -> None:
        self.contact_changed()
        if self.reachable and self.world.server_up:
            self.link.flush()
            self.lease_link.flush()

    # -- liveness ------------------------------------------------------------------------------------------------------

    def contact_changed(self) -> None:
        """Called whenever contact may have begun or ended; the beats in between need no events of their own."""
        if self.in_contact:
            if self.contact_since is None:
                self.contact_since = self._last_beat = self.world.now
        elif self.contact_since is not None:
            self._last_beat = self.last_beat
            self.contact_since = None

    @property
    def last_beat(self) -> float:
        if self.contact_since is None:
            return self._last_beat
        beats = (self.world.now - self.contact_since) // self._beat_s
        return self.contact_since + beats * self._beat_s

    @property
    def key_left_s(self) -> float:
        """Seconds until the liveness key expires; none left: it has lapsed."""
        return max(0.0, self.last_beat + self._ttl_s - self.world.now)

    @property
    def on_time(self) -> bool:
        """Whether its own liveness writes have been on time for one TTL, so that it may judge others (P5)."""
        return self.contact_since is not None and self.world.now - self.contact_since >= self._ttl_s
