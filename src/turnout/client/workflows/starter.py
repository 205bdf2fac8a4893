"""Starting: from the arguments of a workflow to a record 0 that JetStream has stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from turnout import wire
from turnout.client.submitter import new_id
from turnout.client.workflows.handle import AnyWorkflowHandle, Reach, WorkflowHandle
from turnout.client.workflows.sender import Given
from turnout.client.workflows.updates import UpdateHandle
from turnout.core.spec import Body
from turnout.core.workflows.task import Starting
from turnout.core.workflows.values import Input, InputKind, Start
from turnout.definition.workflow import First, Workflow, WorkflowRef
from turnout.errors import IF_TAKEN, WorkflowEnded, WorkflowExists
from turnout.store.commit import Committer
from turnout.store.histories import Stored, is_deleted
from turnout.store.payloads import life_owner
from turnout.store.perform import Store
from turnout.store.starts import IdTaken, Starts
from turnout.telemetry import spans, workflow_metrics
from turnout.wire.entries import Glance
from turnout.wire.histories import TRACEPARENT

_TRIES = 10

NO_HEADERS: Mapping[str, str] = {}


class Starter:
    """Starts workflows for a client."""

    def __init__(self, store: Store, reach: Reach) -> None:
        self._store = store
        self._reach = reach
        self._sender = reach.sender
        self._starts = Starts(store.inbox, store.histories)
        self._committer = Committer(store)

    async def start(self, ref: WorkflowRef, text: str) -> AnyWorkflowHandle:
        """Start one workflow; WorkflowExists when its id is taken."""
        ref = self._counted(ref)
        workflow_id, life = ref.start.id or new_id(), self._store.chance.nonce()
        destination = self._store.names.bare_start(ref.name)
        workflow_metrics.started_by(ref.name)
        with spans.starting(ref.name, workflow_id, destination) as headers:
            start = await self._start(ref, workflow_id, life, text, headers)
            starting = Starting(id=workflow_id, name=ref.name, life=life, nonce=self._store.chance.nonce(), start=start)
            for _ in range(_TRIES):
                existing = await self._existing(workflow_id) if ref.start.id is not None else None
                if existing is None:
                    try:
                        stored = await self._starts.start(starting)
                    except IdTaken as taken:
                        existing = taken.newest
                    else:
                        await self._committer.commit(stored)
                        self._sender.see(stored)
                        if ref.first is not None and stored.record.start is not None:
                            self._sender.note(workflow_id, life, stored.record.start.wake)
                        return self.handle(workflow_id, ref, life)
                handle = await self._taken(ref, existing)
                if handle is not None:
                    return handle
        raise WorkflowExists(f"workflow {workflow_id} is started again and again by others", None)

    async def _existing(self, workflow_id: str) -> Stored | None:
        newest = await self._store.histories.newest(workflow_id)
        return None if is_deleted(newest) else newest

    async def _taken(self, ref: WorkflowRef, existing: Stored) -> AnyWorkflowHandle | None:
        """What `if_exists` says of an id that is taken; None: it is free now, try again."""
        record, chosen = existing.record, ref.start.if_exists
        if chosen == "join" and record.name == ref.name:
            if ref.first is None:
                return self.handle(record.id, ref, record.life)
            if not record.state.final:
                try:
                    await self._sender.send(record.id, record.life, _given(ref.first, spans.current_headers()))
                except WorkflowEnded:
                    return None  # it has just ended: it is begun anew
                return self.handle(record.id, ref, record.life)
            chosen = "replace"
        if chosen == "replace":
            await self._sender.free(existing)
            return None
        raise WorkflowExists(
            f"workflow {record.id} exists already ({record.name}, {record.state}): choose another id, "
            f"or start it with {IF_TAKEN}",
            self.workflow(record.id, ref, record.life),
        )

    async def _start(self, ref: WorkflowRef, workflow_id: str, life: str, text: str, headers: dict[str, str]) -> Start:
        now, asked = self._store.connection.now(), ref.start
        settings = ref.settings if isinstance(ref, Workflow) else None
        payload = await self._store.payloads.put(text, "payload", life_owner(workflow_id, life))
        start = Start(
            payload=payload,
            at=now,
            due_at=asked.due_at(now),
            labels={**(settings.labels if settings is not None else {}), **asked.labels},
            timeout=asked.timeout or (settings.timeout if settings is not None else None),
            retry=asked.retry,
            retention=settings.retention if settings is not None else None,
            headers=headers,
            trace_id=wire.trace_id_of(headers, ref.name, workflow_id),
        )
        return start if ref.first is None else attrs.evolve(start, carried=(_first(ref.first, now, headers),))

    def _counted(self, ref: WorkflowRef) -> WorkflowRef:
        """The start with an id for the input that rides along: it is counted by that, however often it is sent."""
        if ref.first is None or ref.first.id is not None:
            return ref
        return ref.with_first(attrs.evolve(ref.first, id=self._sender.new_id()))

    def handle(self, workflow_id: str, ref: WorkflowRef, life: str) -> AnyWorkflowHandle:
        """The handle on what was started, and on the update that rode along."""
        first = None
        if ref.first is not None and ref.first.kind == InputKind.update:
            first = self._reach.updater.first(workflow_id, life, _given(ref.first), ref.first.decode)
        return self.workflow(workflow_id, ref, life, first)

    def listed(self, workflow_id: str, entry: Glance) -> AnyWorkflowHandle:
        """A handle on a workflow that a listing has just shown to be open: who sends to it need not ask for that."""
        self._sender.see_open(workflow_id, entry.life, entry.name)
        return self.workflow(workflow_id, None, entry.life)

    def workflow(
        self,
        workflow_id: str,
        ref: WorkflowRef | None,
        life: str | None = None,
        first: UpdateHandle[Any] | None = None,
    ) -> AnyWorkflowHandle:
        """A handle, typed where the workflow's definition is at hand."""
        decode: Any = ref.codec.decode_result if isinstance(ref, Workflow) else None
        return WorkflowHandle(workflow_id, self._reach, decode, life, first)


def _given(first: First, headers: Mapping[str, str] = NO_HEADERS) -> Given:
    return Given(InputKind(first.kind), first.text, first.name, first.id, headers.get(TRACEPARENT, ""))


def _first(first: First, now: float, headers: Mapping[str, str]) -> Input:
    return Input(
        InputKind(first.kind),
        now,
        what=first.name,
        id=first.id or "",
        body=Body(text=first.text, size=len(first.text.encode())),
        traceparent=headers.get(TRACEPARENT, ""),
    )
