"""`turnout dev`: a server and a worker in a folder."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import MODULES, Cli, first_document
from tests.support.processes import alive, named
from turnout.testing.server import HOST


@pytest.fixture
def here(tmp_path: Path) -> Cli:
    """In an empty folder but for the module shop, with no server yet."""
    (tmp_path / "shop.py").write_text((MODULES / "shop.py").read_text())
    return Cli("nats://127.0.0.1:1", "turnout", cwd=tmp_path)


def test_it_serves_and_keeps_what_was_stored(here: Cli) -> None:
    """dev prints its server, runs jobs, stops in order with its server, and has its jobs back the next time.

    Nobody else on the machine can read them, also where an older version had made the folder.
    """
    (here.cwd / ".turnout").mkdir(mode=0o755)
    with here.process("dev", "shop", "-o", "json") as dev:
        facts = first_document(dev)
        assert "add" in facts["activities"]
        at = ["--server", facts["url"]]
        assert here("job", "submit", "add", '{"a": 5}', "--id", "kept", "--wait", *at).stdout == "7\n"
        assert "runs already in" in here.error("dev", code=1)
        (server,) = named("nats-server", dev.pid)
        dev.send_signal(signal.SIGINT)
        assert dev.wait(30) == 0
        assert not alive(server)
    assert (here.cwd / ".turnout" / ".gitignore").read_text() == "*\n"
    assert stat.S_IMODE((here.cwd / ".turnout").stat().st_mode) == 0o700
    with here.process("dev", "-o", "json") as dev:
        at = ["--server", first_document(dev)["url"]]
        assert here.json("job", "show", "kept", *at)["result"] == 7
        dev.send_signal(signal.SIGTERM)
        assert dev.wait(30) == 0


def test_it_takes_another_port_and_says_how_to_submit(here: Cli) -> None:
    """Where port 4222 is taken another is used, and the commands that it shows name it and work."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((HOST, 4222))
            taken.listen()
        except OSError:
            pass  # somebody else has it: just as well
        with here.process("dev", "-n", "tinker", "shop:add") as dev:
            shown = ""
            while "Ctrl-C" not in shown:
                shown += dev.stdout.readline()
            pasted = next(line for line in shown.splitlines() if "job submit add" in line)
            _, *arguments = shlex.split(pasted)
            assert here(*arguments, env={"TURNOUT_NAMESPACE": "elsewhere"}).stdout.endswith("3\n")
    assert "port 4222 is taken" in shown
    line = next(line for line in shown.splitlines() if "job submit add" in line)
    assert "--server nats://127.0.0.1:" in line
    assert json.loads(line.split("'")[1]) == {"a": 1}
    assert "nats --server nats://127.0.0.1:" in shown
    assert "pub tinker.jobs.add" in shown


def test_a_module_that_cannot_be_imported_starts_nothing(here: Cli) -> None:
    """An import error is exit code 2, and no server is started for it."""
    assert "no module named" in here.error("dev", "nosuchmodule", code=2)
    assert not (here.cwd / ".turnout").exists()
    assert "starts a server of its own" in here.error("dev", "--server", "nats://127.0.0.1:4222", code=2)
