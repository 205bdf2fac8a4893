"""One run of a workflow's code in memory: it is given inputs one by one, and says what the code did with each.

An instance is a function of the inputs that it was given. It lives on a loop of its own (turnout.flow), runs on
whatever thread calls it, one at a time, and touches nothing outside: what the code asks for are commands in a `Turn`.
A replay gives it the inputs of the recorded history; the same inputs give the same commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import attrs

from turnout.core.record import JobRecord
from turnout.core.spec import Body
from turnout.core.workflows.standing import await_end
from turnout.core.workflows.task import NOTHING, Continued, Raised, Returned, RunEnd, Stopped, Turn
from turnout.core.workflows.values import (
    DELAY,
    Answer,
    Command,
    CommandKind,
    Ending,
    Input,
    InputKind,
    Start,
    Wait,
    WaitKind,
)
from turnout.definition.ambient import entered
from turnout.definition.workflow import Workflow
from turnout.errors import InvalidArguments, InvalidValue, NotDurable
from turnout.flow import Clock, Loop, Scope, Timer, stack_of
from turnout.flow.guards import Guard, guarded
from turnout.worker.failure import error_info
from turnout.worker.workflows.calls import Calls, Views
from turnout.worker.workflows.chance import Chance
from turnout.worker.workflows.context import WorkflowContext
from turnout.worker.workflows.ends import CodeBroke, failure_of, is_cancel, is_fault
from turnout.worker.workflows.mailbox import Mailbox
from turnout.worker.workflows.updates import Updates
from turnout.worker.workflows.where import users_line, with_lines

logger = logging.getLogger("turnout.workflow")

MAIN = "0"


@attrs.frozen(kw_only=True)
class Facts:
    """What a run is of. `patches` are the ids that are recorded of it (`patched()`)."""

    id: str
    name: str
    life: str
    run: int
    start: Start
    patches: frozenset[str] = frozenset()


class Instance:
    """Runs the code of one run. Not for two threads at once.

    `apply` raises `CodeBroke` for what no workflow ends by: the instance is of no more use then.
    """

    def __init__(self, workflow: Workflow[..., Any], facts: Facts, views: Views) -> None:
        self.workflow = workflow
        self.facts = facts
        self.views = views
        self.loop = Loop(clock=Clock(facts.start.at), timers=self, refuse=NotDurable)
        self.mailbox = Mailbox()
        self.updates = Updates(self)
        self.calls = Calls(self)
        self.context = WorkflowContext(self)
        self.chance = Chance(f"{facts.life}.{facts.run}")
        self._guard = Guard(NotDurable, self.loop.time, lambda: self.chance.numbers, self.context.uuid4)
        self.replaying = False
        self.reading = False
        """Whether a query runs, which may change nothing."""
        self.history_length = 1
        self.history_size = 0
        self.labels = dict(facts.start.labels)
        self.details = facts.start.details
        self.cancel_request: str | None = None
        self.object: Any = None
        self.waiting: dict[str, asyncio.Future[Ending]] = {}
        self.commands: dict[str, Command] = {}
        """The commands that wait for their end, as `Standing.pending` has them."""
        self.tried: dict[str, JobRecord] = {}
        """The attempts of local activities that have failed."""
        self._timers: dict[str, Timer] = {}
        self._patches: dict[str, bool] = dict.fromkeys(facts.patches, True)
        self._turn: list[Command] = []
        self._turn_patches: list[str] = []
        self._answers: list[Answer] = []
        self._changed: set[str] = set()
        self._main: asyncio.Task[Any] | None = None
        self._early = list(facts.start.carried)
        self._held: list[Input] = []
        self._handlers: set[asyncio.Task[Any]] = set()
        self._end: RunEnd | None = None
        self._broken: BaseException | None = None
        self._inputs = 0

    # --- what the worker does with it ---------------------------------------------------------------------------------

    def apply(self, given: Input) -> Turn:
        """Give the code one input, its body at hand, and let it run until it waits again; what it did."""
        with self.loop, entered(self.calls), guarded(self._guard):  # as `running` does, without its generator
            return self.applied(given)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Within this block the thread is the code's: its loop is the running one, and its guard is up.

        Entering takes as long as many an input: whoever replays a history does it once.
        """
        with self.loop, entered(self.calls), guarded(self._guard):
            yield

    def applied(self, given: Input) -> Turn:
        """Do what `apply` does, within the block of `running`."""
        self.loop.advance_to(given.at)
        self.history_length += 1
        if self._main is None and self.facts.start.due_at is not None and given.kind is not InputKind.begin:
            return self._before_begin(given)
        self._give(given)
        return self._finish()

    def prepare(self) -> None:
        """Make the object, for a query that comes before the first task, or where there never was one."""
        if self.object is None:
            with self.running():
                self._make_object()

    def reseed(self, life: str) -> None:
        """From now on the random numbers are those of this life."""
        self.chance.reseed(f"{life}.{self.facts.run}")

    def drop(self) -> None:
        """Forget it: nothing of its code runs again."""
        with entered(self.calls), guarded(self._guard):
            self.loop.drop()

    def forget(self) -> bool:
        """Drop it if none of its code has to be ended for that, so on whatever thread; whether it was so."""
        if not self.loop.over:
            return False
        self.loop.condemn()
        return True

    @property
    def trouble(self) -> str | None:
        """Why the code can't go on, or has no object to go on with."""
        if self._broken is not None:
            return str(error_info(self._broken))
        return self._end.failure.error.message if isinstance(self._end, Raised) else None

    @property
    def begun(self) -> bool:
        return self._main is not None

    def waits(self) -> tuple[Wait, ...]:
        """What the code waits for, for people to see."""
        shown = (command for command in self.commands.values() if command.id not in self.calls.silent)
        found = [_wait_of(command, self.tried.get(command.id)) for command in shown]
        found += self.mailbox.waits()
        if not found and self._main is not None and not self._main.done():
            stack = stack_of(self._main)
            found.append(Wait(WaitKind.condition, since=self.loop.time(), code=users_line(stack)))
        return tuple(with_lines(found, lambda: self.loop.tasks))

    # --- what the code does, by way of calls and context --------------------------------------------------------------

    def give(self, command: Command) -> None:
        """The code asks for something."""
        self.refuse_reading("it gives a command")
        if self.loop.dropped:
            return
        self._turn.append(command)
        await_end(self.commands, command)

    def take_back(self, command: Command, kind: CommandKind) -> None:
        """Nobody waits for the command any more (`withdraw`, `abandon`), or it is asked to cancel (`request`)."""
        if self.loop.dropped or command.id not in self.commands:
            return
        unheard = command in self._turn and kind is CommandKind.withdraw
        if unheard and command.kind in (CommandKind.activity, CommandKind.local, CommandKind.timer):
            self._turn.remove(command)  # it was asked for in this very turn: nobody has heard of it
            del self.commands[command.id]
            return
        name = f"{command.target} {command.name}" if command.kind is CommandKind.child else command.name
        about = Command(self.next_id(), kind, name=name, target=command.id, about=command.kind)
        self.give(about)

    def next_id(self) -> str:
        """The id of the next command of the task that runs: its path, and the ordinal within it."""
        scope = self.loop.scope
        return f"{scope.path}-{scope.next_ordinal()}"

    def refuse_reading(self, what: str) -> None:
        """NotDurable when a query tries to change what matters."""
        if self.reading:
            raise NotDurable(f"a query may change nothing, but {what}")

    def patched(self, patch_id: str) -> bool:
        """Whether this run goes the new way: True on first execution, what was recorded on replay; one answer a run."""
        if patch_id not in self._patches:
            self.refuse_reading("it asks for a patch")
            self._patches[patch_id] = not self.replaying
            if not self.replaying:
                self._turn_patches.append(patch_id)
        return self._patches[patch_id]

    def answer(self, answer: Answer) -> None:
        """What has become of an update."""
        self._answers.append(answer)

    def change(self, what: str) -> None:
        """Labels or details were changed by the code."""
        self.refuse_reading(f"it sets {what}")
        self._changed.add(what)

    def end(self, end: RunEnd) -> None:
        """The run has ended so, unless it had before."""
        self._end = self._end or end

    def fault(self, error: BaseException) -> None:
        """An exception has left the code: the end of the run, or trouble that is ours."""
        if self._end is not None or self._broken is not None:
            return
        if self.cancel_request is not None and is_cancel(error):
            self._end = Stopped()
        elif is_fault(error, self.workflow.settings.fail_on_names):
            self._end = Raised(failure_of(error))
        else:
            self._broken = error

    # --- timers (turnout.flow asks) -----------------------------------------------------------------------------------

    def timer_created(self, timer: Timer) -> bool:
        """Make a timer of the code durable."""
        command = Command(
            f"{timer.scope.path}-{timer.ordinal}",
            CommandKind.timer,
            at=timer.when(),
            code=users_line(),
            since=self.loop.time(),
        )
        self._timers[command.id] = timer
        self.give(command)
        return True

    def timer_cancelled(self, timer: Timer) -> None:
        """The code does not wait for the timer any more."""
        command_id = f"{timer.scope.path}-{timer.ordinal}"
        if self._timers.pop(command_id, None) is not None and command_id in self.commands:
            self.take_back(self.commands[command_id], CommandKind.withdraw)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _before_begin(self, given: Input) -> Turn:
        """A delayed start, or a retry: until its timer no code runs, and what comes meanwhile waits for it."""
        if given.kind is InputKind.cancel:
            self.cancel_request = given.body.text or ""
            self._end = Stopped()
        elif given.what != DELAY:
            self._held.append(given)
        return Turn(end=self._end, unreceived=tuple(self._held))

    def _give(self, given: Input) -> None:
        """Hand the input to the code and run until nothing is ready and no condition holds any more."""
        if self._early or given.kind is InputKind.begin:
            self._first()
        self._inputs += 1
        self._hand_over(given)
        self._run()

    def _first(self) -> None:
        """Before `run` begins: the object is made, and what rode along or came early finds its handlers.

        What rode along was sent before all that lies in the inbox, which may be taken before `begin`.
        """
        self._make_object()
        early, self._early, self._held = (*self._early, *self._held), [], []
        for given in early:
            self._inputs += 1
            self._hand_over(given)
            self._run()

    def _make_object(self) -> None:
        if self.workflow.cls is None or self.object is not None or isinstance(self._end, Raised):
            return
        try:
            args, kwargs = self.arguments()
            self.object = self.workflow.make(args, kwargs)
        except InvalidArguments as error:
            self.end(Raised(failure_of(error)))
        except (Exception, asyncio.CancelledError) as error:  # the class is user code
            self.fault(error)

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the run. InvalidArguments when the payload does not fit."""
        try:
            return self.workflow.codec.decode(self.facts.start.payload.text or "")
        except InvalidValue as error:
            raise InvalidArguments(str(error)) from None

    def _hand_over(self, given: Input) -> None:
        taken = _TAKEN.get(given.kind)
        if taken is not None:
            taken(self, given)

    def _update(self, given: Input) -> None:
        self._make_object()
        self.updates.begin(given, f"h{self._inputs}")

    def _tried(self, given: Input) -> None:
        if given.ending is not None and given.ending.job is not None:
            self.tried[given.what] = given.ending.job

    def _started(self, given: Input) -> None:
        self.calls.started(given)

    def _begin(self, _: Input) -> None:
        if self._end is not None or self._broken is not None:
            return
        try:
            args, kwargs = self.arguments()
        except InvalidArguments as error:
            self.end(Raised(failure_of(error)))
            return
        coro = self.workflow.fn(*(() if self.object is None else (self.object,)), *args, **kwargs)
        self._main = self.loop.create_root(coro, MAIN)
        self._main.add_done_callback(self._returned)

    def _returned(self, main: asyncio.Task[Any]) -> None:
        if self._end is not None:
            if not main.cancelled():
                main.exception()
            return
        if main.cancelled():
            self.fault(asyncio.CancelledError())
            return
        error = main.exception()
        if error is not None:
            self.fault(error)
            return
        try:
            text = self.workflow.codec.encode_result(main.result())
        except InvalidValue as problem:
            self._broken = problem
            return
        self.end(Returned(Body(text=text, size=len(text.encode()))))

    def _signal(self, given: Input) -> None:
        handler = self.workflow.signals.get(given.what)
        if handler is None:
            self.mailbox.put(given)
            return
        self._make_object()
        try:
            args, kwargs = handler.codec.decode(given.body.text or "")
        except InvalidValue as error:
            self.warn("a signal %s does not fit and is dropped: %s", given.what, error)
            return
        if self.object is None:
            return
        path = f"h{self._inputs}"
        if handler.is_async:
            self.run_handler(handler.fn, args, kwargs, path, self._handled)
        else:
            self._call_handler(functools.partial(handler.fn, self.object, *args, **kwargs), path)

    def _call_handler(self, call: Callable[[], Any], path: str) -> None:
        """Call a handler that is a plain function: a task for each would make a signal twice as expensive."""
        scope = Scope(path)
        try:
            answer = self.loop.call_root(call, scope)
        except (SystemExit, KeyboardInterrupt):  # a task lets nothing else out, either
            raise
        except BaseException as error:  # the handler is user code
            self.fault(error)
            return
        if isinstance(answer, Coroutine):
            self._follow(self.loop.create_root(answer, scope), self._handled)

    def run_handler(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        path: str,
        done: Callable[[asyncio.Task[Any]], None],
    ) -> None:
        """Run a handler as a task of its own."""
        self._follow(self.loop.create_root(_called(fn, self.object, args, kwargs), path), done)

    def _follow(self, task: asyncio.Task[Any], done: Callable[[asyncio.Task[Any]], None]) -> None:
        """The task is a handler's, until it has ended."""
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        task.add_done_callback(done)

    @property
    def handlers_finished(self) -> bool:
        """Whether no handler runs but the one that asks."""
        current = asyncio.current_task(self.loop) if self.loop.is_running() else None
        return all(task.done() or task is current for task in self._handlers)

    def _handled(self, task: asyncio.Task[Any]) -> None:
        error: BaseException | None = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self.fault(error)

    def _cancel(self, given: Input) -> None:
        """The first one counts: another that comes while the code cleans up must not break that off."""
        if self.cancel_request is not None:
            return
        self.cancel_request = given.body.text or ""
        if self._main is not None:
            self._main.cancel(self.cancel_request)

    def _fire(self, given: Input) -> None:
        self.commands.pop(given.what, None)
        timer = self._timers.pop(given.what, None)
        if timer is not None:
            self.loop.fire(timer)

    def _settle(self, given: Input) -> None:
        self.commands.pop(given.what, None)
        self.tried.pop(given.what, None)
        future = self.waiting.get(given.what)
        if future is not None and not future.done() and given.ending is not None:
            future.set_result(given.ending)

    def _run(self) -> None:
        while self._broken is None:
            self.loop.drain()
            if not self.mailbox.check():
                return

    def _finish(self) -> Turn:
        if self._broken is not None:
            raise CodeBroke(error_info(self._broken).message) from self._broken
        commands, patches, answers, changed = self._turn, self._turn_patches, self._answers, self._changed
        if not (commands or patches or answers or changed or self._end):
            return NOTHING
        self._turn, self._turn_patches, self._answers, self._changed = [], [], [], set()
        self.history_length += len(commands)
        if self._end is not None and not self.handlers_finished:
            self.warn("it ends while handlers run")
        return Turn(
            commands=tuple(commands),
            answers=tuple(answers),
            patches=tuple(patches),
            labels=dict(self.labels) if "labels" in changed else None,
            details=self.details if "details" in changed else None,
            end=self._end,
            unreceived=self.mailbox.unreceived if self._end is not None else (),
        )

    def warn(self, message: str, *args: object) -> None:
        """Log a warning about this workflow, not on replay."""
        if not self.replaying:
            logger.warning("workflow %s: " + message, self.facts.id, *args)

    def continue_with(self, payload: str) -> None:
        """`continue_as_new`: the end of this run."""
        self.end(Continued(Body(text=payload, size=len(payload.encode()))))


