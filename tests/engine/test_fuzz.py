"""Whatever is published in a namespace, by whomever: others go on.

A recording of what healthy jobs and workflows said is bent, cut, swapped and told again, to every stream and bucket.
Between the volleys a canary has to sing: jobs and workflows end as ever, each listing answers, and somebody supervises.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from tests.support.rawsocket import raw_send
from tests.support.waiting import running, until
from turnout import (
    Client,
    CompleteLater,
    JobState,
    Limit,
    RetryPolicy,
    Schedule,
    Worker,
    activity,
    activity_ref,
    current_workflow,
    fastjson,
    workflow,
)
from turnout.errors import JobFaulted
from turnout.testing import NatsServer

VOLLEYS = 4
SHOTS = 60
WITHIN_S = 60.0
OURS = "canary"
"""What the canary's own begins with: who may write the record of a job can end that job, which is no fault."""


@activity(name="canary-sing")
async def sing(note: int) -> int:
    return note


@activity(name="canary-answer")
async def answer(note: int) -> int:
    raise CompleteLater


@workflow(name="canary-song")
async def song(note: int) -> int:
    async def singing() -> int:
        return await sing(note)

    first = await singing()
    return first + int(await current_workflow().receive("more", int))


@activity(limits=[Limit("few:{note}", concurrency=2)])
async def hum(note: int) -> int:
    if note % 2:
        raise ValueError("out of tune")
    return note


@workflow
async def hymn(note: int) -> int:
    return await hum(note)


@activity
async def ask(note: int) -> int:
    raise CompleteLater


@activity
async def gather(notes: list[dict[str, Any]]) -> int:
    return len(notes)


@activity(requires={"voice": "bass"}, fairness="{note}")
async def growl(note: int) -> int:
    return note


@workflow
class Choir:
    """Signals, updates and queries, a timer, and a child."""

    def __init__(self, note: int) -> None:
        self.notes = [note]

    @workflow.run
    async def run(self, note: int) -> int:
        await asyncio.sleep(0.05)
        await current_workflow().wait_for(lambda: len(self.notes) > 2)
        return await hymn(sum(self.notes))

    @workflow.signal
    def add(self, note: int) -> None:
        self.notes.append(note)

    @workflow.update
    async def insert(self, note: int) -> int:
        self.notes.append(note)
        return len(self.notes)

    @workflow.query
    def total(self) -> int:
        return sum(self.notes)


async def all_that_there_is(client: Client) -> None:
    """One of each thing that somebody may say, for the recording."""
    await client.add_schedule(f"{OURS}-nightly", Schedule(cron="0 3 * * *"), hum, 2)
    await client.add_schedule("often", Schedule(every=1), hum, 2)
    await asyncio.gather(*[(await client.submit(hum, note)).cancel() for note in range(4)])
    await (await client.start(hymn, 2)).result()
    await (await client.submit(hum.options(retry=RetryPolicy.none(), delay=0.1), 2)).result()
    asked = await client.submit(ask, 1)
    await running(asked)
    await asked.complete(2)
    bare = await client.submit(ask, 1)
    await running(bare)
    await client.store.connection.store(f"{client.namespace}.complete.{bare.id}", b"3", {})
    group = await client.submit_group(hum, [{"note": 2}, {"note": 3}], id="choir", then=gather)
    await group.results()
    await (await client.submit(sing.options(debounce=0.2, debounce_key="k", priority=1), 1)).result()
    await (await client.submit(growl.options(priority=2), 1)).result()
    await client.pause(ask, "for a while")
    await client.resume(ask)
    await client.set_limit("few:2", concurrency=1)
    await client.clear_limit("few:2")
    choir = await client.start(Choir.run, 2)
    await choir.signal(Choir.add, 2)
    assert await choir.query(Choir.total) >= 2
    await choir.update(Choir.insert, 2)
    await choir.result()
    assert await bare.result() == 3


