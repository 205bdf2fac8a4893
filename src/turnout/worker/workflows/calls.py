"""What the code of a workflow asks for and awaits: activities, children, and what it does to other workflows.

Each is a coroutine that gives a command and waits for its end. The command is named by the task that awaits the
coroutine, so `gather` and task groups name theirs apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import attrs

from turnout.core.failure import NO_REASON
from turnout.core.record import JobRecord
from turnout.core.spec import Body
from turnout.core.workflows.values import (
    ChildOptions,
    Command,
    CommandKind,
    Ending,
    EndKind,
    Input,
    key_of,
)
from turnout.definition.activity import Activity, ActivityRef, refuse_as_local
from turnout.definition.plain_json import decode_json
from turnout.definition.workflow import Workflow, WorkflowRef, untyped_payload
from turnout.errors import (
    InvalidValue,
    JobCancelled,
    JobFaulted,
    WorkflowCancelled,
    WorkflowEnded,
    WorkflowExists,
    WorkflowFaulted,
    WorkflowNotFound,
    WorkflowTerminated,
)
from turnout.worker.workflows.where import users_line

if TYPE_CHECKING:  # an instance has its calls, and they act on it
    from turnout.worker.workflows.instance import Instance


class Views(Protocol):
    """Makes of records what users see of them: the `.info` of an error."""

    def job(self, record: JobRecord) -> Any:
        """The JobInfo of a job that has ended."""
        ...

    def child(self, workflow_id: str, name: str, ending: Ending, asked: Command | None, parent: str) -> Any:
        """The WorkflowInfo of a workflow that has ended so, as far as that and what `parent` has asked for tell."""
        ...


class Calls:
    """The calls of one instance. See `turnout.definition.ambient.Ambient`."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._started: dict[str, asyncio.Future[None]] = {}
        self.silent: set[str] = set()
        """Commands that nobody needs to see in what the workflow waits for."""
        self.shared_children: dict[str, str] = {}
        """What the children are called that a fork shares, by their commands: ids may be made of the workflow's own."""

    @property
    def context(self) -> Any:
        """What `current_workflow()` returns."""
        return self._instance.context

    # --- activities ---------------------------------------------------------------------------------------------------

    def call_activity(
        self, ref: ActivityRef, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        """A job of the activity. InvalidValue for options that make no sense within a workflow."""
        self._instance.refuse_reading(f"it calls activity {ref.name}")
        submission = ref.submission
        if submission.id is not None or submission.if_exists != "raise":
            raise InvalidValue(f"activity {ref.name}: id and if_exists can't be chosen within a workflow")
        if submission.local:
            refuse_as_local(ref)
        if submission.debounce is not None:
            raise InvalidValue(
                f"activity {ref.name}: within a workflow, which waits for each job, debounce has no sense"
            )
        if isinstance(ref, Activity):
            text, decode = ref.codec.encode_arguments(args, kwargs), ref.codec.decode_result
        else:
            text, decode = untyped_payload(ref.name, args, kwargs), _plain
        return self._activity(ref, text, decode, users_line())

    async def _activity(self, ref: ActivityRef, text: str, decode: Callable[[str], Any], code: str) -> Any:
        submission, now = ref.submission, self._instance.loop.time()
        at = submission.at_s
        if at is None and submission.delay:
            at = now + submission.delay
        command = Command(
            self._instance.next_id(),
            CommandKind.local if submission.local else CommandKind.activity,
            name=ref.name,
            body=_body(text),
            at=at,
            job=ref.recorded,
            code=code,
            since=now,
        )
        ending = await self._ended(command, submission.cancellation or "try")
        if ending.kind is EndKind.completed:
            return decode(_text(ending.result))
        info = None if ending.job is None else self._instance.views.job(ending.job)
        if ending.kind is EndKind.cancelled:
            raise JobCancelled(f"activity {ref.name} was cancelled: {ending.reason or NO_REASON}", info)
        raise JobFaulted(f"activity {ref.name} faulted: {_why(ending)}", info)

    # --- waiting for the end of a command -----------------------------------------------------------------------------

    async def _ended(self, command: Command, cancellation: str) -> Ending:
        """Give the command and wait for its end. What a cancellation of the wait does is the caller's choice."""
        instance = self._instance
        instance.give(command)
        return await self._wait(command, cancellation)

    async def _wait(self, command: Command, cancellation: str) -> Ending:
        instance, asked = self._instance, False
        while True:
            future: asyncio.Future[Ending] = instance.loop.create_future()
            instance.waiting[command.id] = future
            try:
                return await future
            except asyncio.CancelledError:
                if cancellation == "wait" and not instance.loop.dropped:
                    if not asked:
                        instance.take_back(command, CommandKind.request)
                    asked = True
                    continue
                kind = CommandKind.abandon if cancellation == "abandon" else CommandKind.withdraw
                instance.take_back(command, kind)
                raise
            finally:
                instance.waiting.pop(command.id, None)

    # --- children -----------------------------------------------------------------------------------------------------

    def call_workflow(
        self, ref: WorkflowRef, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        """A child, and its result."""
        return self._child_result(ref, self._child_command(ref, args, kwargs))

    def start_child(
        self, ref: WorkflowRef, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Coroutine[Any, Any, Child]:
        """A child that is there when this returns."""
        return self._start_child(ref, self._child_command(ref, args, kwargs))

    def _child_command(
        self, ref: WorkflowRef, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Callable[[], Command]:
        """Checks what is asked for now; the command is named when the coroutine runs."""
        instance = self._instance
        instance.refuse_reading(f"it starts workflow {ref.name}")
        if ref.first is not None:
            raise InvalidValue(
                f"workflow {ref.name}: a child starts without a signal or an update: signal it behind start_child()"
            )
        text = ref.bind(*args, **kwargs) if isinstance(ref, Workflow) else untyped_payload(ref.name, args, kwargs)
        code, start = users_line(), ref.start
        settings = ref.settings if isinstance(ref, Workflow) else None
        labels = {**(settings.labels if settings is not None else {}), **start.labels}
        options = ChildOptions(
            if_exists=start.if_exists,
            parent_close=start.parent_close,
            timeout=start.timeout or (settings.timeout if settings is not None else None),
            retry=start.retry,
            retention=settings.retention if settings is not None else None,
            labels=labels,
        )

        def command() -> Command:
            command_id, now = instance.next_id(), instance.loop.time()
            facts = instance.facts
            child_id = self.shared_children.get(command_id) or start.id
            return Command(
                command_id,
                CommandKind.child,
                name=ref.name,
                body=_body(text),
                at=start.due_at(now),
                target=child_id or key_of(facts.id, facts.life, facts.run, command_id),
                child=options,
                code=code,
                since=now,
            )

        return command

    async def _child_result(self, ref: WorkflowRef, command: Callable[[], Command]) -> Any:
        given = command()
        ending = await self._ended(given, "try")
        return self.workflow_outcome(given.target, ref, ending, given)

    async def _start_child(self, ref: WorkflowRef, command: Callable[[], Command]) -> Child:
        instance, given = self._instance, command()
        started: asyncio.Future[None] = instance.loop.create_future()
        self._started[given.id] = started
        ended = instance.loop.create_task(self._child_end(given))
        try:
            await asyncio.wait([started, ended], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            ended.cancel()
            raise
        finally:
            self._started.pop(given.id, None)
        if ended.done() and ended.result().kind is EndKind.exists:
            self.workflow_outcome(given.target, ref, ended.result())
        return Child(given.target, ref, given, ended, self)

    async def _child_end(self, command: Command) -> Ending:
        """Its end. Cancelled with the start that nobody waits for any more: no one has a handle on the child then."""
        goes_on = command.child is not None and command.child.parent_close == "abandon"
        return await self._ended(command, "abandon" if goes_on else "try")

    def started(self, given: Input) -> None:
        """A child is there."""
        future = self._started.get(given.what)
        if future is not None and not future.done():
            future.set_result(None)

    def workflow_outcome(
        self, workflow_id: str, ref: WorkflowRef | None, ending: Ending, asked: Command | None = None
    ) -> Any:
        """The result of another workflow, or the error that says how it ended. `asked`: the command for a child."""
        name = ref.name if ref is not None else ""
        if ending.kind is not EndKind.completed:
            self._raise(workflow_id, name, ending, asked)
        text = _text(ending.result)
        return ref.codec.decode_result(text) if isinstance(ref, Workflow) else _plain(text)

    def _raise(self, workflow_id: str, name: str, ending: Ending, asked: Command | None = None) -> NoReturn:
        message = _why(ending)
        info = self._instance.views.child(workflow_id, name, ending, asked, self._instance.facts.id)
        match ending.kind:
            case EndKind.cancelled:
                raise WorkflowCancelled(f"workflow {workflow_id} was cancelled: {message}", info)
            case EndKind.terminated:
                raise WorkflowTerminated(f"workflow {workflow_id} was terminated: {message}", info)
            case EndKind.exists:
                raise WorkflowExists(f"workflow {workflow_id} exists already: choose another id")
            case EndKind.unknown:
                raise WorkflowNotFound(f"no workflow {workflow_id}")
            case EndKind.ended:
                raise WorkflowEnded(f"workflow {workflow_id} has ended")
            case _:
                raise WorkflowFaulted(f"workflow {workflow_id} faulted: {message}", info)

    # --- other workflows ----------------------------------------------------------------------------------------------

    async def reach(self, kind: CommandKind, workflow_id: str, name: str, text: str) -> Ending:
        """Signal or cancel another workflow, or ask for its end; how that went."""
        instance = self._instance
        command = Command(
            instance.next_id(),
            kind,
            name=name,
            body=_body(text),
            target=workflow_id,
            code=users_line(),
            since=instance.loop.time(),
        )
        ending = await self._ended(command, "abandon")
        if ending.kind in (EndKind.unknown, EndKind.ended):
            self._raise(workflow_id, name, ending)
        return ending


@attrs.frozen(eq=False)
class Child:
    """A child that was started: `id`, and what can be done with it."""

    id: str
    _ref: WorkflowRef
    _asked: Command
    _ended: asyncio.Task[Ending]
    _calls: Calls

    async def result(self) -> Any:
        """Its result; WorkflowFaulted, WorkflowCancelled or WorkflowTerminated."""
        ending = await asyncio.shield(self._ended)
        return self._calls.workflow_outcome(self.id, self._ref, ending, self._asked)

    async def signal(self, signal: Any, /, *args: Any, **kwargs: Any) -> None:
        """Signal it. WorkflowEnded when it has ended."""
        await self._calls.context.workflow(self.id).signal(signal, *args, **kwargs)

    async def cancel(self, reason: str = "") -> None:
        """Ask it to cancel. WorkflowEnded when it has ended."""
        await self._calls.context.workflow(self.id).cancel(reason)


def _body(text: str) -> Body:
    return Body(text=text, size=len(text) if text.isascii() else len(text.encode()))


def _text(body: Body | None) -> str:
    return "null" if body is None else body.text or ""


def _plain(text: str) -> Any:
    return decode_json(text, "result")


def _why(ending: Ending) -> str:
    return ending.error.shown if ending.error is not None else ending.reason or NO_REASON
