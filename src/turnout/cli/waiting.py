"""Waiting for something that goes on without whoever waits: Ctrl-C ends the wait, and says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs

from turnout.cli import output, pasting


@attrs.define
class Wait:
    """What a verb waits for. `said` on Ctrl-C; nothing while it is not there yet, or once its end is known."""

    said: str = ""

    def begins(self, kind: str, id_: str) -> None:
        """From now on it is a job, workflow or group that is waited for."""
        self.said = f"{kind} {id_} goes on; to stop it: {pasting.command(f'{kind} cancel {id_}')}"

    def ends(self) -> None:
        """Nothing is waited for any more: it has ended, or the patience has."""
        self.said = ""


@contextlib.contextmanager
def interruptible() -> Iterator[Wait]:
    """Around all of a verb, its connection too: a server that is away or slow to answer is waited for as well."""
    wait = Wait()
    try:
        yield wait
    except KeyboardInterrupt:
        if wait.said:
            output.note(wait.said)
        raise
