"""The client: submit jobs, and ask about them."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, ParamSpec, TypeVar, overload

import attrs

from turnout.client.filters import Filters
from turnout.client.handle import AnyHandle, JobHandle
from turnout.client.info import FaultInfo, JobInfo
from turnout.client.reader import Reader
from turnout.client.replay import LetterFilter, Replays
from turnout.client.submitter import Submitter
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.values import JobState, valid_name
from turnout.definition.activity import Activity, ActivityRef, NamedActivity, activity_ref
from turnout.errors import InvalidValue
from turnout.jetstream.connection import Connection, ConnectOptions
from turnout.jetstream.names import Names
from turnout.jetstream.perform import Performer, Store
from turnout.jetstream.registry import Retention
from turnout.jetstream.topology import Topology

P = ParamSpec("P")
R = TypeVar("R")


class Client:
    """Submits jobs and asks about them, over one connection. Use it on the event loop that connected it.

    async with Client.connect("nats://127.0.0.1:4222") as client:
        handle = await client.submit(convert_video, path="a.mp4")
        print(await handle.result())
    """

    def __init__(self, connection: Connection, names: Names, options: ConnectOptions, retention: Retention) -> None:
        self.connect_options = options
        self.retention = retention
        self.store = Store.over(connection, names, retention)
        performer = Performer(self.store)
        self._performer = performer
        self._reader = Reader(self.store, performer)
        self._submitter = Submitter(self.store, performer, self._reader)
        self._replays = Replays(self.store, performer, self._reader)

    @staticmethod
    def connect(
        servers: str | Sequence[str] = "nats://127.0.0.1:4222",
        *,
        namespace: str = "turnout",
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        creds: str | None = None,
        nkeys_seed: str | None = None,
        tls: ssl.SSLContext | None = None,
        tls_hostname: str | None = None,
        connect_timeout: float = 5.0,
        retention: Retention | None = None,
    ) -> Connecting:
        """A client of this namespace: `async with Client.connect(...) as client`, or `await Client.connect(...)`.

        `servers`: one URL or several. `creds`: path of a credentials file. `nkeys_seed`: a seed or the path of a file
        with one. `connect_timeout`: seconds. `retention`: how long ended jobs are kept. Streams and buckets that are
        missing are created. Errors, each saying what to do: ServerUnavailable, ServerUnsuitable, PermissionDenied.
        """
        options = ConnectOptions(
            servers=(servers,) if isinstance(servers, str) else tuple(servers),
            user=user,
            password=password,
            token=token,
            creds=creds,
            nkeys_seed=nkeys_seed,
            tls=tls,
            tls_hostname=tls_hostname,
            connect_timeout_s=connect_timeout,
        )
        return Connecting(options, Names(namespace), retention or Retention())

    @property
    def namespace(self) -> str:
        return self.store.names.ns

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; what was accepted is stored. Closing twice is fine."""
        await self.store.connection.close()

    # --- submitting ---------------------------------------------------------------------------------------------------

    @overload
    async def submit(
        self, activity: Activity[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[R]: ...
    @overload
    async def submit(self, activity: Activity[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
    @overload
    async def submit(self, activity: str | NamedActivity, /, *args: Any, **kwargs: Any) -> AnyHandle: ...
    async def submit(self, activity: str | ActivityRef, /, *args: Any, **kwargs: Any) -> AnyHandle:
        """Submit one job; returns when JetStream has stored it.

        Takes the activity's own arguments, or for an activity by name its payload. Errors before anything is stored:
        InvalidArguments, InvalidValue. JobExists when the id is taken. StorageRefused, ServerUnavailable and
        PermissionDenied tell that it was not stored; OutcomeUnknown that the server did not say.
        """
        ref = activity_ref(activity) if isinstance(activity, str) else activity
        text = ref.bind(*args, **kwargs) if isinstance(ref, Activity) else self._submitter.untyped(ref, args, kwargs)
        since = asyncio.get_running_loop().time()
        job_id = await self._submitter.submit(ref, text)
        handle = self._handle(job_id, ref)
        handle.fresh_since = since
        return handle

    @overload
    async def submit_many(
        self,
        activity: Activity[P, Coroutine[Any, Any, R]],
        payloads: Iterable[Any],
        *,
        ids: Sequence[str] | None = None,
    ) -> list[JobHandle[R]]: ...
    @overload
    async def submit_many(
        self, activity: Activity[P, R], payloads: Iterable[Any], *, ids: Sequence[str] | None = None
    ) -> list[JobHandle[R]]: ...
    @overload
    async def submit_many(
        self, activity: str | NamedActivity, payloads: Iterable[Any], *, ids: Sequence[str] | None = None
    ) -> list[AnyHandle]: ...
    async def submit_many(
        self, activity: str | ActivityRef, payloads: Iterable[Any], *, ids: Sequence[str] | None = None
    ) -> list[AnyHandle]:
        """Submit many jobs of one activity, pipelined; `payloads` are payload objects or models, `ids` their ids.

        All payloads are checked before the first is stored. Errors are those of `submit`; jobs before the one that
        failed are stored then, and some after it may be.
        """
        ref = activity_ref(activity) if isinstance(activity, str) else activity
        encode = ref.codec.encode_object if isinstance(ref, Activity) else self._submitter.encode_untyped
        texts = [encode(payload) for payload in payloads]
        if ids is not None and len(ids) != len(texts):
            raise InvalidValue(f"ids: {len(ids)} of them for {len(texts)} payloads; give one for each")
        job_ids = await self._submitter.submit_many(ref, texts, ids)
        return [self._handle(job_id, ref) for job_id in job_ids]

    # --- asking -------------------------------------------------------------------------------------------------------

    @overload
    def job(self, job_id: str, activity: Activity[P, Coroutine[Any, Any, R]]) -> JobHandle[R]: ...
    @overload
    def job(self, job_id: str, activity: Activity[P, R]) -> JobHandle[R]: ...
    @overload
    def job(self, job_id: str, activity: str | NamedActivity | None = None) -> AnyHandle: ...
    def job(self, job_id: str, activity: str | ActivityRef | None = None) -> AnyHandle:
        """A handle on the job of this id; nothing is asked of the server yet. With its activity it is typed."""
        valid_name(job_id, "id")
        return self._handle(job_id, activity_ref(activity) if isinstance(activity, str) else activity)

    async def jobs(
        self,
        *,
        state: JobState | str | Iterable[JobState | str] | None = None,
        activity: str | ActivityRef | None = None,
        node: str | None = None,
        label: str | tuple[str, str] | None = None,
        since: dt.datetime | dt.timedelta | float | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[JobInfo]:
        """The jobs that match all that is given, newest first, queued ones too, as they are found.

        `state`: one, or several. `node`: a node's id or name. `label`: `"key"`, `"key=value"` or a pair. `since`:
        submitted at or after this instant, or within this many seconds.

        Nothing is held but the page that is being read. So the order is that of submission among the newest 1,000
        records at least; behind them, pages come in the order of their last change, each sorted by submission. Each
        job comes once; one that changes meanwhile as it was or as it is, maybe at the end.

        Ended jobs are found by their records, all others by their messages, so those are listed quickly however many
        have ended. (A crash may leave a record of a job without its message, until the supervisor mends that within a
        minute or so: it is listed when ended jobs are asked for as well.)
        """
        if limit is not None and (limit < 1):
            raise InvalidValue(f"limit must be an integer of at least 1, not {limit!r}")
        async with aclosing(self._reader.jobs(self._filters(state, activity, node, label, since), limit)) as jobs:
            async for info in jobs:
                yield info

    async def count(
        self,
        *,
        state: JobState | str | Iterable[JobState | str] | None = None,
        activity: str | ActivityRef | None = None,
        node: str | None = None,
        label: str | tuple[str, str] | None = None,
        since: dt.datetime | dt.timedelta | float | None = None,
    ) -> dict[JobState, int]:
        """How many jobs are in each state, each job once; filters as for `jobs`. One pass over everything, unparsed."""
        return await self._reader.count(self._filters(state, activity, node, label, since))

    async def nodes(self) -> list[NodeInfo]:
        """The living nodes."""
        return await self.store.nodes.living()

    async def drain_node(self, node_id: str) -> bool:
        """Ask a node to take no more jobs and to stop; False when no node of this id answers.

        Its `Worker.run()` ends after the grace period at the latest, and `turnout worker` exits 0. Other nodes go on
        with what it had to abort.
        """
        return await self.store.nodes.drain(valid_name(node_id, "node_id"))

    async def activities(self) -> list[ActivityInfo]:
        """The activities that workers have declared; `.nodes` of 0 tells that nobody works on one now."""
        return await self.store.nodes.activities()

    async def faults(
        self,
        *,
        activity: str | ActivityRef | None = None,
        since: dt.datetime | dt.timedelta | float | None = None,
        job_id: str | None = None,
    ) -> AsyncIterator[FaultInfo]:
        """The dead letters, the oldest first; `.id` is the job's. `job_id`: of one job, a letter per generation."""
        job_id = "*" if job_id is None else valid_name(job_id, "job_id")
        async for fault in self._reader.faults(_name(activity), self._since(since), job_id):
            yield fault

    # --- dead letters -------------------------------------------------------------------------------------------------

    async def replay(self, job_id: str, activity: str | ActivityRef | None = None) -> AnyHandle:
        """Run a faulted (or cancelled) job again, also when only its dead letter is left; returns when that is stored.

        The id stays, attempt numbers and the trace go on, the budgets are fresh and the last checkpoint is kept.
        JobNotFound when there is neither a record nor a letter; InvalidState for a job in any other state.
        """
        ref = activity_ref(activity) if isinstance(activity, str) else activity
        handle = self._handle(valid_name(job_id, "id"), ref)
        await handle.retry()
        return handle

    async def replay_faults(
        self,
        *,
        activity: str | ActivityRef | None = None,
        since: dt.datetime | dt.timedelta | float | None = None,
        error_type: str | type[BaseException] | None = None,
    ) -> int:
        """Replay every faulted job whose dead letter matches all that is given; how many that were.

        `since`: faulted at or after this instant, or within this many seconds. `error_type`: the name of the error's
        class, or the class. Jobs that have gone on since their letter was written are left alone.

            count = await client.replay_faults(activity=convert_video, error_type="ConnectionError")
        """
        name = error_type.__qualname__ if isinstance(error_type, type) else error_type
        wanted = LetterFilter(activity=_name(activity), since=self._since(since), error_type=name)
        return await self._replays.every(wanted)

    async def drop_fault(self, job_id: str, activity: str | ActivityRef | None = None) -> int:
        """Remove the dead letters of a job; its record stays as it is. How many there were; JobNotFound for none."""
        valid_name(job_id, "job_id")
        name = _name(activity)
        return await self._replays.drop("*" if name is None else name, job_id)

    def _handle(self, job_id: str, ref: ActivityRef | None) -> AnyHandle:
        decode: Callable[[str], Any] | None = ref.codec.decode_result if isinstance(ref, Activity) else None
        name = None if ref is None else ref.name
        return JobHandle(job_id, name, self._reader, self._performer, self.store, decode)

    def _filters(
        self,
        state: JobState | str | Iterable[JobState | str] | None,
        activity: str | ActivityRef | None,
        node: str | None,
        label: str | tuple[str, str] | None,
        since: dt.datetime | dt.timedelta | float | None,
    ) -> Filters:
        return Filters(
            states=_states(state),
            activity=_name(activity),
            node=None if node is None else valid_name(node, "node"),
            label=_label(label),
            since=self._since(since),
        )

    def _since(self, since: dt.datetime | dt.timedelta | float | None) -> float | None:
        if since is None:
            return None
        if isinstance(since, dt.datetime):
            if since.utcoffset() is None:
                raise InvalidValue(f"since must be an aware datetime, not {since!r}")
            # A datetime is less exact than the server's clock, and `since=info.submitted_at` shall find that job.
            return since.timestamp() - 1e-6
        age = since.total_seconds() if isinstance(since, dt.timedelta) else float(since)
        return self.store.connection.now() - age


@attrs.frozen
class Connecting:
    """A connection to be made: await it, or enter it."""

    options: ConnectOptions
    names: Names
    retention: Retention
    _opened: list[Client] = attrs.field(factory=list, init=False, repr=False)

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        client = await self._connect()
        self._opened.append(client)
        return client

    async def __aexit__(self, *_: object) -> None:
        await self._opened.pop().close()

    async def _connect(self) -> Client:
        connection = await Connection.open(self.options, name="turnout-client")
        try:
            await Topology(connection, self.names).ensure()
        except BaseException:
            await connection.close()
            raise
        return Client(connection, self.names, self.options, self.retention)


def _name(activity: str | ActivityRef | None) -> str | None:
    if activity is None:
        return None
    return valid_name(activity, "activity") if isinstance(activity, str) else activity.name


def _states(state: JobState | str | Iterable[JobState | str] | None) -> frozenset[JobState] | None:
    if state is None:
        return None
    states = [state] if isinstance(state, str) or not isinstance(state, Iterable) else list(state)
    for each in states:
        if not isinstance(each, str) or each not in set(JobState):
            raise InvalidValue(f"state must be one of {', '.join(JobState)}, not {each!r}")
    return frozenset(JobState(each) for each in states)


def _label(label: str | tuple[str, str] | None) -> tuple[str, str | None] | None:
    if label is None or isinstance(label, tuple):
        return label
    key, equals, value = label.partition("=")
    return key, value if equals else None