class Recorder:
    """All that is said in a namespace while it is listened to."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.heard: list[tuple[str, dict[str, str], bytes]] = []

    async def __aenter__(self) -> Recorder:
        store = self._client.store
        buckets = [store.names.jobs_bucket, store.names.nodes_bucket, store.names.activities_bucket]
        subjects = [f"{self._client.namespace}.>", *(f"$KV.{bucket}.>" for bucket in buckets)]
        self._subscriptions = [await store.connection.subscribe(subject, self._hear) for subject in subjects]
        return self

    async def __aexit__(self, *_: object) -> None:
        for subscription in self._subscriptions:
            await subscription.close()

    def _hear(self, message: Any) -> None:
        self.heard.append((message.subject, dict(message.headers or {}), bytes(message.data)))


WORDS = [
    b"x",
    b"*",
    b"-",
    b"~ticks",
    b"_settings",
    b"b\xfccher",
    "bücher".encode(),
    b"0",
    b"9" * 400,
    b"signal",
    b"{}",
    b"\x01",
]
VALUES = [
    *(
        b"null",
        b"true",
        b"0",
        b"-1",
        b"1e308",
        b"-1e400",
        b"NaN",
        b"18446744073709551615",
        b"1" * 400,
        b'""',
        b"[]",
        b"{}",
    ),
    *(
        b'"\\ud800"',
        b'"\xff"',
        b'"\\u0000"',
        b'"2026-13-45T25:61:00Z"',
        b'"' + b"long " * 2000 + b'"',
        b"[" * 9000 + b"]" * 9000,
    ),
]
HEADERS = [
    "Nats-Msg-Id",
    "Nats-TTL",
    "Nats-Expected-Last-Subject-Sequence",
    "traceparent",
    "baggage",
    "Turnout-Priority",
]
HOLE = "@hole@"


class Bender:
    """Tells again what was heard, but wrongly. The same seed and the same recording tell the same."""

    def __init__(self, heard: list[tuple[str, dict[str, str], bytes]], seed: int) -> None:
        self._heard = heard
        self._rng = random.Random(seed)
        """By kind, for there are many more of some than of others."""
        self._kinds: dict[tuple[str, ...], list[int]] = {}
        for number, (subject, headers, _) in enumerate(heard):
            kind = (*subject.split(".")[:3], *sorted(headers))
            self._kinds.setdefault(kind, []).append(number)

    def shot(self) -> bytes:
        """The commands that publish one message."""
        rng = self._rng
        subject, headers, body = self._heard[rng.choice(self._kinds[rng.choice(list(self._kinds))])]
        told = self._subject(subject)
        block = self._headers(headers)
        return self._command(told, block, self._body(body))

    def _command(self, subject: bytes, block: bytes, body: bytes) -> bytes:
        if not block:
            return b"PUB %b %d\r\n%b\r\n" % (subject, len(body), body)
        block = b"NATS/1.0\r\n%b\r\n" % block
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(block), len(block) + len(body), block, body)

    def _subject(self, subject: str) -> bytes:
        rng = self._rng
        first, *tokens = subject.encode().split(b".")
        theirs = [
            b"x%d" % rng.randrange(30) if token.startswith(OURS.encode()) and self._names_one(tokens, at) else token
            for at, token in enumerate(tokens)
        ]
        if rng.random() < 0.3:
            theirs[rng.randrange(1 if first == b"$KV" else 0, len(theirs))] = rng.choice(WORDS)
        if rng.random() < 0.1:
            theirs.append(rng.choice(WORDS))
        return b".".join([first, *theirs])

    @staticmethod
    def _names_one(tokens: list[bytes], at: int) -> bool:
        """Whether this token names a thing of the canary's own; its queues are open to all, and get their share."""
        return at != 1 or tokens[0] not in (b"jobs", b"workflows", b"timers")

    def _headers(self, headers: dict[str, str]) -> bytes:
        rng = self._rng
        told = {name: value.encode() for name, value in headers.items() if rng.random() < 0.9}
        if rng.random() < 0.4:
            told[rng.choice([*headers, *HEADERS])] = rng.choice([*WORDS, *VALUES])[:3000]
        return b"".join(b"%b: %b\r\n" % (name.encode(), value) for name, value in told.items())

    def _body(self, body: bytes) -> bytes:
        rng = self._rng
        match rng.randrange(7):
            case 0:
                return body
            case 1:
                return rng.randbytes(rng.randrange(200))
            case 2:
                return body[: rng.randrange(len(body) + 1)]
            case 3:
                return rng.choice(VALUES)
            case _:
                return self._bent(body)

    def _bent(self, body: bytes) -> bytes:
        """One value in it is another, or not there."""
        rng = self._rng
        try:
            told = fastjson.loads(body)
        except ValueError:
            return body[::-1]
        places: list[tuple[Any, Any]] = []
        around = [told]
        while around:
            inner = around.pop()
            if isinstance(inner, dict | list):
                keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
                places += [(inner, key) for key in keys]
                around += [inner[key] for key in keys]
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        if rng.random() < 0.2:
            del holder[key]
            return fastjson.dumps(told)
        holder[key] = HOLE
        return fastjson.dumps(told).replace(b'"%b"' % HOLE.encode(), rng.choice(VALUES))


