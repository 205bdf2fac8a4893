"""The methods of a workflow class that others reach: signals, queries and updates.

Each is a descriptor. On an instance it is the plain method; on the class (`Cart.add`) it names the handler, with its
types, for whoever calls it from outside: `handle.signal(Cart.add, item)`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from types import FrameType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from turnout.core.spec import valid_name
from turnout.definition.codec import Codec
from turnout.definition.options import chosen_id
from turnout.errors import DefinitionError, InvalidValue

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Handler(Generic[P, R_co]):
    """What a decorated method is. `name` is what callers outside of Python say."""

    kind = "handler"

    def __init__(self, fn: Callable[Concatenate[Any, P], R_co], name: str | None) -> None:
        if not inspect.isfunction(fn):
            raise DefinitionError(f"@workflow.{self.kind} is for methods of a workflow class, not {fn!r}")
        self.fn = fn
        self.name = valid_name(fn.__name__ if name is None else name, f"a {self.kind}'s name")
        self.is_async = inspect.iscoroutinefunction(fn)
        self.codec = Codec(fn, self.name, _locals_of_class(fn), method=True)
        self.__doc__ = fn.__doc__

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The payload of a call; InvalidArguments or InvalidValue before anything is sent."""
        return self.codec.encode_arguments(args, kwargs)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, R_co]: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        return self if instance is None else self.fn.__get__(instance, owner)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}>"


def why_not_taken(takes: inspect.Signature, given: inspect.Signature) -> TypeError | None:
    """Why what `takes` something can't be called as `given` is: with all arguments, and with those it needs."""
    positional = [each.name for each in given.parameters.values() if each.kind is each.POSITIONAL_ONLY]
    named = [each for each in given.parameters.values() if each.name not in positional]
    for some in (named, [each for each in named if each.default is each.empty]):
        try:
            takes.bind(*positional, **{each.name: None for each in some})
        except TypeError as error:
            return error
    return None


class Signal(Handler[P, R_co]):
    """A method that takes a signal."""

    kind = "signal"


class Query(Handler[P, R_co]):
    """A method that answers a question, and changes nothing."""

    kind = "query"

    def __init__(self, fn: Callable[Concatenate[Any, P], R_co], name: str | None) -> None:
        super().__init__(fn, name)
        if self.is_async:
            raise DefinitionError(f"query {self.name}: a query is a plain def, it can't wait for anything")


class Update(Handler[P, R_co]):
    """A method that changes something and answers. `validate` is what its validator decorates, or None."""

    kind = "update"

    def __init__(self, fn: Callable[Concatenate[Any, P], R_co], name: str | None) -> None:
        super().__init__(fn, name)
        self.validate: Callable[..., Any] | None = None
        self.id: str | None = None

    def validator(self, fn: Callable[Concatenate[Any, P], Any]) -> Callable[Concatenate[Any, P], Any]:
        """Decorate the method that is asked first: whatever it raises rejects the update, and nothing has changed."""
        if not inspect.isfunction(fn) or inspect.iscoroutinefunction(fn):
            raise DefinitionError(f"the validator of update {self.name} must be a plain def, not {fn!r}")
        own = inspect.signature(fn)
        taken = own.replace(parameters=list(own.parameters.values())[1:])
        misfit = why_not_taken(taken, self.codec.signature)
        if misfit is not None:
            raise DefinitionError(f"the validator of update {self.name} must take what the update takes: {misfit}")
        self.validate = fn
        return fn

    def options(self, *, id: str | None = None) -> Self:
        """The same update with an id for one call: sent twice, it is done once."""
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__)
        changed.id = chosen_id(id)
        if changed.id is None:
            raise InvalidValue("id must be a token, not None")
        return changed


class NamedUpdate:
    """An update by its name alone, untyped: what a program sends to a workflow whose code lives elsewhere."""

    def __init__(self, name: str, id: str | None = None) -> None:
        self.name = valid_name(name, "an update's name")
        self.id = id

    def options(self, *, id: str | None = None) -> NamedUpdate:
        """The same update with an id for one call: sent twice, it is done once."""
        chosen = chosen_id(id)
        if chosen is None:
            raise InvalidValue("id must be a token, not None")
        return NamedUpdate(self.name, chosen)

    def __repr__(self) -> str:
        return f"<update {self.name}>"


def update_ref(name: str) -> NamedUpdate:
    """An update by name: `await handle.update(update_ref("checkout").options(id="u1"), {"card": "4242"})`."""
    return NamedUpdate(name)


class UpdateDecorator:
    """`@workflow.update`, bare or with a name."""

    @overload
    def __call__(
        self, fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> Update[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Any, P], R], /) -> Update[P, R]: ...
    @overload
    def __call__(self, /, *, name: str) -> UpdateDecorator: ...
    def __call__(self, fn: Any = None, /, *, name: str | None = None) -> Any:
        if fn is None:
            return _Named(Update, name)
        return Update(fn, name)


class SignalDecorator:
    """`@workflow.signal`, bare or with a name."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Any, P], R], /) -> Signal[P, R]: ...
    @overload
    def __call__(self, /, *, name: str) -> SignalDecorator: ...
    def __call__(self, fn: Any = None, /, *, name: str | None = None) -> Any:
        return _Named(Signal, name) if fn is None else Signal(fn, name)


class QueryDecorator:
    """`@workflow.query`, bare or with a name."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Any, P], R], /) -> Query[P, R]: ...
    @overload
    def __call__(self, /, *, name: str) -> QueryDecorator: ...
    def __call__(self, fn: Any = None, /, *, name: str | None = None) -> Any:
        return _Named(Query, name) if fn is None else Query(fn, name)


class _Named:
    def __init__(self, kind: type[Handler[Any, Any]], name: str | None) -> None:
        self._kind = kind
        self._name = name

    def __call__(self, fn: Any, /) -> Any:
        return self._kind(fn, self._name)


def _locals_of_class(fn: Any) -> dict[str, Any] | None:
    """The local names around a class that is not at the top of its module: string annotations may mean them."""
    if "<locals>" not in getattr(fn, "__qualname__", ""):
        return None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals is not fn.__globals__:
        frame = frame.f_back
    found: dict[str, Any] = {}
    while frame is not None and frame.f_globals is fn.__globals__:
        found = {**frame.f_locals, **found}
        frame = frame.f_back
    return found
