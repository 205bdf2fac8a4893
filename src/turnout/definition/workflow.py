"""`@workflow`: a coroutine function, or a class with one, that runs durably, and can still be called.

Like an `Activity`, a `Workflow` is a definition and not a connection: it can be defined at import, shared by clients
and workers, and used in any thread. Called within a workflow it is a durable child, anywhere else the plain function.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, Unpack, overload

import attrs

from turnout.core.spec import valid_name
from turnout.definition.ambient import ambient
from turnout.definition.codec import Codec, encode_json
from turnout.definition.handlers import (
    Handler,
    NamedUpdate,
    Query,
    QueryDecorator,
    Signal,
    SignalDecorator,
    Update,
    UpdateDecorator,
    why_not_taken,
)
from turnout.definition.workflow_options import (
    StartKeywords,
    StartOptions,
    WorkflowKeywords,
    WorkflowOptions,
    workflow_options,
)
from turnout.errors import DefinitionError, InvalidValue

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


@attrs.frozen
class First:
    """A signal or update that rides along with a start: both are stored, or none. `decode` is of an update's result."""

    kind: str
    name: str
    text: str
    id: str | None = None
    decode: Callable[[str], Any] | None = None


class WorkflowRef:
    """What names a workflow for a start: `name`, and in `start` what `.options(...)` asked for."""

    def __init__(self, name: str, start: StartOptions | None = None) -> None:
        self.name = valid_name(name, "a workflow's name")
        self.start = start or StartOptions()
        self.first: First | None = None

    def options(self, **options: Unpack[StartKeywords]) -> Self:
        """The same workflow with these options for one start; later calls add to earlier ones. See `StartOptions`.

        >>> workflow_ref("order").options(id="o-17", delay=60).start.delay
        60.0
        """
        changed = self._copy()
        changed.start = self.start.merged(options)
        return changed

    @overload
    def with_signal(self, signal: Signal[Q, Any], /, *args: Q.args, **kwargs: Q.kwargs) -> Self: ...
    @overload
    def with_signal(self, signal: str, /, *args: Any, **kwargs: Any) -> Self: ...
    def with_signal(self, signal: str | Signal[Any, Any], /, *args: Any, **kwargs: Any) -> Self:
        """The same workflow with a first signal: the start and the signal are stored both, or none."""
        return self.with_first(First("signal", *named_call(Signal, signal, args, kwargs)))

    @overload
    def with_update(self, update: Update[Q, Any], /, *args: Q.args, **kwargs: Q.kwargs) -> Self: ...
    @overload
    def with_update(self, update: str | NamedUpdate, /, *args: Any, **kwargs: Any) -> Self: ...
    def with_update(self, update: str | NamedUpdate | Update[Any, Any], /, *args: Any, **kwargs: Any) -> Self:
        """The same workflow with a first update: its answer is `await handle.first_update.result()`."""
        name, text = named_call(Update, update, args, kwargs)
        typed = update if isinstance(update, Update) else None
        decode = typed.codec.decode_result if typed is not None else None
        chosen = None if isinstance(update, str) else update.id
        return self.with_first(First("update", name, text, chosen, decode))

    def with_first(self, first: First) -> Self:
        """The same workflow with this input to ride along."""
        changed = self._copy()
        changed.first = first
        return changed

    def _copy(self) -> Self:
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__)
        return changed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class NamedWorkflow(WorkflowRef):
    """A workflow by its name alone, untyped: what a program starts whose code lives elsewhere."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Within a workflow: a durable child, with this payload."""
        port = ambient()
        if port is None:
            raise DefinitionError(f"workflow {self.name} is known by its name alone here: start it with a client")
        return port.call_workflow(self, args, kwargs)


def workflow_ref(name: str) -> NamedWorkflow:
    """A workflow by name, for `client.start(workflow_ref("order").options(...), payload)`.

    Within a workflow it is called, and becomes a child: `await workflow_ref("order")(payload)`.
    """
    return NamedWorkflow(name)


def as_workflow(given: object) -> WorkflowRef:
    """A workflow, by itself or by its name. InvalidValue for anything else."""
    if isinstance(given, str):
        return workflow_ref(given)
    if isinstance(given, WorkflowRef):
        return given
    raise InvalidValue(
        f"{given!r} is no workflow: give one with @workflow, of a class its run (Cart.run), or the name of one; "
        "an activity is submitted"
    )


