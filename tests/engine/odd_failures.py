"""Code that fails oddly, in each of the three places where code runs. A child process imports this module."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from pydantic import BaseModel

from turnout import Fatal, RetryLater, RetryPolicy, activity

SECRET = "tr0ub4dor"
ONCE = RetryPolicy.none()


class NoText(Exception):
    """Its text can't be told."""

    def __str__(self) -> str:
        raise RuntimeError("the text of this error is broken")

    __repr__ = __str__


class Picky(Exception):
    """Can't be pickled, nor made again from its arguments."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.lock = asyncio.Lock
        self.unpicklable = lambda: self


class OwnBase(BaseException):
    """No Exception."""


class Card(BaseModel):
    number: int


class Broken(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in {"__doc__", "__wrapped__"}:
            raise RuntimeError(name)
        return super().__getattribute__(name)


class Meta(Exception, metaclass=Broken):
    pass


KINDS = {
    "stop": ("StopIteration", "2"),
    "stop_async": ("StopAsyncIteration", "over"),
    "interrupt": ("CodeExit", "the code raised KeyboardInterrupt"),
    "exit": ("CodeExit", "the code called sys.exit(3)"),
    "cancelled": ("CancelledError", "the code was cancelled, and nobody had asked for it"),
    "generator_exit": ("GeneratorExit", "out"),
    "own_base": ("OwnBase", "mine"),
    "no_text": ("NoText", "(its text can't be told: RuntimeError)"),
    "picky": ("Picky", "7: the odd one"),
    "meta": ("Meta", "odd"),
    "group": ("ExceptionGroup", "several (2 sub-exceptions)"),
    "chain": ("ValueError", "a"),
    "long": ("ValueError", "€" * 4000),
    "surrogate": ("FileNotFoundError", "[Errno 2] no such file: 'caf\\udce9.txt'"),
    "recursion": ("RecursionError", None),
    "local": ("fail.<locals>.Inner", "of a function"),
    "secret": ("ValidationError", None),
    "fatal": ("Fatal", "no use"),
    "later": ("RetryLater", "busy"),
}
"""Of each kind of failure the type and the message that are recorded; None: Python's own words."""


def fail(kind: str) -> None:  # noqa: C901, PLR0912
    match kind:
        case "stop":
            raise StopIteration(2)
        case "stop_async":
            raise StopAsyncIteration("over")
        case "interrupt":
            raise KeyboardInterrupt
        case "exit":
            sys.exit(3)
        case "cancelled":
            raise asyncio.CancelledError
        case "generator_exit":
            raise GeneratorExit("out")
        case "own_base":
            raise OwnBase("mine")
        case "no_text":
            raise NoText
        case "picky":
            raise Picky(7, why="the odd one")
        case "meta":
            raise Meta("odd")
        case "group":
            raise ExceptionGroup("several", [ValueError("one"), ExceptionGroup("inner", [KeyError("two")])])
        case "chain":
            first, second = ValueError("a"), ValueError("b")
            first.__cause__, second.__cause__ = second, first
            raise first
        case "long":
            raise ValueError("€" * 3_000_000)
        case "surrogate":
            raise FileNotFoundError(2, "no such file", b"caf\xe9.txt".decode(errors="surrogateescape"))
        case "recursion":
            fail(kind)
        case "local":

            class Inner(Exception):
                pass

            raise Inner("of a function")
        case "secret":
            Card.model_validate({"number": SECRET})
        case "fatal":
            raise Fatal("no use")
        case "later":
            raise RetryLater(3, "busy")


@activity(retry=ONCE, run_in="process")
def in_process(kind: str) -> None:
    fail(kind)


@activity(retry=ONCE)
def in_thread(kind: str) -> None:
    fail(kind)


@activity(retry=ONCE)
async def on_the_loop(kind: str) -> None:
    fail(kind)
