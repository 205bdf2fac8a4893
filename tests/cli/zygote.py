"""Runs `turnout` in forks of a process that has imported it: processes like any other, half a second sooner.

It reads a request per line, a JSON object with arguments, cwd, env and the paths of stdin, stdout and stderr, and
answers each with a line: the exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any

PRELOADED = ("jobs", "bulk", "submitting", "catalog", "doctor", "topology", "session")


def serve() -> None:
    for name in PRELOADED:
        importlib.import_module(f"turnout.cli.{name}")
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            become(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def become(request: dict[str, Any]) -> None:
    """Be the process that was asked for, to the end."""
    signal.alarm(60)  # ends a fork that hangs, and its test with it
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(os.open(request[name], os.O_RDONLY if number == 0 else os.O_WRONLY), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    from turnout.cli.main import main

    sys.argv = ["turnout", *request["arguments"]]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
