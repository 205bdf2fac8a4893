"""A scene: one namespace, one job, one process that dies at a named point, and those that put it right."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats

from tests.crash.fleet import Fleet, Process
from tests.support.waiting import until
from turnout import Client, JobInfo, wire
from turnout.core.events import Lost
from turnout.core.record import JobRecord
from turnout.definition.fairness import Fairness
from turnout.nats.stream import kv_stream
from turnout.store.consumers import consumer_of
from turnout.store.perform import Performer
from turnout.store.topology import ConsumerOptions, Topology
from turnout.testing import NatsServer
from turnout.testing.fixtures import own_namespace

TTL_S = 2.0
PATIENCE_S = 150.0
"""A supervisor that takes over from another begins anew with what it has seen for long enough."""


async def leads(client: Client, supervisor: Process) -> bool:
    """Whether this process holds the leader's key."""
    names = client.store.names
    stream, subject = kv_stream(names.nodes_bucket), names.node("leader.supervisor")
    stored = await client.store.connection.get_message(stream, last_by_subj=subject)
    return stored is not None and supervisor.node in stored.data.decode()


Life = tuple[str, int]
"""A job's id and generation."""


class Damage(AssertionError):
    """The promise that a scene is about was broken."""


class Scene:
    """`point` is where the victim dies."""

    def __init__(self, client: Client, fleet: Fleet, directory: Path, point: str = "-") -> None:
        self.client = client
        self.fleet = fleet
        self.point = point
        self.gate = directory / "gate"
        self.patience_s = PATIENCE_S
        self.written: dict[Life, list[str]] = defaultdict(list)

    # --- who is there -------------------------------------------------------------------------------------------------

    async def victim(self, mutant: str = "") -> Process:
        """A worker that will die at the point."""
        return await self.fleet.start("victim", ttl_s=TTL_S, crash_at=self.point, brisk=True, mutant=mutant)

    async def healthy(
        self, name: str = "healthy", mutant: str = "", concurrency: int = 10, properties: str = ""
    ) -> Process:
        return await self.fleet.start(
            name, ttl_s=TTL_S, brisk=True, mutant=mutant, concurrency=concurrency, properties=properties
        )

    async def supervisor(self, *, dies: bool = False) -> Process:
        name = "victim" if dies else "healthy"
        return await self.fleet.supervisor(f"{name}-supervisor", ttl_s=TTL_S, crash_at=self.point if dies else "-")

    async def died(self, victim: Process) -> None:
        """It did, by its own hand and at the point."""
        try:
            code = await victim.wait()
        except TimeoutError:
            raise AssertionError(f"{self.point} was not reached:\n{victim.log.read_text()[-3000:]}") from None
        name = self.point.partition(":")[0]
        last = victim.log.read_text().splitlines()[-1:]
        assert code == -signal.SIGKILL, f"{self.point}: exit code {code}, {last}"
        assert any(f"dies at {name}" in line for line in victim.log.read_text().splitlines()), f"{self.point}: {last}"

    # --- what is the matter with the job ------------------------------------------------------------------------------

    async def state(self, handle: Any, *states: str) -> JobInfo:
        """Wait until the job is in one of these states."""

        async def check() -> JobInfo | None:
            info: JobInfo = await handle.info()
            return info if info.state in states else None

        return await until(check, self.patience_s)

    async def waits_for(self, handle: Any, limit: str) -> None:
        """Wait until the job is parked for a place of this limit."""

        async def check() -> bool:
            record = (await self.client.store.registry.find(handle.id)).record
            return record is not None and record.waits_for is not None and record.waits_for.name == limit

        await until(check, self.patience_s)

    async def sent_on(self, handle: Any) -> None:
        """Wait until the job lies on the way to the nodes that have what it requires."""
        subject = self.client.store.names.routed("*", handle.activity, handle.id)

        async def check() -> bool:
            connection = self.client.store.connection
            return await connection.get_message(self.client.store.names.work, last_by_subj=subject) is not None

        await until(check, self.patience_s)

    async def no_place_is_held(self) -> None:
        """Raise `Damage` unless every place of a limit becomes free."""

        async def check() -> bool:
            return all([limit.held == limit.waiting == 0 async for limit in self.client.limits()])

        try:
            await until(check, self.patience_s)
        except Exception as error:
            raise Damage(f"{self.point}: a place is lost: {[limit async for limit in self.client.limits()]}") from error

    async def record(self, handle: Any) -> JobRecord:
        record = (await self.client.store.registry.load(handle.activity, handle.id)).record
        assert record is not None
        return record

    async def give_back(self, handle: Any) -> None:
        """NAK the job's message over its owner's head: it is delivered again."""
        store = self.client.store
        found = await store.queue.find(handle.activity, handle.id)
        consumer = await consumer_of(store.connection, store.names, handle.activity)
        if found is not None and consumer is not None:
            store.queue.give_back(consumer, found.message)

    async def wear_out(self, handle: Any, victim: Process) -> None:
        """Have the message delivered until the server delivers it no more and its owner knows, or has died of it."""
        stream = f"STREAM.INFO.{self.client.store.names.alarms}"

        async def worn() -> bool:
            await self.give_back(handle)
            alarms = (await self.client.store.connection.api(stream))["state"]
            return not victim.alive or (alarms["last_seq"] > 0 and alarms["messages"] == 0)

        await until(worn, self.patience_s)

    async def cleans_up(self) -> None:
        """Wait until the code was told to stop and cleans up; it does so until `gate-clean` is there."""

        async def begun() -> bool:
            return self.gate.with_name("gate-cleaning").exists()

        await until(begun)

    async def led_by(self, supervisor: Process) -> None:
        """Wait until this process holds the leader's key."""
        await until(lambda: leads(self.client, supervisor), self.patience_s)

    async def overtake(self, handle: Any) -> None:
        """Declare the owner dead although it lives: what a partition does."""
        token = (await self.record(handle)).token
        assert token is not None
        performer = Performer(self.client.store)
        event = Lost(token=token, now=self.client.store.connection.now())
        await performer.apply(handle.activity, handle.id, event)

    async def consumer(self, activity: str, fairness: Fairness | None = None) -> None:
        """The activity's consumer before there is any worker; it delivers 21 times."""
        topology = Topology(self.client.store.connection, self.client.store.names)
        said = "" if fairness is None else fairness.dumps()
        options = ConsumerOptions(lease=2, max_attempts=1, max_lost=0, fairness=said)
        await topology.ensure_consumer(activity, options)

    async def swallow(self, activity: str) -> None:
        """Take what the consumer delivers, and give it back, until it delivers no more. Nobody runs anything."""
        connection = await nats.connect(self.client.connect_options.servers[0])
        try:
            pulls = await connection.jetstream().pull_subscribe_bind(activity, self.client.store.names.work)
            for _ in range(21):
                for message in await pulls.fetch(1, timeout=5):
                    await message.nak()
            try:
                left = await pulls.fetch(1, timeout=0.5)
            except TimeoutError:
                left = []
            assert not left, "delivered more often than max_deliver allows"
        finally:
            await connection.close()

    # --- what must be in the end --------------------------------------------------------------------------------------

    async def ends(self, handle: Any, state: str, *, faults: int | None = None) -> JobInfo:
        """Raise `Damage` unless the job ends once, in this state, and leaves behind what it should and no more."""
        try:
            info = await self.state(handle, "completed", "faulted", "cancelled")
            await until(self._settled, self.patience_s)
            await until(lambda: self._expires(handle), self.patience_s)
        except Exception as error:
            raise Damage(f"{self.point}: job {handle.id} does not end: {error!r}") from error
        letters = [fault async for fault in self.client.faults() if fault.id == handle.id]
        expected = int(state == "faulted") if faults is None else faults
        if (info.state, len(letters)) != (state, expected):
            raise Damage(f"{self.point}: {info.state} with {len(letters)} letters, not {state} with {expected}: {info}")
        if len({letter.generation for letter in letters}) != len(letters):
            raise Damage(f"{self.point}: two letters of one life")
        for life, states in self.written.items():
            ends = [each for each in states if each in ("completed", "faulted", "cancelled")]
            if len(set(ends)) > 1 or (ends and states[states.index(ends[0]) :] != ends):
                raise Damage(f"{self.point}: {life} went on after its end: {states}")
        return info

    async def _settled(self) -> bool:
        """Nothing is left in the stream."""
        api, names = self.client.store.connection.api, self.client.store.names
        return bool((await api(f"STREAM.INFO.{names.work}"))["state"]["messages"] == 0)

    async def _expires(self, handle: Any) -> bool:
        """The record won't be kept for ever."""
        names = self.client.store.names
        subject = names.record(handle.activity, handle.id)
        stored = await self.client.store.connection.get_message(kv_stream(names.jobs_bucket), last_by_subj=subject)
        return stored is not None and "Nats-TTL" in stored.headers

    async def note(self, message: Any) -> None:
        """A write to the registry."""
        if message.data:
            record = wire.load_record(message.data)
            self.written[record.id, record.generation].append(record.state.value)


@asynccontextmanager
async def scene(server: NatsServer, directory: Path, point: str = "-") -> AsyncIterator[Scene]:
    """A scene in a namespace of its own."""
    directory = directory / point.replace(":", "-")
    directory.mkdir()
    connection = await nats.connect(server.url)
    try:
        async with own_namespace(server) as client, Fleet(server.url, client.namespace, directory) as fleet:
            scene = Scene(client, fleet, directory, point)
            subject = f"$KV.{client.store.names.jobs_bucket}.>"
            await connection.jetstream().subscribe(subject, cb=scene.note, ordered_consumer=True)
            try:
                yield scene
            finally:
                await connection.close()
    finally:
        await connection.close()
