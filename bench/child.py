"""One measurement in a process of its own: `python -m bench.child MODULE:FUNCTION '{"url": ...}'` prints its JSON.

Both sides of a comparison run this way, on the same kind of event loop, in a fresh interpreter.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Coroutine
from typing import Any

_LIMIT_S = 600


def run_on_loop(main: Coroutine[Any, Any, Any]) -> Any:
    """Run on uvloop where it is installed."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


class Child:
    """A measurement that runs."""

    def __init__(self, what: str, **arguments: Any) -> None:
        command = [sys.executable, "-m", "bench.child", what, json.dumps(arguments)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._what = what

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, line: str) -> None:
        """Wait until it prints this line."""
        assert self._process.stdout is not None
        while (found := self._process.stdout.readline()).strip() != line:
            if not found:
                raise RuntimeError(f"{self._what} ended before it said {line!r}")

    def result(self) -> dict[str, Any]:
        """Wait for its end; what it measured."""
        text, _ = self._process.communicate(timeout=_LIMIT_S)
        if self._process.returncode != 0:
            raise RuntimeError(f"{self._what} failed: see above")
        found: dict[str, Any] = json.loads(text.splitlines()[-1])
        return found


def measure(what: str, **arguments: Any) -> dict[str, Any]:
    """Run MODULE:FUNCTION in a child to its end and return what it measured."""
    return Child(what, **arguments).result()


def main() -> None:
    module, _, function = sys.argv[1].partition(":")
    measured = getattr(importlib.import_module(module), function)
    print(json.dumps(run_on_loop(measured(**json.loads(sys.argv[2])))))


if __name__ == "__main__":
    main()
