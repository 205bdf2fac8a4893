"""Who acts: worker nodes, supervisors and a client, each production's own in a process of the simulation."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from tests.sim import code
from tests.sim.invariants import LEASE_S
from tests.sim.plan import PAUSE, PAUSED_S, RANKS, REPLACE, UNBEGUN
from tests.sim.world import Host
from turnout.client.client import Client
from turnout.core.catalog import NodeInfo
from turnout.core.events import Submitted
from turnout.core.routing import spelled
from turnout.core.spec import Body, JobSpec
from turnout.definition.options import IfExists
from turnout.errors import InvalidState, JobExists, JobNotFound, TurnoutError
from turnout.nats.connection import ConnectOptions
from turnout.nats.once import SubjectTaken
from turnout.store.pauses import Pause
from turnout.store.perform import Performer, Store
from turnout.store.records import Versioned
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions
from turnout.wire.converter import dump
from turnout.wire.messages import REQUIRES
from turnout.worker.runner import Runner

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

TTL_S = 4.0
ACTIVITY = "act"


def node_name(number: int, life: int) -> str:
    """The id of a node: new in each life of a process."""
    return f"n{number}-{life}"


class Node:
    """A worker process: production's runner, with its lease thread, on a host of its own."""

    def __init__(self, sim: Simulation, number: int, life: int) -> None:
        self.sim = sim
        self.number = number
        self.host = Host(sim.world, node_name(number, life))
        self.runner: Runner | None = None
        self.started = self.stopping = False
        self.activities = sim.activities()
        sim.hosts.append(self.host)
        self.host.spawn(self._work())

    async def _work(self) -> None:
        sim = self.sim
        code.PLAY.set(self._play)
        connection = await sim.connect(self.host, "worker")
        store = Store.over(connection, sim.names)
        self.runner = self._make_runner(store, self._describe())
        while True:
            try:
                await self.runner.start()
                break
            except TurnoutError as error:  # as an operator, or the system's manager, would have it
                sim.note(f"{self.host.name} can't start: {error}")
                sim.crashed(self.host, after_s=0.5, counted=False)
                self.host.kill()
        self.started = True
        if self.stopping:
            await self._stop()

    def _describe(self) -> NodeInfo:
        name, has = self.host.name, self.sim.properties(self.number)
        return NodeInfo(id=name, name=name, activities=tuple(self.activities), slots=1, ttl=TTL_S, properties=has)

    def _make_runner(self, store: Store, node: NodeInfo) -> Runner:
        return Runner(store, ConnectOptions(), self.activities, node)

    def stop(self) -> None:
        """SIGTERM with no grace: running code is aborted, the node leaves when all is written."""
        if not self.stopping and self.host.alive:
            self.stopping = True
            if self.started:
                self.host.spawn(self._stop())

    async def _stop(self) -> None:
        assert self.runner is not None
        await self.runner.stop(0.0)
        self.sim.crashed(self.host, counted=False)
        self.host.kill()

    @property
    def running(self) -> bool:
        """Whether code runs there, or is about to."""
        return self.runner is not None and bool(self.runner._intake.tasks)

    def holds(self, nonce: str) -> bool:
        """Whether the attempt of this nonce is this node's, from before its start is recorded until its end is."""
        return self.runner is not None and self.runner._keeper._leases.of(nonce) is not None

    async def _play(self, job: Any) -> str:
        """What an attempt's code does; a mistake in here must not pass for a failure of the job."""
        try:
            return await self._act(job)
        except code.EXPECTED:
            raise
        except Exception as error:
            self.sim.world.stumbled.append(error)
            raise

    async def _act(self, job: Any) -> str:
        """What the script's letter says."""
        sim, host = self.sim, self.host
        assert self.runner is not None
        attempt = next(each for each in self.runner.attempts if each.context is job)
        record, token = attempt.record, attempt.record.token
        assert token is not None
        sim.invariants.started(record)
        letter = sim.letter(record)
        sim.note(f"{host.name}: runs {letter} of {record.id}, attempt {record.attempt}")
        try:
            await asyncio.sleep(0.3)
            if letter == "K":
                sim.crashed(host)
                host.kill()
            elif letter == "S":
                self.stop()
                await asyncio.sleep(1.0)
            elif letter == "Z":
                sim.freeze(host, 2 * TTL_S)
                await asyncio.sleep(1.0)
            elif letter == "D":
                sim.cut(host, 2 * TTL_S)
                await asyncio.sleep(4 * TTL_S)
            elif letter in "WI":
                await self._long(job, letter)
            elif letter == "H":
                await code.forever()
            elif letter == "P":
                job.progress(1, 2)
                await job.checkpoint(f"at {token.attempt}")
                await asyncio.sleep(0.2)
            elif letter == "T":
                attempt._time_out("as the script says")
                await code.forever()
            return code.end(letter, token.nonce)
        finally:
            if host.alive:
                sim.invariants.zombies_stop(sim.contact_since(self), token, record.id)

    async def _long(self, job: Any, letter: str) -> None:
        until = self.sim.world.now + 3 * LEASE_S
        while (left := until - self.sim.world.now) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                if letter != "I" or not str(job.cancel_reason).startswith("cancelled"):
                    raise
                asyncio.current_task().uncancel()  # type: ignore[union-attr]