async def sings(client: Client, note: int) -> None:
    """What others rely on is there."""
    job = await client.submit(sing.options(id=f"{OURS}-{note}"), note)
    tune = await client.start(song.options(id=f"{OURS}-song-{note}"), note)
    await tune.signal("more", 1)
    overdue = await client.submit(activity_ref("nobody").options(id=f"{OURS}-late-{note}", expires_in=0.2))
    assert await job.result(timeout=WITHIN_S) == note
    assert await tune.result(timeout=WITHIN_S) == note + 1
    with pytest.raises(JobFaulted, match="expired"):  # by whoever supervises
        await overdue.result(timeout=WITHIN_S)
    assert job.id in [info.id async for info in client.jobs(limit=1000)]
    assert tune.id in [info.id async for info in client.workflows(limit=1000)]
    assert (await client.count())[JobState.completed] > 0
    assert await client.count_workflows()
    assert any(node.name == OURS for node in await client.nodes())
    assert any(each.name == sing.name for each in await client.activities())

    async def letter() -> bool:
        return overdue.id in [fault.id async for fault in client.faults()]

    await until(letter)
    assert f"{OURS}-nightly" in [schedule.name async for schedule in client.schedules()]
    assert [limit async for limit in client.limits()]
    group = await client.submit_group(sing, [{"note": note}] * 2, id=f"{OURS}-group-{note}")
    assert await group.results(timeout=WITHIN_S) == [note, note]
    asked = await client.submit(answer.options(id=f"{OURS}-asked-{note}"), note)
    await running(asked)
    await asked.complete(note)
    assert await asked.result(timeout=WITHIN_S) == note
    last = await client.submit(sing.options(debounce=0.2, debounce_key=f"{OURS}-{note}"), note)
    assert await last.result(timeout=WITHIN_S) == note


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.breadth) for seed in range(1, 12))])
async def test_whatever_is_said_others_go_on(turnout_client: Client, nats_server: NatsServer, seed: int) -> None:
    """A canary sings between volleys of nonsense."""
    client = turnout_client
    activities: list[Any] = [sing, hum, answer, ask, gather, growl]
    worker = Worker(
        client,
        activities=activities,
        workflows=[song, hymn, Choir],
        name=OURS,
        liveness_ttl=2.0,
        properties={"voice": "bass"},
    )
    async with worker:
        async with Recorder(client) as recorder:
            await all_that_there_is(client)
            await sings(client, 0)
        bender = Bender(recorder.heard, seed)
        for volley in range(VOLLEYS):
            raw_send(nats_server.url, b"".join(bender.shot() for _ in range(SHOTS)))
            await sings(client, volley + 1)
