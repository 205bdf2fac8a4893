"""`@activity`: a function that can be submitted as a durable job, and still be called.

An `Activity` is a definition, not a connection: it holds nothing bound to an event loop, so it can be defined at
import, shared by clients and workers, and used in any thread.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar, Unpack, overload

import attrs

from turnout.core.limits import LimitKey
from turnout.core.record import Policy
from turnout.core.spec import DEFAULT_PRIORITY, NO_OPTIONS, SubmitOptions, valid_name
from turnout.definition.ambient import ambient, needed
from turnout.definition.codec import Codec
from turnout.definition.fairness import Fairness
from turnout.definition.limits import keys_of
from turnout.definition.options import (
    ActivityKeywords,
    ActivityOptions,
    Submission,
    SubmissionKeywords,
    activity_options,
)
from turnout.definition.paths import names_in_schema
from turnout.definition.plain_json import PayloadProblem
from turnout.definition.templates import check_fields
from turnout.errors import DefinitionError, InvalidArguments, InvalidValue, NotDurable

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class ActivityRef:
    """What names an activity for a submission: `name`, and in `submission` what `.options(...)` asked for."""

    def __init__(self, name: str, submission: Submission | None = None) -> None:
        self.name = valid_name(name, "an activity's name")
        self.submission = submission or Submission()

    def options(self, **options: Unpack[SubmissionKeywords]) -> Self:
        """The same activity with these options for one submission; later calls add to earlier ones.

        `id`, `if_exists`, `delay` or `at`, `timeout`, `retry`, `labels`, `debounce`, ...: see `Submission`. A
        DefinitionError (a TypeError) names an unknown option, an InvalidValue (a ValueError) one with a bad value.

        >>> activity_ref("convert_video").options(id="a", delay=60).submission.delay
        60.0
        """
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__)
        changed.__dict__.pop("recorded", None)
        changed.submission = self.submission.merged(options)
        return changed

    @property
    def priority(self) -> int | None:
        """What priority its jobs are asked to have; None where nobody has said."""
        return self.submission.priority

    @functools.cached_property
    def recorded(self) -> SubmitOptions:
        """What travels with its jobs and is kept in their records."""
        asked = self.submission.recorded.prioritized(self.priority or DEFAULT_PRIORITY)
        return NO_OPTIONS if asked == NO_OPTIONS else asked

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class NamedActivity(ActivityRef):
    """An activity by its name alone, untyped: what a program submits whose code lives elsewhere.

    A class of its own beside `Activity`, so that a typed activity with wrong arguments is not taken for an untyped one.
    """

    def __call__(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Within a workflow: a durable job with this payload, and its result, as `execute` gives it."""
        port = ambient()
        if port is None:
            raise DefinitionError(f"activity {self.name} is known by its name alone here: submit it with a client")
        return port.call_activity(self, args, kwargs)

    def execute(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Within a workflow: a durable job with this payload, and its result. NotInWorkflow anywhere else."""
        return needed(f"{self.name}.execute()").call_activity(self, args, kwargs)


def activity_ref(name: str) -> NamedActivity:
    """An activity by name, for `client.submit(activity_ref("convert_video").options(...), payload)`.

    Within a workflow it is called: `await activity_ref("convert_video")(payload)`.
    """
    return NamedActivity(name)


def as_activity(given: object) -> ActivityRef:
    """An activity, by itself or by its name. InvalidValue for anything else."""
    if isinstance(given, str):
        return activity_ref(given)
    if isinstance(given, ActivityRef):
        return given
    raise InvalidValue(
        f"{given!r} is no activity: give a function with @activity, or the name of one; a workflow is started"
    )


class Activity(ActivityRef, Generic[P, R_co]):
    """A function with what a worker needs to know of it. Calling it calls the function.

    `P` and `R_co` are the function's own parameters and return type: for an `async def f() -> int` the latter is
    `Coroutine[Any, Any, int]`, and who submits takes the `int` out of it.

    `fn`: the function. `is_async`: whether a call returns an awaitable. `settings`: its options. `codec`: its payloads.
    """

    def __init__(self, fn: Callable[P, R_co], settings: ActivityOptions, codec: Codec, *, is_async: bool) -> None:
        super().__init__(settings.name, Submission(requires=settings.requires))
        self.fn = fn
        self.settings = settings
        self.limits = settings.all_limits
        self.requires = settings.requires or {}
        self.codec = codec
        self.is_async = is_async
        functools.update_wrapper(self, fn)
        if is_async:
            self._pass_for_async(fn)

    @property
    def priority(self) -> int | None:
        return self.submission.priority or self.settings.priority

    def _pass_for_async(self, fn: Any) -> None:
        """Let frameworks that ask whether it is a coroutine function be told the truth."""
        mark: Any = getattr(inspect, "markcoroutinefunction", None)
        if mark is not None:
            mark(self)
            return
        # Python 3.11 looks whether it has what a function has.
        for name in ("__code__", "__defaults__", "__kwdefaults__"):
            if hasattr(fn, name):
                self.__dict__[name] = getattr(fn, name)

    def __reduce__(self) -> Any:
        """Pickled by name, as functions are; what `.options(...)` asked for goes along."""
        name = self.fn.__qualname__
        if self.submission == Submission(requires=self.settings.requires):
            return name
        return _found_again, (self.fn.__module__, name, self.submission)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Within a workflow a durable job; anywhere else the function itself, in this process and at once.

        A `def` activity can't be called so within a workflow, which would wait for it: `await it.execute(...)`.
        """
        port = ambient()
        if port is None:
            return self.fn(*args, **kwargs)
        if not self.is_async:
            raise NotDurable(f"activity {self.name} is a plain def: within a workflow, await {self.name}.execute(...)")
        called: Any = port.call_activity(self, args, kwargs)
        durable: R_co = called
        return durable

    @overload
    def execute(
        self: Activity[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def execute(self: Activity[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def execute(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Within a workflow: a durable job, and its result. NotInWorkflow anywhere else."""
        return needed(f"{self.name}.execute()").call_activity(self, args, kwargs)

    def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """The payload of a submission with these arguments, as JSON text.

        InvalidArguments (a TypeError) when they don't fit, InvalidValue (a ValueError) when JSON can't carry them.
        """
        return self.codec.encode_arguments(args, kwargs)

    @functools.cached_property
    def rules(self) -> Policy:
        """The part of its options that decides a job's life."""
        return self.settings.rules

    @functools.cached_property
    def fixed_limit_keys(self) -> tuple[LimitKey, ...] | None:
        """The limits that apply to each of its jobs, whatever the payload; None if that tells."""
        return None if any(limit.fields for limit in self.limits) else keys_of(self.limits, {})

    def limit_keys(self, text: str | None) -> tuple[LimitKey, ...]:
        """The limits that apply to the job of this payload; none to one that the function would refuse."""
        if self.fixed_limit_keys is not None:
            return self.fixed_limit_keys
        try:
            return keys_of(self.limits, self.codec.values(text or ""))
        except (PayloadProblem, InvalidArguments):
            return ()

    @property
    def fairness(self) -> Fairness | None:
        """By what its jobs have their turns; None: they start in the order in which they came."""
        if self.settings.fairness is None:
            return None
        return Fairness.of(self.settings.fairness, self.codec.payload_schema())

    @property
    def doc(self) -> str:
        """The function's docstring, cleaned; "" without one."""
        return inspect.getdoc(self.fn) or ""


def _found_again(module: str, qualname: str, submission: Submission) -> Any:
    """The activity of this place, with the options of one submission."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    again = object.__new__(type(found))
    again.__dict__.update(found.__dict__)
    again.__dict__.pop("recorded", None)
    again.submission = submission
    return again


def refuse_local(ref: ActivityRef) -> None:
    """InvalidValue for a local activity where there is no workflow that it could be run by."""
    if ref.submission.local:
        raise InvalidValue(
            f"activity {ref.name}: local=True is for what a workflow calls: leave it out of what is submitted"
        )


def refuse_as_local(ref: ActivityRef) -> None:
    """InvalidValue for an activity that is defined with what nobody heeds of a local one."""
    if isinstance(ref, Activity) and (ref.limits or ref.settings.requires):
        raise InvalidValue(
            f"activity {ref.name} has limits, or requires properties of its node, and local=True heeds neither: "
            f"leave local out, or call an activity without them"
        )


class ActivityDecorator(Protocol):
    """What `@activity(...)` returns."""

    def __call__(self, fn: Callable[P, R], /) -> Activity[P, R]: ...


@overload
def activity(fn: Callable[P, R], /) -> Activity[P, R]: ...
@overload
def activity(**options: Unpack[ActivityKeywords]) -> ActivityDecorator: ...
def activity(fn: Callable[..., Any] | None = None, /, **options: Unpack[ActivityKeywords]) -> Any:
    """Make an activity of a function: bare, or with options (`ActivityOptions` lists them).

    An `async def` runs on the worker's event loop; a `def` runs in a thread, or with `run_in="process"` in a child
    process. The payload is an object of the parameters, or of the one parameter that is a pydantic model, an attrs
    class or a dataclass. Errors are raised here: DefinitionError for a function or option that cannot be, InvalidValue
    for an option's bad value.

    >>> @activity(timeout=900, concurrency=10)
    ... async def convert_video(path: str, format: str = "webm") -> str: ...
    >>> convert_video.name, convert_video.bind("a.mp4")
    ('convert_video', '{"path":"a.mp4"}')
    """
    if fn is not None:
        if options:
            raise DefinitionError("use @activity or @activity(name=..., ...), not a function and options in one call")
        return _define(fn, ActivityKeywords(), _locals_of_caller(fn))
    activity_options("checked_now", options)  # An error belongs to the line with the options, not to the next one.

    def decorate(fn: Callable[P, R], /) -> Activity[P, R]:
        return _define(fn, options, _locals_of_caller(fn))

    return decorate


def _define(fn: Callable[P, R], options: ActivityKeywords, localns: dict[str, Any] | None) -> Activity[P, R]:
    if isinstance(fn, ActivityRef):
        raise DefinitionError(f"{fn!r} is an activity already")
    if isinstance(fn, staticmethod):
        fn = fn.__func__
    if isinstance(fn, classmethod) or not inspect.isroutine(fn):
        raise DefinitionError(f"@activity takes a function, and options by name; not {fn!r}")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DefinitionError(f"activity {fn.__name__}: a generator cannot be a job; return a list, or report progress")
    _refuse_method(fn)
    is_async = inspect.iscoroutinefunction(fn)
    settings = activity_options(fn.__name__, options)
    if is_async and settings.run_in is not None:
        raise DefinitionError(
            f"activity {settings.name}: run_in is for sync functions; this one runs on the event loop"
        )
    if not is_async and settings.run_in is None:
        settings = attrs.evolve(settings, run_in="thread")
    codec = Codec(fn, settings.name, localns)
    if any(limit.fields for limit in settings.limits):
        for limit in settings.limits:
            check_fields(settings.name, "limit", limit.name, codec.names_at)
    if settings.fairness is not None:
        # It is read where there is no code, in the payload as it was sent: a model may call a field otherwise there.
        sent = functools.partial(names_in_schema, codec.payload_schema())
        check_fields(settings.name, "fairness", settings.fairness, sent)
    return Activity(fn, settings, codec, is_async=is_async)


def _refuse_method(fn: Callable[..., Any]) -> None:
    """A method that is decorated in its class has no object when it runs as a job; one that is bound has."""
    try:
        first = next(iter(inspect.signature(fn).parameters), "")
    except ValueError as error:
        raise DefinitionError(f"{fn!r} does not say what its parameters are: wrap it in a function") from error
    inside_class = fn.__qualname__.rpartition(".")[0].rpartition("<locals>")[2]
    if inside_class and first in ("self", "cls"):
        raise DefinitionError(
            f"{fn.__qualname__} is a method, and a job has no object to call it on: decorate a function or a "
            f"@staticmethod, or the method of one object: activity(obj.{fn.__name__})"
        )


def _locals_of_caller(fn: Any) -> dict[str, Any] | None:
    """The local names around a function that is not at the top of its module: its string annotations may mean them."""
    strings = any(isinstance(annotation, str) for annotation in getattr(fn, "__annotations__", {}).values())
    if not strings or "<locals>" not in getattr(fn, "__qualname__", ""):
        return None
    return dict(sys._getframe(2).f_locals)
