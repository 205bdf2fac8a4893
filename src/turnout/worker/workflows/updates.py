"""The updates of an instance: checked, accepted, run as handlers, and answered (W13)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from turnout.core.spec import Body
from turnout.core.workflows.values import Answer, AnswerState, Input
from turnout.definition.handlers import Update
from turnout.errors import InvalidValue, UpdateFailed
from turnout.flow.errors import Overrun
from turnout.worker.workflows.ends import failure_of, is_fault
from turnout.worker.workflows.reading import looking

if TYPE_CHECKING:  # an instance has its updates, and they act on it
    from turnout.worker.workflows.instance import Instance


class Updates:
    """Begins the updates that reach an instance, and answers them."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def begin(self, given: Input, path: str) -> None:
        """Check the update; run its handler if it is accepted. Whatever its validator raises rejects it."""
        instance = self._instance
        handler = instance.workflow.updates.get(given.what)
        if handler is None:
            known = ", ".join(sorted(instance.workflow.updates)) or "none"
            self._fail(given, UpdateFailed(f"no update {given.what} in workflow {instance.facts.name}; known: {known}"))
            return
        if instance.object is None:
            self._fail(given, UpdateFailed(f"update {given.what}: the workflow's own arguments do not fit"))
            return
        try:
            args, kwargs = handler.codec.decode(given.body.text or "")
        except InvalidValue as error:
            self._fail(given, UpdateFailed(str(error)))
            return
        if not self._accepted(given, handler, args, kwargs):
            return
        instance.answer(Answer(given.id, AnswerState.accepted))
        instance.run_handler(handler.fn, args, kwargs, path, lambda task: self._done(given, handler, task))

    def _accepted(self, given: Input, handler: Update[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if handler.validate is None:
            return True
        instance = self._instance
        try:
            with looking(instance):
                handler.validate(instance.object, *args, **kwargs)
        except Overrun:
            raise
        except BaseException as error:  # whatever a validator raises rejects the update
            instance.answer(Answer(given.id, AnswerState.rejected, error=failure_of(error).error))
            return False
        return True

    def _fail(self, given: Input, error: BaseException) -> None:
        self._instance.answer(Answer(given.id, AnswerState.failed, error=failure_of(error).error))

    def _done(self, given: Input, handler: Update[..., Any], task: asyncio.Task[Any]) -> None:
        error: BaseException | None = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            try:
                text = handler.codec.encode_result(task.result())
            except InvalidValue as problem:
                error = problem
            else:
                self._instance.answer(
                    Answer(given.id, AnswerState.completed, result=Body(text=text, size=len(text.encode())))
                )
                return
        if is_fault(error, self._instance.workflow.settings.fail_on_names) or isinstance(error, InvalidValue):
            self._fail(given, error)
        else:
            self._instance.fault(error)
