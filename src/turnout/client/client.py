"""The client: submit jobs, and ask about them."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, ParamSpec, TypeVar, overload

import attrs

from turnout.client.away import is_there, outwaits
from turnout.client.bulk import BulkMethods
from turnout.client.filters import (
    Filters,
    JobFilters,
    activity_name,
    asked,
    error_name,
    instant_since,
    label_of,
    limit_of,
)
from turnout.client.groups.methods import GroupMethods
from turnout.client.handle import AnyHandle, JobHandle
from turnout.client.info import FaultInfo, JobInfo
from turnout.client.limits import LimitMethods
from turnout.client.pausing import PauseMethods
from turnout.client.reader import Reader
from turnout.client.replay import DeadLetterFilter, Replays
from turnout.client.schedules.methods import ScheduleMethods
from turnout.client.submitter import Submitter
from turnout.client.workflows.methods import WorkflowMethods
from turnout.core.catalog import ActivityInfo, NodeInfo
from turnout.core.record import JobState
from turnout.core.spec import valid_name
from turnout.definition.activity import Activity, ActivityRef, NamedActivity, as_activity
from turnout.definition.retention import Retention
from turnout.errors import InvalidValue
from turnout.nats.connection import Connection, ConnectOptions
from turnout.store.names import Names
from turnout.store.perform import Performer, Store
from turnout.store.topology import Topology

P = ParamSpec("P")
R = TypeVar("R")


class Client(WorkflowMethods, ScheduleMethods, GroupMethods, BulkMethods, PauseMethods, LimitMethods):
    """Submits jobs and asks about them, over one connection. Use it on the event loop that connected it.

    Whatever it or one of its handles is asked while the connection is away, because the server restarts, say, waits for
    that for up to 15 s before it is sent; ServerUnavailable then. What has a `timeout` keeps to that alone.

    async with Client.connect("nats://127.0.0.1:4222") as client:
        handle = await client.submit(convert_video, path="a.mp4")
        print(await handle.result())
    """

    def __init__(self, connection: Connection, names: Names, options: ConnectOptions) -> None:
        self.connect_options = options
        self._store = self.store = Store.over(connection, names)
        performer = Performer(self.store)
        self._performer = performer
        self._reader = Reader(self.store, performer)
        self._submitter = Submitter(self.store, performer, self._reader)
        self._replays = Replays(self.store, performer, self._reader)
        self._open_workflows(self._since)

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
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        tls_hostname: str | None = None,
        tls_first: bool = False,
        inbox_prefix: str = "_INBOX",
        connect_timeout: float = 5.0,
        retention: Retention | None = None,
    ) -> Connecting:
        """A client of this namespace: `async with Client.connect(...) as client`, or `await Client.connect(...)`.

        `servers`: one URL or several. `creds`: path of a credentials file. `nkeys_seed`: a seed or the path of a file
        with one. `tls`: whom to trust and who we are; a function that makes it is called at each connect, so that
        certificates which were replaced on disk are used. `tls_first`: TLS before the server's first word, for servers
        with `handshake_first`. `inbox_prefix`: below which subjects answers come; grant it to these credentials alone,
        and nobody else can listen to them. `connect_timeout`: seconds. `retention`: as of `set_retention`.

        Streams and buckets that are missing are created. Errors, each saying what to do: ServerUnavailable,
        ServerUnsuitable, PermissionDenied.
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
            tls_first=tls_first,
            inbox_prefix=inbox_prefix,
            connect_timeout_s=connect_timeout,
        )
        return Connecting(options, Names(namespace), retention)

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

    # --- the namespace ------------------------------------------------------------------------------------------------

    @outwaits
    async def set_retention(self, retention: Retention) -> None:
        """Keep the records of ended jobs for so long, whoever ends them: it is a setting of the namespace.

        Every process of the namespace heeds it within half a minute. Records of jobs that have ended keep the time they
        were given. An activity may have declared its own: `@activity(retention=...)`.

            await client.set_retention(Retention(completed=86_400, faulted=timedelta(days=90)))
        """
        if not isinstance(retention, Retention):
            raise InvalidValue(f"retention must be a turnout.Retention, not {retention!r}")
        await self.store.settings.set_retention(retention)

    @property
    def retention(self) -> Retention:
        """How long the records of ended jobs are kept, as it stood on the server when this client read it last."""
        return self.store.settings.known_retention

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
        ref = as_activity(activity)
        text = ref.bind(*args, **kwargs) if isinstance(ref, Activity) else self._submitter.untyped(ref, args, kwargs)
        if not self.store.connection.up:  # what `outwaits` does, without its call: nothing is asked more often
            await is_there(self.store)
        if not isinstance(ref, Activity):
            await self._submitter.contracts.check(ref.name, [text])
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
    @outwaits
    async def submit_many(
        self, activity: str | ActivityRef, payloads: Iterable[Any], *, ids: Sequence[str] | None = None
    ) -> list[AnyHandle]:
        """Submit many jobs of one activity, pipelined; `payloads` are payload objects or models, `ids` their ids.

        All payloads are checked before the first is stored. Errors are those of `submit`; jobs before the one that
        failed are stored then, and some after it may be.
        """
        ref = as_activity(activity)
        encode = ref.codec.encode_object if isinstance(ref, Activity) else self._submitter.encode_untyped
        texts = [encode(payload) for payload in payloads]
        if not isinstance(ref, Activity):
            await self._submitter.contracts.check(ref.name, texts)
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
        return self._handle(job_id, None if activity is None else as_activity(activity))

    @outwaits
    async def jobs(
        self,
        *,
        state: JobState | str | Iterable[JobState | str] | None = None,
        activity: str | ActivityRef | None = None,
        node: str | None = None,
        label: str | tuple[str, str] | None = None,
        since: dt.datetime | dt.timedelta | float | None = None,
        workflow: str | None = None,
        schedule: str | None = None,
        group: str | None = None,
        error: str | type[BaseException] | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[JobInfo]:
        """The jobs that match all that is given, newest first, queued ones too, as they are found.

        `state`: one, or several. `node`: a node's id or name. `label`: `"key"`, `"key=value"` or a pair. `since`:
        submitted at or after this instant, or within this many seconds. `workflow`: the activities of this workflow.
        `schedule`: the runs of this schedule. `group`: the members of this group.
        `error`: the class, or the name of the class, of the error that its last failed attempt ended with.

        Nothing is held but the page that is being read. So the order is that of submission among the newest 1,000
        records at least; behind them, pages come in the order of their last change, each sorted by submission. Each
        job comes once; one that changes meanwhile as it was or as it is, maybe at the end.

        Ended jobs are found by their records, all others by their messages, so those are listed quickly however many
        have ended. (A crash may leave a record of a job without its message, until the supervisor mends that within a
        minute or so: it is listed when ended jobs are asked for as well.)
        """
        limit = limit_of(limit)
        given: JobFilters = {"state": state, "activity": activity, "node": node, "label": label, "since": since}
        filters = self._asked({**given, "workflow": workflow, "schedule": schedule, "group": group, "error": error})
        async with aclosing(self._reader.jobs(filters, limit)) as jobs:
            async for info in jobs:
                yield info

    @outwaits
    async def count(
        self,
        *,
        state: JobState | str | Iterable[JobState | str] | None = None,
        activity: str | ActivityRef | None = None,
        node: str | None = None,
        label: str | tuple[str, str] | None = None,
        since: dt.datetime | dt.timedelta | float | None = None,
        workflow: str | None = None,
        schedule: str | None = None,
        group: str | None = None,
        error: str | type[BaseException] | None = None,
    ) -> dict[JobState, int]:
        """How many jobs are in each state, each job once; filters as for `jobs`. One pass over everything, unparsed."""
        given: JobFilters = {"state": state, "activity": activity, "node": node, "label": label, "since": since}
        return await self._reader.count(
            self._asked({**given, "workflow": workflow, "schedule": schedule, "group": group, "error": error})
        )

    @outwaits
    async def nodes(self) -> list[NodeInfo]:
        """The living nodes."""
        return await self.store.nodes.living()

    @outwaits
    async def drain_node(self, node_id: str) -> bool:
        """Ask a node to take no more jobs and to stop; False when no node of this id answers.

        Its `Worker.run()` ends after the grace period at the latest, and `turnout worker` exits 0. Other nodes go on
        with what it had to abort.
        """
        return await self.store.nodes.drain(valid_name(node_id, "node_id"))

    @outwaits
    async def activities(self) -> list[ActivityInfo]:
        """The activities that workers have declared; `.nodes` of 0 tells that nobody works on one now."""
        pauses = await self.store.pauses.held()
        return [
            each if (pause := pauses.get(each.name)) is None else attrs.evolve(each, paused=True, note=pause.note)
            for each in await self.store.nodes.activities()
        ]

    @outwaits
    async def faults(
        self,
        *,
        activity: str | ActivityRef | None = None,
        since: dt.datetime | dt.timedelta | float | None = None,
        job_id: str | None = None,
        mended: bool = True,
    ) -> AsyncIterator[FaultInfo]:
        """The dead letters, the oldest first; `.id` is the job's. `job_id`: of one job, a dead letter per generation.

        `mended=False` leaves out those of jobs that have gone on since: retried, replayed, or submitted again.
        """
        job_id = "*" if job_id is None else valid_name(job_id, "job_id")
        async for fault in self._reader.faults(activity_name(activity), self._since(since), job_id, mended=mended):
            yield fault

    # --- dead letters -------------------------------------------------------------------------------------------------

    @outwaits
    async def replay(self, job_id: str, activity: str | ActivityRef | None = None) -> AnyHandle:
        """Run a faulted (or cancelled) job again, also when only its dead letter is left; returns when that is stored.

        The id stays, attempt numbers and the trace go on, the budgets are fresh and the last checkpoint is kept.
        JobNotFound when there is neither a record nor a dead letter; InvalidState for a job in any other state.
        """
        handle = self._handle(valid_name(job_id, "id"), None if activity is None else as_activity(activity))
        await handle.retry()
        return handle

    @outwaits
    async def replay_faults(
        self,
        *,
        activity: str | ActivityRef | None = None,
        since: dt.datetime | dt.timedelta | float | None = None,
        error_type: str | type[BaseException] | None = None,
        label: str | tuple[str, str] | None = None,
    ) -> int:
        """Replay every faulted job whose dead letter matches all that is given; how many that were.

        `since`: faulted at or after this instant, or within this many seconds. `error_type`: the name of the error's
        class, or the class. Jobs that have gone on since their dead letter was written are left alone.

            count = await client.replay_faults(activity=convert_video, error_type="ConnectionError")
        """
        return await self._replays.every(self._faulted(activity, since, error_type, label))

    @outwaits
    async def count_faults(
        self,
        *,
        activity: str | ActivityRef | None = None,
        since: dt.datetime | dt.timedelta | float | None = None,
        error_type: str | type[BaseException] | None = None,
        label: str | tuple[str, str] | None = None,
    ) -> int:
        """How many jobs `replay_faults` would replay now.

        count = await client.count_faults(activity=convert_video, error_type="ConnectionError")
        """
        return await self._replays.count(self._faulted(activity, since, error_type, label))

    def _faulted(
        self,
        activity: str | ActivityRef | None,
        since: dt.datetime | dt.timedelta | float | None,
        error_type: str | type[BaseException] | None,
        label: str | tuple[str, str] | None,
    ) -> DeadLetterFilter:
        return DeadLetterFilter(activity_name(activity), self._since(since), error_name(error_type), label_of(label))

    @outwaits
    async def drop_fault(self, job_id: str, activity: str | ActivityRef | None = None) -> int:
        """Remove the dead letters of a job; its record stays as it is. How many there were; JobNotFound for none."""
        valid_name(job_id, "job_id")
        name = activity_name(activity)
        return await self._replays.drop("*" if name is None else name, job_id)

    def _handle(self, job_id: str, ref: ActivityRef | None) -> AnyHandle:
        decode: Callable[[str], Any] | None = ref.codec.decode_result if isinstance(ref, Activity) else None
        name = None if ref is None else ref.name
        handle: AnyHandle = JobHandle(job_id, name, self._reader, self._performer, self.store, decode)
        handle.encode = ref.codec.encode_result if isinstance(ref, Activity) else None
        return handle

    def _asked(self, given: JobFilters) -> Filters:
        return asked(given, self.store.connection.now())

    def _since(self, since: dt.datetime | dt.timedelta | float | None) -> float | None:
        return instant_since(since, self.store.connection.now())


@attrs.frozen
class Connecting:
    """A connection to be made: await it, or enter it."""

    options: ConnectOptions
    names: Names
    retention: Retention | None
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
            client = Client(connection, self.names, self.options)
            if self.retention is not None:
                await client.set_retention(self.retention)
            else:
                await client.store.settings.retention()
        except BaseException:
            await connection.close()
            raise
        return client
