"""What a workflow's code sees of its workflow: `current_workflow()`."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
import uuid
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload

from turnout.core.failure import given_reason
from turnout.core.loglines import workflow_fields
from turnout.core.retry import seconds
from turnout.core.spec import checked_labels, valid_name
from turnout.core.workflows.jobs import span_id_of
from turnout.core.workflows.values import CommandKind, Failure
from turnout.definition.ambient import needed
from turnout.definition.codec import decode_as
from turnout.definition.handlers import Signal
from turnout.definition.plain_json import PayloadProblem
from turnout.definition.workflow import NamedWorkflow, Workflow, WorkflowRef, as_workflow, handler_name, named_call
from turnout.errors import InvalidValue
from turnout.worker.workflows.where import users_line

if TYPE_CHECKING:  # an instance has its context, and that acts on it
    from turnout.worker.workflows.calls import Child
    from turnout.worker.workflows.instance import Instance

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

CONTINUE_EVENTS = 10_000
CONTINUE_BYTES = 10 * 1024 * 1024
"""Beyond one of these `should_continue_as_new` is true."""


class ContinueAsNew(BaseException):
    """Ends the code that has called `continue_as_new`."""


class WorkflowContext:
    """The workflow whose code asks. See `current_workflow`."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._log: WorkflowLog | None = None

    @property
    def id(self) -> str:
        return self._instance.facts.id

    @property
    def name(self) -> str:
        return self._instance.facts.name

    @property
    def run(self) -> int:
        """Which run this is, from 1: continue-as-new and a retry begin another."""
        return self._instance.facts.run

    @property
    def started_at(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._instance.facts.start.at, dt.UTC)

    @property
    def parent(self) -> str | None:
        """The id of the workflow that this one is a child of."""
        parent = self._instance.facts.start.parent
        return None if parent is None else parent.id

    @property
    def labels(self) -> dict[str, str]:
        return dict(self._instance.labels)

    @property
    def history_length(self) -> int:
        """How many events this run has."""
        return self._instance.history_length

    @property
    def replaying(self) -> bool:
        """Whether the code is only led again through what it has done before."""
        return self._instance.replaying

    @property
    def cancel_reason(self) -> str | None:
        """Why the workflow was asked to cancel, None if it was not."""
        return self._instance.cancel_request

    @property
    def last_failure(self) -> Any:
        """The error of the run before this one, if that was followed by a retry."""
        failure: Failure | None = self._instance.facts.start.failure
        return None if failure is None else failure.error

    @property
    def should_continue_as_new(self) -> bool:
        """Whether the history is long enough for `continue_as_new`."""
        instance = self._instance
        return instance.history_length > CONTINUE_EVENTS or instance.history_size > CONTINUE_BYTES

    @property
    def random(self) -> random.Random:
        """Random numbers that are the same on replay."""
        self._instance.refuse_reading("it asks for a random number")
        return self._instance.chance.numbers

    @property
    def log(self) -> WorkflowLog:
        """A logger that carries the workflow's id and run, and is silent on replay."""
        if self._log is None:
            self._log = WorkflowLog(self._instance)
        return self._log

    @property
    def log_fields(self) -> dict[str, Any]:
        """What a line that the code logs carries of its workflow."""
        facts = self._instance.facts
        trace_id = facts.start.trace_id
        span_id = span_id_of(facts.life, facts.run) if trace_id else ""
        return workflow_fields(facts.id, facts.name, facts.run, trace_id, span_id)

    def now(self) -> dt.datetime:
        """The time, as the history has it."""
        return dt.datetime.fromtimestamp(self._instance.loop.time(), dt.UTC)

    def uuid4(self) -> uuid.UUID:
        """A random UUID that is the same on replay."""
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    def patched(self, patch_id: str) -> bool:
        """Whether this run goes the new way: True for a run that comes here for the first time with this code."""
        if not isinstance(patch_id, str):
            raise InvalidValue(f"a patch's id must be text, not {patch_id!r}")
        return self._instance.patched(patch_id)

    def wait_for(
        self, predicate: Callable[[], Any], timeout: float | timedelta | None = None
    ) -> Coroutine[Any, Any, None]:
        """Return when `predicate()` is true: it is asked again whenever something has happened. TimeoutError."""
        limit = None if timeout is None else seconds(timeout, "timeout")
        return self._wait_for(predicate, limit, users_line())

    async def _wait_for(self, predicate: Callable[[], Any], limit: float | None, code: str) -> None:
        async with asyncio.timeout(limit):
            await self._instance.mailbox.until(predicate, code)

    @overload
    def receive(self, signal: str | Signal[..., Any], type: type[T], /) -> Coroutine[Any, Any, T]: ...
    @overload
    def receive(self, signal: str | Signal[..., Any], type: None = None, /) -> Coroutine[Any, Any, Any]: ...
    def receive(self, signal: str | Signal[..., Any], type: Any = None, /) -> Coroutine[Any, Any, Any]:
        """The next signal of this name, as `type`. One that doesn't fit is dropped, with a warning."""
        return self._receive(handler_name(Signal, signal), type, users_line())

    async def _receive(self, name: str, type: Any, code: str) -> Any:
        while True:
            given = await self._instance.mailbox.receive(name, code)
            try:
                return decode_as(given.body.text or "null", type, f"signal {name}")
            except PayloadProblem as error:
                self._instance.warn("a signal %s does not fit and is dropped: %s", name, error)

    def continue_as_new(self, *args: Any, **kwargs: Any) -> NoReturn:
        """End this run and begin another with these arguments, with a fresh history."""
        instance = self._instance
        instance.refuse_reading("it continues as new")
        instance.continue_with(instance.workflow.codec.encode_arguments(args, kwargs))
        raise ContinueAsNew

    def set_details(self, text: str) -> None:
        """A text for people to see where the workflow is listed."""
        if not isinstance(text, str):
            raise InvalidValue(f"details must be text, not {text!r}")
        self._instance.change("details")
        self._instance.details = text[:10_000]

    def set_labels(self, labels: Mapping[str, str | None]) -> None:
        """Change labels; None removes one."""
        merged = {**self._instance.labels, **labels}
        kept = checked_labels({key: value for key, value in merged.items() if value is not None})
        self._instance.change("labels")
        self._instance.labels = kept

    def all_handlers_finished(self) -> bool:
        """Whether no handler of a signal or an update runs."""
        return self._instance.handlers_finished

    def workflow(self, workflow_id: str) -> OtherWorkflow:
        """Another workflow, by its id."""
        return OtherWorkflow(self._instance, valid_name(workflow_id, "id"))

    @overload
    def start_child(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, Child]: ...
    @overload
    def start_child(
        self, workflow: str | NamedWorkflow, /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Child]: ...
    def start_child(self, workflow: str | WorkflowRef, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Child]:
        """Start a child; it is there when this returns. WorkflowExists when its id is taken.

        When the wait for that is cancelled, so is the child, unless it was given `parent_close="abandon"`.
        """
        return self._instance.calls.start_child(as_workflow(workflow), args, kwargs)


