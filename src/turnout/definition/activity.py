"""`@activity`: a function that can be submitted as a durable job, and still be called.

An `Activity` is a definition, not a connection: it holds nothing bound to an event loop, so it can be defined at
import, shared by clients and workers, and used in any thread.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar, Unpack, overload

import attrs

from turnout.core.values import valid_name
from turnout.definition.codec import Codec
from turnout.definition.options import (
    ActivityKeywords,
    ActivityOptions,
    Submission,
    SubmissionKeywords,
    activity_options,
)
from turnout.errors import DefinitionError

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

        `id`, `if_exists`, `delay` or `at`, `timeout`, `retry`, `labels`, `expires_in`: see `Submission`. A
        DefinitionError (a TypeError) names an unknown option, an InvalidValue (a ValueError) one with a bad value.

        >>> activity_ref("convert_video").options(id="a", delay=60).submission.delay
        60.0
        """
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__)
        changed.submission = self.submission.merged(options)
        return changed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class NamedActivity(ActivityRef):
    """An activity by its name alone, untyped: what a program submits whose code lives elsewhere.

    A class of its own beside `Activity`, so that a typed activity with wrong arguments is not taken for an untyped one.
    """


def activity_ref(name: str) -> NamedActivity:
    """An activity by name, for `client.submit(activity_ref("convert_video").options(...), payload)`."""
    return NamedActivity(name)


class Activity(ActivityRef, Generic[P, R_co]):
    """A function with what a worker needs to know of it. Calling it calls the function.

    `P` and `R_co` are the function's own parameters and return type: for an `async def f() -> int` the latter is
    `Coroutine[Any, Any, int]`, and who submits takes the `int` out of it.

    `fn`: the function. `is_async`: whether a call returns an awaitable. `settings`: its options. `codec`: its payloads.
    """

    def __init__(self, fn: Callable[P, R_co], settings: ActivityOptions, codec: Codec, *, is_async: bool) -> None:
        super().__init__(settings.name)
        self.fn = fn
        self.settings = settings
        self.codec = codec
        self.is_async = is_async
        functools.update_wrapper(self, fn)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The function itself, in this process and at once: no job, no server."""
        return self.fn(*args, **kwargs)

    def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """The payload of a submission with these arguments, as JSON text.

        InvalidArguments (a TypeError) when they don't fit, InvalidValue (a ValueError) when JSON can't carry them.
        """
        return self.codec.encode_arguments(args, kwargs)

    @property
    def doc(self) -> str:
        """The function's docstring, cleaned; "" without one."""
        return inspect.getdoc(self.fn) or ""


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
    if not inspect.isroutine(fn):
        raise DefinitionError(f"@activity takes a function, and options by name; not {fn!r}")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DefinitionError(f"activity {fn.__name__}: a generator cannot be a job; return a list, or report progress")
    is_async = inspect.iscoroutinefunction(fn)
    settings = activity_options(fn.__name__, options)
    if is_async and settings.run_in is not None:
        raise DefinitionError(
            f"activity {settings.name}: run_in is for sync functions; this one runs on the event loop"
        )
    if not is_async and settings.run_in is None:
        settings = attrs.evolve(settings, run_in="thread")
    return Activity(fn, settings, Codec(fn, settings.name, localns), is_async=is_async)


def _locals_of_caller(fn: Any) -> dict[str, Any] | None:
    """The local names around a function that is not at the top of its module: its string annotations may mean them."""
    strings = any(isinstance(annotation, str) for annotation in getattr(fn, "__annotations__", {}).values())
    if not strings or "<locals>" not in getattr(fn, "__qualname__", ""):
        return None
    return dict(sys._getframe(2).f_locals)