_TAKEN: dict[InputKind, Callable[[Instance, Input], None]] = {
    InputKind.begin: Instance._begin,
    InputKind.signal: Instance._signal,
    InputKind.update: Instance._update,
    InputKind.cancel: Instance._cancel,
    InputKind.timer: Instance._fire,
    InputKind.done: Instance._settle,
    InputKind.tried: Instance._tried,
    InputKind.started: Instance._started,
}
"""What each kind of input does. Read from a table: in Python 3.11 to name a member takes as long as a call."""


async def _called(fn: Callable[..., Any], own: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    answer = fn(own, *args, **kwargs)
    return await answer if isinstance(answer, Coroutine) else answer


_KINDS = {
    CommandKind.activity: WaitKind.activity,
    CommandKind.local: WaitKind.activity,
    CommandKind.timer: WaitKind.timer,
    CommandKind.child: WaitKind.child,
}


def _wait_of(command: Command, tried: JobRecord | None) -> Wait:
    kind = _KINDS.get(command.kind, WaitKind.condition)
    attempt, due_at = None, command.at
    if command.kind is CommandKind.local:
        attempt = 1 if tried is None else tried.attempt + 1
        due_at = None if tried is None else tried.due_at
    return Wait(
        kind,
        name=command.name,
        id=command.id,
        since=command.since,
        due_at=due_at,
        code=command.code,
        attempt=attempt,
    )
