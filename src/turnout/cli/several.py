"""Acting on several jobs or workflows, of which some can't be acted on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from turnout.cli.exits import complain
from turnout.cli.session import Session
from turnout.errors import TurnoutError

H = TypeVar("H")


async def each(s: Session, handles: Sequence[H], act: Callable[[H], Awaitable[Any]], line: Callable[[Any], str]) -> int:
    """Act on each; one that can't be acted on is complained of, and does not keep the others.

    What was done is printed: an array as JSON where several were named. The exit code is that of the first complaint.
    """
    done: list[Any] = []
    codes: list[int] = []
    for handle in handles:
        try:
            done.append(await act(handle))
        except TurnoutError as error:
            codes.append(complain(error))
    if done or len(handles) > 1:
        s.show(done if len(handles) > 1 else done[0], lambda: [line(one) for one in done])
    return codes[0] if codes else 0
