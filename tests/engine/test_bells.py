"""A supervisor without work looks seldom, and hears of what makes work for it."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs

from bench.processes import monitored_server
from tests.support.proxy import Proxy
from tests.support.waiting import until
from turnout import Client
from turnout.nats.connection import Connection, ConnectOptions, Message
from turnout.nats.stream import kv_stream
from turnout.store.names import Names
from turnout.store.topology import Topology
from turnout.supervisor.bell import Bell, Bells
from turnout.supervisor.duties import Duties, Duty
from turnout.supervisor.supervisor import Supervisor, SupervisorOptions

LOOK_S = 0.02
LONG_S = 3600.0
NAMES = Names("bells")

MADE: dict[str, Callable[[], str]] = {
    "a job": lambda: NAMES.jobs("some", "a"),
    "a bare job": lambda: NAMES.bare("some"),
    "a job on a route": lambda: NAMES.routed("route", "some", "a"),
    "a record": lambda: NAMES.record("some", "a"),
    "a limit": lambda: NAMES.limit("some"),
    "a place": lambda: NAMES.places("some"),
    "one in a line": lambda: NAMES.parked("key", "some", "a"),
    "a completion": lambda: NAMES.answer("complete", "a"),
    "a failure": lambda: NAMES.answer("fail", "a"),
    "a group": lambda: NAMES.group("some"),
}
"""What makes work, and on which subject."""

HANDED = f"CONSUMER.LIST.{NAMES.work}"
WAITING = f"DIRECT.GET.{NAMES.work}"
RECORDS = f"STREAM.INFO.{kv_stream(NAMES.jobs_bucket)}"
LIMITS = f"STREAM.INFO.{NAMES.limits}"
COMPLETIONS = f"DIRECT.GET.{NAMES.completions}"
GROUPS = f"DIRECT.GET.{kv_stream(NAMES.activities_bucket)}"

ASKED = {
    "a job": {HANDED, WAITING},
    "a bare job": {HANDED, WAITING},
    "a job on a route": {HANDED},
    "a record": {RECORDS},
    "a limit": {LIMITS},
    "a place": {LIMITS},
    "one in a line": {LIMITS},
    "a completion": {COMPLETIONS},
    "a failure": {COMPLETIONS},
    "a group": {GROUPS},
}
"""What the supervisor asks for then."""


class Asked:
    """How often the server was asked for what."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()

    def hear(self, request: Message) -> None:
        what = request.subject.removeprefix("$JS.API.")
        if what in {HANDED, WAITING, RECORDS, LIMITS, COMPLETIONS, GROUPS}:
            self.count[what] += 1

    async def quiet(self) -> bool:
        """Whether nobody has asked for anything while whoever looks at its pace would have looked twenty times."""
        before = Counter(self.count)
        await asyncio.sleep(20 * LOOK_S)
        return before == self.count

    async def again(self, wanted: set[str]) -> None:
        """Each of these is asked for once more."""
        before = Counter(self.count)

        async def asked() -> bool:
            return all(self.count[each] > before[each] for each in wanted)

        await until(asked)


def listening(port: int) -> set[str]:
    """What the supervisor's connection has subscribed to."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/connz?subs=1", timeout=30) as answer:
        found = json.load(answer)["connections"]
    supervisors = [one for one in found if one.get("name") == "turnout-supervisor"]
    return {each for one in supervisors for each in one.get("subscriptions_list", ())}


@asynccontextmanager
async def at_rest() -> AsyncIterator[tuple[Proxy, Connection, Asked]]:
    """A supervisor that rests for many minutes where it has nothing to do, and has nothing to do."""
    options = SupervisorOptions(liveness_ttl=LONG_S, look_every=LOOK_S, sweep_every=LONG_S)
    with monitored_server() as (server, port):
        async with Client.connect(server.url, namespace=NAMES.ns) as client, Proxy(server.port) as proxy:
            await Topology(client.store.connection, NAMES).ensure()
            supervisor = Supervisor(ConnectOptions(servers=(proxy.url,)), NAMES, name="one", options=options)
            task = asyncio.create_task(supervisor.run())
            asked, connection = Asked(), client.store.connection
            bells = attrs.astuple(Bells.over(connection, NAMES, LONG_S), recurse=False)
            subjects = {subject for bell in bells for subject in bell.subjects}
            try:

                async def listens() -> bool:
                    return subjects <= listening(port)

                await until(listens)
                await connection.subscribe("$JS.API.>", asked.hear)
                await until(asked.quiet)
                yield proxy, connection, asked
            finally:
                task.cancel()
                await asyncio.wait({task})


async def test_who_rests_hears_of_work() -> None:
    """Whatever makes work has those look who do it, and they rest again when it is done."""
    async with at_rest() as (_, connection, asked):
        for what, subject in MADE.items():
            again = asyncio.create_task(asked.again(ASKED[what]))
            await asyncio.sleep(0)
            connection.send(subject(), b"?")
            await again
            await until(asked.quiet)


async def test_who_rests_hears_that_the_connection_was_lost() -> None:
    """What was published meanwhile nobody has heard: all look as soon as it is back."""
    async with at_rest() as (proxy, _, asked):
        again = asyncio.create_task(asked.again(set().union(*ASKED.values())))
        await asyncio.sleep(0)
        proxy.cut()
        await again


async def test_a_duty_without_work_rests_until_the_bell_rings(turnout_client: Client) -> None:
    """It looks once more when it listens; one that has work looks at its pace, whatever it listens to."""
    connection, seen = turnout_client.store.connection, Counter[str]()

    def duty(name: str, bell: Bell | None = None) -> Duty:
        async def run() -> bool:
            seen[name] += 1
            return name != "works"

        return Duty(name=name, every_s=0.001, run=run, bell=bell)

    subject = turnout_client.store.names.answer("complete", "*")
    bells = [Bell(connection, subject, rest_s=LONG_S) for _ in range(2)]
    duties = Duties([duty("rests", bells[0]), duty("works", bells[1]), duty("has no bell")])

    async def all_looked() -> bool:
        return min(seen["works"], seen["has no bell"]) >= 100

    duties.start()
    for looks in (2, 4, 6):
        await until(all_looked)
        assert seen["rests"] == looks
        seen["works"] = seen["has no bell"] = 0
        connection.send(turnout_client.store.names.answer("complete", "a"), b"1")
    await duties.stop()


async def test_a_bell_rings_once(turnout_client: Client) -> None:
    """Who was told looks, and need not hear more until it listens again."""
    connection, names, rung = turnout_client.store.connection, turnout_client.store.names, Counter[int]()
    bell = Bell(connection, names.answer("complete", "*"), names.answer("fail", "*"), rest_s=1.0)
    for listens in range(3):
        await bell.listen(partial(rung.update, [listens]))
        await bell.listen(partial(rung.update, [-1]))
        for kind in ("fail", "complete", "fail"):
            connection.send(names.answer(kind, "a"), b"1")
        await connection.flush()
        await connection.flush()
    await bell.listen(partial(rung.update, [-2]))
    bell.close()
    connection.send(names.answer("fail", "a"), b"1")
    await connection.flush()
    await connection.flush()
    assert rung == {0: 1, 1: 1, 2: 1}
