"""The part of a client that starts workflows and asks about them."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack, overload

import attrs

from turnout import bounded
from turnout.client.away import outwaits
from turnout.client.filters import has_label, label_of, limit_of, some_of, states_of
from turnout.client.workflows.asker import Asker
from turnout.client.workflows.forker import Forker
from turnout.client.workflows.handle import AnyWorkflowHandle, Reach, WorkflowHandle
from turnout.client.workflows.info import WorkflowInfo
from turnout.client.workflows.newest import newest_started
from turnout.client.workflows.reader import Living, WorkflowReader
from turnout.client.workflows.sender import Sender
from turnout.client.workflows.starter import Starter
from turnout.client.workflows.updates import Updater
from turnout.core.failure import given_reason
from turnout.core.schedule import schedule_name
from turnout.core.spec import valid_name
from turnout.core.workflows.values import FINAL_STATES, WorkflowState
from turnout.definition.ambient import refuse_within
from turnout.definition.workflow import NamedWorkflow, Workflow, WorkflowRef, as_workflow, untyped_payload
from turnout.errors import InvalidValue, UnreadableRecord, WorkflowEnded, WorkflowNotFound
from turnout.store.histories import left_out
from turnout.store.payloads import ObjectGone
from turnout.store.perform import Store
from turnout.wire.entries import Glance

P = ParamSpec("P")
R = TypeVar("R")

States = WorkflowState | str | Iterable[WorkflowState | str] | None

OPEN = frozenset(WorkflowState) - FINAL_STATES
AT_ONCE = 32
"""How many workflows are acted on, or read, at once."""
_SENT_AT_ONCE = 128
"""How many are sent something small at once."""


class WorkflowFilters(TypedDict, total=False):
    """Which workflows: those that match all that is given; None is as if it were not given. See `workflows`."""

    state: States
    name: str | WorkflowRef | None
    label: str | tuple[str, str] | None
    parent: str | None
    since: dt.datetime | dt.timedelta | float | None
    schedule: str | None


@attrs.frozen
class _Filters:
    states: frozenset[WorkflowState] | None
    name: str | None
    label: tuple[str, str | None] | None
    parent: str | None
    since: float | None
    schedule: str | None

    def matches(self, entry: Glance) -> bool:
        return (
            (self.states is None or entry.state in self.states)
            and (self.name is None or entry.name == self.name)
            and (self.parent is None or entry.parent == self.parent)
            and (self.schedule is None or entry.schedule == self.schedule)
            and (self.since is None or entry.started_at >= self.since)
            and (self.label is None or has_label(entry.labels, self.label))
        )


class WorkflowMethods:
    """What a `Client` can do with workflows."""

    store: Store

    def _open_workflows(self, since: Callable[[Any], float | None]) -> None:
        self._workflow_reader = self.make_workflow_reader()
        sender = Sender(self.store, self._workflow_reader)
        updater = Updater(self.store, self._workflow_reader, sender)
        asker = Asker(self.store, self._workflow_reader, sender)
        forker = Forker(self.store, self._workflow_reader)
        self._starter = Starter(self.store, Reach(self.store, self._workflow_reader, sender, updater, asker, forker))
        self._workflows_since = since

    def make_workflow_reader(self) -> WorkflowReader:
        """What reads workflows for this client; a test environment's lets the time go on meanwhile."""
        return WorkflowReader(self.store)

    @overload
    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> WorkflowHandle[R]: ...
    @overload
    async def start(self, workflow: str | NamedWorkflow, /, *args: Any, **kwargs: Any) -> AnyWorkflowHandle: ...
    @outwaits
    async def start(self, workflow: str | WorkflowRef, /, *args: Any, **kwargs: Any) -> AnyWorkflowHandle:
        """Start a workflow; returns when JetStream has stored it.

        Takes the workflow's own arguments, or for a workflow by name its payload. Errors before anything is stored:
        InvalidArguments, InvalidValue. WorkflowExists when the id is taken.
        """
        refuse_within("call the workflow itself, it becomes a child")
        ref = as_workflow(workflow)
        text = ref.bind(*args, **kwargs) if isinstance(ref, Workflow) else untyped_payload(ref.name, args, kwargs)
        return await self._starter.start(ref, text)

    @overload
    def workflow(self, workflow_id: str, workflow: Workflow[P, R]) -> WorkflowHandle[R]: ...
    @overload
    def workflow(self, workflow_id: str, workflow: str | NamedWorkflow | None = None) -> AnyWorkflowHandle: ...
    def workflow(self, workflow_id: str, workflow: str | WorkflowRef | None = None) -> AnyWorkflowHandle:
        """A handle on the workflow of this id; nothing is asked of the server yet. With its definition it is typed."""
        valid_name(workflow_id, "id")
        return self._starter.workflow(workflow_id, None if workflow is None else as_workflow(workflow))

    @outwaits
    async def workflows(
        self,
        *,
        state: States = None,
        name: str | WorkflowRef | None = None,
        label: str | tuple[str, str] | None = None,
        parent: str | None = None,
        since: dt.datetime | dt.timedelta | float | None = None,
        schedule: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[WorkflowInfo]:
        """The workflows that match all that is given, the newest start first.

        `state`: one, or several. `label`: `"key"`, `"key=value"` or a pair. `since`: started at or after this instant,
        or within this many seconds. `schedule`: the runs of this schedule.
        """
        limit = limit_of(limit)
        given: WorkflowFilters = {"state": state, "name": name, "label": label, "parent": parent, "since": since}
        filters = self._workflow_filters({**given, "schedule": schedule})
        found = await newest_started(self.store, filters.matches, limit) if limit is not None else None
        if found is None:
            entries = self._workflow_reader.all()
            all_found = [(each.started_at, key) async for key, each in entries if filters.matches(each)]
            found = sorted(all_found, reverse=True)[:limit]
        living = self._workflow_reader.living()
        for begin in range(0, len(found), AT_ONCE):
            some = [(key, living) for _, key in found[begin : begin + AT_ONCE]]
            for info in await bounded.each(self._listed, some, AT_ONCE):
                if info is not None:
                    yield info

    async def _listed(self, one: tuple[str, Living]) -> WorkflowInfo | None:
        """The workflow as a list shows it; None for one that has gone meanwhile, or can't be read."""
        workflow_id, living = one
        try:
            return await self._workflow_reader.info(await self._workflow_reader.newest(workflow_id), living)
        except WorkflowNotFound:
            return None
        except (UnreadableRecord, ObjectGone) as error:
            left_out(workflow_id, error)
            return None

    @outwaits
    async def count_workflows(
        self,
        *,
        state: States = None,
        name: str | WorkflowRef | None = None,
        label: str | tuple[str, str] | None = None,
        parent: str | None = None,
        since: dt.datetime | dt.timedelta | float | None = None,
        schedule: str | None = None,
    ) -> dict[WorkflowState, int]:
        """How many workflows are in each state; filters as for `workflows`."""
        given: WorkflowFilters = {"state": state, "name": name, "label": label, "parent": parent, "since": since}
        filters = self._workflow_filters({**given, "schedule": schedule})
        counted = Counter([each.state async for _, each in self._workflow_reader.all() if filters.matches(each)])
        return {each: counted[each] for each in WorkflowState}

    @outwaits
    async def cancel_workflows(self, *, reason: str = "", **filters: Unpack[WorkflowFilters]) -> int:
        """Ask every workflow that has not ended and matches to end; how many that were.

        The filters are those of `workflows`; without any of them InvalidValue (a ValueError): nobody acts on all by
        mistake. One that has ended meanwhile is left alone.

        count = await client.cancel_workflows(name=order, label="region=eu", reason="wrong prices")
        """
        return await self._each_workflow(filters, lambda handle: handle.cancel(reason), reason, at_once=_SENT_AT_ONCE)

    @outwaits
    async def terminate_workflows(self, *, reason: str = "", **filters: Unpack[WorkflowFilters]) -> int:
        """End every workflow that has not ended and matches, at once; how many that were. As `cancel_workflows`.

        count = await client.terminate_workflows(state="stuck", since=timedelta(hours=2))
        """
        return await self._each_workflow(filters, lambda handle: handle.terminate(reason), reason)

    async def _each_workflow(
        self,
        given: WorkflowFilters,
        act: Callable[[AnyWorkflowHandle], Awaitable[None]],
        reason: object,
        *,
        at_once: int = AT_ONCE,
    ) -> int:
        """Act on the open ones that match: their ids and lives first, so that what is done moves nothing under it."""
        given_reason(reason)
        some_of(WorkflowFilters, given, "workflows")
        wanted = self._workflow_filters(given)
        states = OPEN if wanted.states is None else wanted.states & OPEN
        if not states:
            raise InvalidValue(f"state must be one of {', '.join(sorted(OPEN))} here: the others have ended")
        wanted = attrs.evolve(wanted, states=states)
        found = [(key, each) async for key, each in self._workflow_reader.all() if wanted.matches(each)]

        async def one(listed: tuple[str, Glance]) -> int:
            try:
                await act(self._starter.listed(*listed))
            except (WorkflowEnded, WorkflowNotFound):  # it has ended meanwhile, or has gone
                return 0
            return 1

        return sum(await bounded.each(one, found, at_once))

    def _workflow_filters(self, given: WorkflowFilters) -> _Filters:
        name, parent, schedule = given.get("name"), given.get("parent"), given.get("schedule")
        return _Filters(
            states=states_of(WorkflowState, given.get("state")),
            name=None if name is None else as_workflow(name).name,
            label=label_of(given.get("label")),
            parent=None if parent is None else valid_name(parent, "parent"),
            since=self._workflows_since(given.get("since")),
            schedule=None if schedule is None else schedule_name(schedule),
        )