class Overseer:
    """A supervisor on a host of its own."""

    def __init__(self, sim: Simulation, number: int, life: int) -> None:
        self.number = number
        self.host = Host(sim.world, f"sup{number}-{life}")
        sim.hosts.append(self.host)
        options = SupervisorOptions(
            liveness_ttl=1.5 * TTL_S,
            look_every=1.0,
            sweep_every=3.0,
            registry_every=4.5,
            objects_every=1e6,
            **sim.walks,
        )
        self.supervisor = Supervisor(ConnectOptions(), sim.names, name=self.host.name, options=options)
        self.host.spawn(self.supervisor.run())


class Caller:
    """A client, which submits, cancels, replaces, retries and deletes."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.host = Host(sim.world, f"client{sim.next_life()}")
        self.refused: list[str] = []
        self._client: Client | None = None
        sim.hosts.append(self.host)

    async def client(self) -> Client:
        if self._client is None:
            connection = await self.sim.connect(self.host, "client")
            self._client = Client(connection, self.sim.names, ConnectOptions())
        return self._client

    def do(self, kind: str, job_id: str, of: str) -> None:
        """Begin a call."""
        if self.host.alive:
            self.sim.calls += 1
            self.host.spawn(self._do(kind, job_id, of))

    async def _do(self, kind: str, job_id: str, of: str) -> None:
        client = await self.client()
        try:
            if kind == "submit":
                await self._submit(client, job_id, of)
            elif kind == REPLACE:
                await self._submit(client, job_id, "plain" if of == "bare" else of, if_exists="replace")
            elif kind == "beside":
                await self._submit_blindly(client, job_id)
            elif kind == PAUSE:
                await self._pause(client)
            elif kind in RANKS:
                await client.job(job_id, ACTIVITY).set_priority(RANKS[kind])
            elif kind == "cancel":
                await client.job(job_id, ACTIVITY).cancel("as the plan says")
            elif kind == "retry":
                ended = self.sim.invariants.final.get(job_id, 0)
                await client.job(job_id, ACTIVITY).retry()
                if job_id not in self.sim.invariants.deleted:
                    self.sim.invariants.promised(job_id, ended + 1)
            elif kind == "delete":
                await client.job(job_id, ACTIVITY).delete()
            elif kind == UNBEGUN:
                await self._delete_unbegun(client, job_id)
        except (JobExists, JobNotFound, InvalidState, SubjectTaken) as refusal:
            self.refused.append(job_id)
            self.sim.note(f"{self.host.name}: {kind} {job_id} is refused: {refusal}")
        except TurnoutError as error:
            self.sim.note(f"{self.host.name}: {kind} {job_id} fails: {error!r}")
        if self.host.alive:
            self.sim.calls -= 1

    async def _delete_unbegun(self, client: Client, job_id: str) -> None:
        invariants = self.sim.invariants
        invariants.leaving.add(job_id)
        try:
            await client.job(job_id, ACTIVITY).delete(unbegun=True)
        except InvalidState:
            invariants.leaving.discard(job_id)
            invariants.no_job_is_lost(job_id)
            raise
        invariants.undone.add(job_id)

    async def _submit(self, client: Client, job_id: str, of: str, if_exists: IfExists = "raise") -> None:
        life = f"{job_id}#{self.sim.next_life()}"
        requires, more = self.sim.requires(job_id), self.sim.arguments(job_id)
        if of == "bare":
            headers = {REQUIRES: spelled(requires)} if requires else None
            body = json.dumps({"life": life, **more}, separators=(",", ":")).encode()
            client.store.connection.send(self.sim.names.bare(ACTIVITY), body, headers=headers)
            return
        ref = self.sim.activity.options(
            id=job_id,
            if_exists=if_exists,
            expires_in=25.0 if of == "expiring" else None,
            delay=4.0 if of == "delayed" else None,
            priority=RANKS.get(of),
            requires=requires or None,
        )
        await client.submit(ref, life=life, **more)

    async def _pause(self, client: Client) -> None:
        """As a client does it, but that the consumer goes on."""
        store = client.store
        now = store.connection.now()
        await store.connection.store(store.names.pause(ACTIVITY), dump(Pause(now, now + PAUSED_S)))
        for key, line in (await store.places.lines.all(activity=ACTIVITY)).items():
            await store.places.hand_on(key, line.lanes, [ACTIVITY])

    async def _submit_blindly(self, client: Client, job_id: str) -> None:
        """The look at what is there was before anything was, as when two submit at once."""
        more = self.sim.arguments(job_id)
        text = self.sim.activity.bind(life=f"{job_id}#{self.sim.next_life()}", **more)
        store = client.store
        spec = JobSpec(job_id, ACTIVITY, submitted_at=store.connection.now(), payload=Body(text=text, size=len(text)))
        event = Submitted(spec=spec, nonce=f"beside{self.sim.next_life()}")
        await Performer(store).apply(ACTIVITY, job_id, event, Versioned())