class Workflow(WorkflowRef, Generic[P, R_co]):
    """A workflow with what a worker needs to know of it. `P` and `R_co`: the parameters of `run` and its result.

    `fn`: the coroutine function, a method where `cls` is the workflow's class. `settings`: its options. `codec`: its
    payloads. `signals`, `queries` and `updates` by their names.
    """

    def __init__(
        self,
        fn: Callable[..., Coroutine[Any, Any, R_co]],
        settings: WorkflowOptions,
        codec: Codec,
        cls: type | None = None,
    ) -> None:
        super().__init__(settings.name)
        self.fn = fn
        self.settings = settings
        self.codec = codec
        self.cls = cls
        handlers = _handlers_of(cls) if cls is not None else []
        self.signals = {each.name: each for each in handlers if isinstance(each, Signal)}
        self.queries = {each.name: each for each in handlers if isinstance(each, Query)}
        self.updates = {each.name: each for each in handlers if isinstance(each, Update)}
        functools.update_wrapper(self, fn)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Within a workflow a durable child; anywhere else the function itself, in this process."""
        port = ambient()
        if port is not None:
            return port.call_workflow(self, args, kwargs)
        return self.plain(args, kwargs)

    def plain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, R_co]:
        """The code itself, on whatever loop runs."""
        if self.cls is None:
            return self.fn(*args, **kwargs)
        return self.fn(self.make(args, kwargs), *args, **kwargs)

    def make(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The object of a class workflow, made of `run`'s arguments where its `__init__` takes any."""
        assert self.cls is not None
        return self.cls(*args, **kwargs) if self._takes_arguments else self.cls()

    @functools.cached_property
    def _takes_arguments(self) -> bool:
        assert self.cls is not None
        return len(inspect.signature(self.cls).parameters) > 0

    def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """The payload of a start with these arguments, as JSON text.

        InvalidArguments (a TypeError) when they don't fit, InvalidValue (a ValueError) when JSON can't carry them.
        """
        return self.codec.encode_arguments(args, kwargs)

    @property
    def doc(self) -> str:
        """The docstring of the function or the class, cleaned; "" without one."""
        return inspect.getdoc(self.fn if self.cls is None else self.cls) or ""


class RunMethod(Generic[P, R_co]):
    """The `run` of a workflow class: on the class the `Workflow`, on an instance the plain method."""

    def __init__(self, fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R_co]]) -> None:
        _check_coroutine(fn)
        self.fn = fn
        self.workflow: Workflow[P, R_co] | None = None

    @overload
    def __get__(self, instance: None, owner: type) -> Workflow[P, R_co]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, Coroutine[Any, Any, R_co]]: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is not None:
            return self.fn.__get__(instance, owner)
        if self.workflow is None or self.workflow.cls is not owner:
            raise DefinitionError(f"{owner.__qualname__} is not decorated with @workflow")
        return self.workflow


