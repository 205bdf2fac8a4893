"""The examples, as people run them: processes of their own, looked at from outside.

That the demo keeps its promises it checks itself: `make demo`, which .ci/run calls, fails where it doesn't.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import alive, children, gone, named
from tests.support.waiting import until
from turnout.testing import NatsServer

EXAMPLES = Path(__file__).parents[2] / "examples"


def start(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, EXAMPLES / script, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_hello() -> None:
    """The smallest example greets."""
    with NatsServer() as server:
        said, _ = start("hello.py", NATS_URL=server.url).communicate(timeout=30)
    assert said == "Hello, turnout!\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_the_demo_cleans_up_when_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C in the middle ends its server, its workers and their ffmpeg, and removes its files."""
    demo = start("demo.py", TMPDIR=str(tmp_path))
    everything: set[int] = set()

    async def converting() -> bool:
        everything.update(children(demo.pid))
        return len(named("turnout", demo.pid)) == 2 and len(named("ffmpeg", demo.pid)) == 2

    try:
        await until(converting, within_s=60)
        demo.send_signal(number)
        said, _ = demo.communicate(timeout=30)
    finally:
        demo.kill()
    assert demo.returncode == 130, said
    assert "Traceback" not in said
    for process in everything:
        await gone(process)
    assert not any(map(alive, everything))
    assert list(tmp_path.iterdir()) == []