class OtherWorkflow:
    """Another workflow of the namespace, as a workflow's code reaches it. WorkflowNotFound, WorkflowEnded."""

    def __init__(self, instance: Instance, workflow_id: str) -> None:
        self._instance = instance
        self.id = workflow_id

    async def signal(self, signal: str | Signal[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Signal it."""
        name, text = named_call(Signal, signal, args, kwargs)
        await self._instance.calls.reach(CommandKind.signal, self.id, name, text)

    async def cancel(self, reason: str = "") -> None:
        """Ask it to cancel."""
        await self._instance.calls.reach(CommandKind.cancel, self.id, "", given_reason(reason))

    async def result(self) -> Any:
        """Wait for its end: its result, or WorkflowFaulted, WorkflowCancelled, WorkflowTerminated."""
        ending = await self._instance.calls.reach(CommandKind.joining, self.id, "", "")
        return self._instance.calls.workflow_outcome(self.id, None, ending)


class WorkflowLog(logging.LoggerAdapter[logging.Logger]):
    """The workflow's logger: each line names the workflow and its run, and a replay logs nothing."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(logging.getLogger("turnout.workflow"), instance.context.log_fields)
        self._instance = instance

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802
        return not self._instance.replaying and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs


def current_workflow() -> WorkflowContext:
    """The workflow whose code runs. NotInWorkflow anywhere else.

    >>> @workflow  # doctest: +SKIP
    ... async def reminder(to: str) -> None:
    ...     answer = await current_workflow().receive("answer", str)
    """
    context: WorkflowContext = needed("current_workflow()").context
    return context