class WorkflowDecorator(Protocol):
    """What `@workflow(...)` returns."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def __call__(self, fn: type[T], /) -> type[T]: ...


class _WorkflowNamespace:
    """`@workflow` and what belongs to it: `@workflow.run`, `.signal`, `.query`, `.update`."""

    signal = SignalDecorator()
    query = QueryDecorator()
    update = UpdateDecorator()

    def run(self, fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> RunMethod[P, R]:
        """Decorate the coroutine method of a workflow class that is the workflow."""
        return RunMethod(fn)

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def __call__(self, fn: type[T], /) -> type[T]: ...
    @overload
    def __call__(self, /, **options: Unpack[WorkflowKeywords]) -> WorkflowDecorator: ...
    def __call__(self, fn: Any = None, /, **options: Unpack[WorkflowKeywords]) -> Any:
        """Make a workflow of a coroutine function or of a class: bare, or with options (`WorkflowOptions` lists them).

        The name defaults to that of the function or class. Errors are raised here: DefinitionError for what cannot be a
        workflow, InvalidValue for a bad value.
        """
        if fn is None:
            return functools.partial(_defined, options=options, depth=2)
        return _defined(fn, options, depth=3)


workflow = _WorkflowNamespace()


def workflow_of(defined: object) -> Workflow[..., Any] | None:
    """The workflow that a decorated function or class is; None when it is none."""
    if isinstance(defined, Workflow):
        return defined
    if isinstance(defined, type):
        for value in vars(defined).values():
            if isinstance(value, RunMethod) and value.workflow is not None and value.workflow.cls is defined:
                return value.workflow
    return None


def _defined(fn: Any, options: Mapping[str, Any], depth: int) -> Any:
    localns = _locals_of_caller(fn, depth)
    if isinstance(fn, type):
        return _class_workflow(fn, options, localns)
    if isinstance(fn, Workflow):
        raise DefinitionError(f"{fn.name} is a workflow already")
    _check_coroutine(fn)
    settings = workflow_options(fn.__name__, options)
    return Workflow(fn, settings, Codec(fn, settings.name, localns))


def _class_workflow(cls: type, options: Mapping[str, Any], localns: dict[str, Any] | None) -> type:
    runs = {name: value for name, value in _members(cls).items() if isinstance(value, RunMethod)}
    if len(runs) != 1:
        raise DefinitionError(f"class {cls.__qualname__} needs one method with @workflow.run, it has {len(runs)}")
    ((name, method),) = runs.items()
    settings = workflow_options(cls.__name__, options)
    codec = Codec(method.fn, settings.name, localns, method=True)
    _check_init(cls, codec.signature)
    own: RunMethod[..., Any] = RunMethod(method.fn)
    setattr(cls, name, own)
    own.workflow = Workflow(method.fn, settings, codec, cls)
    return cls


def _check_init(cls: type, run: inspect.Signature) -> None:
    """DefinitionError for an `__init__` that can't take what `run` is given."""
    init = inspect.signature(cls)
    if not init.parameters:
        return
    misfit = why_not_taken(init, run)
    if misfit is not None:
        raise DefinitionError(
            f"the __init__ of class {cls.__qualname__} must take what its run takes, or nothing: {misfit}"
        )


def _members(cls: type) -> dict[str, Any]:
    """The attributes of a class and its bases, unbound."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found |= vars(base)
    return found


def _handlers_of(cls: type) -> list[Handler[..., Any]]:
    handlers = [value for value in _members(cls).values() if isinstance(value, Handler)]
    seen: set[tuple[str, str]] = set()
    for each in handlers:
        if (each.kind, each.name) in seen:
            raise DefinitionError(f"class {cls.__qualname__} has two {each.kind} handlers called {each.name}")
        seen.add((each.kind, each.name))
    return handlers


def _check_coroutine(fn: Any) -> None:
    if not inspect.isfunction(fn) or not inspect.iscoroutinefunction(fn):
        what = getattr(fn, "__qualname__", repr(fn))
        raise DefinitionError(f"a workflow is an async def function, or a class with an async run; {what} is neither")


def named_call(
    kind: type[Handler[..., Any]], handler: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, str]:
    """The name of a handler of this kind and the payload of a call, by whatever names the handler."""
    name = handler_name(kind, handler)
    return name, handler.encode(args, kwargs) if isinstance(handler, Handler) else untyped_payload(name, args, kwargs)


def handler_name(kind: type[Handler[..., Any]], handler: object) -> str:
    """The name of a handler of this kind. InvalidValue for what is none."""
    if isinstance(handler, kind) or (isinstance(handler, NamedUpdate) and kind is Update):
        return handler.name
    if not isinstance(handler, str):
        raise InvalidValue(f"{handler!r} is no {kind.kind}: give a method with @workflow.{kind.kind}, or its name")
    return valid_name(handler, f"a {kind.kind}'s name")


def untyped_payload(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The payload of what is known by its name alone: one positional payload, or keywords as its object."""
    if len(args) > 1 or (args and kwargs):
        raise DefinitionError(f"{name} by name takes one payload, or keyword arguments; not both")
    return encode_json(args[0] if args else dict(kwargs), "payload")


def _locals_of_caller(fn: Any, depth: int) -> dict[str, Any] | None:
    """The local names around a definition that is not at the top of its module."""
    if "<locals>" not in getattr(fn, "__qualname__", ""):
        return None
    return dict(sys._getframe(depth).f_locals)
