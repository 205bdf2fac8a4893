"""`turnout worker`: what it loads, and how it stops."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, first_document
from tests.support.forks import Piped
from tests.support.processes import alive
from turnout.testing.server import NatsServer


def running(cli: Cli, activity: str) -> str:
    """Submit a job and return its id when it runs."""
    job_id = cli("job", "submit", activity).stdout.strip()
    cli.until(job_id, lambda info: info.state == "running")
    return job_id


def heard(worker: Piped, name: str) -> None:
    """Return when the worker has said that it heard the signal."""
    for line in worker.stderr:
        if name in line:
            return
    raise AssertionError(f"it ended without a word of {name}")


def test_it_works_on_every_activity_of_the_module(cli: Cli) -> None:
    """Every activity that is an attribute of the module is worked on; the first document tells the node."""
    with cli.process("worker", "shop", "-c", "3", "--name", "here", "-o", "json") as worker:
        node = first_document(worker)
        assert node["id"].startswith("here-")
        assert (node["slots"], node["namespace"]) == (3, cli.namespace)
        every = ["add", "assassin", "broken", "checkpointed", "later", "moody", "sign", "slow", "stubborn"]
        assert sorted(node["activities"]) == every
        found = cli.json("node", "ls")
        assert [(each["id"], each["slots"], each["pid"]) for each in found] == [(node["id"], 3, worker.pid)]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    assert cli.json("node", "ls") == []


@pytest.mark.parametrize(("target", "names"), [("shop:add", ["add"]), ("shop:both", ["add", "slow"])])
def test_it_works_on_what_the_attribute_names(cli: Cli, target: str, names: list[str]) -> None:
    """MODULE:ATTR is one activity, or a list of them."""
    with cli.process("worker", target, "-o", "json") as worker:
        assert sorted(first_document(worker)["activities"]) == names


def test_sigterm_lets_jobs_end(cli: Cli, tmp_path: Path) -> None:
    """After SIGTERM a running job may end within the grace period, in the same attempt; then the worker exits 0."""
    cli.cwd = tmp_path
    (tmp_path / "gated.py").write_text(
        "import asyncio, pathlib\nfrom turnout import activity\n\n@activity\nasync def gated() -> None:\n"
        "    while not pathlib.Path('open').exists():\n        await asyncio.sleep(0.05)\n"
    )
    with cli.process("worker", "gated", "-o", "json") as worker:
        first_document(worker)
        job_id = running(cli, "gated")
        worker.send_signal(signal.SIGTERM)
        heard(worker, "SIGTERM")
        (tmp_path / "open").touch()
        assert worker.wait(30) == 0
    info = cli.json("job", "show", job_id)
    assert (info["state"], info["attempt"], info["aborts"]) == ("completed", 1, 0)


def test_closed_standard_streams_cost_nothing(cli: Cli, tmp_path: Path) -> None:
    """A worker that is started with them closed works, its child processes too, and it stops in order."""
    cli.cwd = tmp_path
    (tmp_path / "quiet.py").write_text(
        "from turnout import activity\n\n@activity(run_in='process')\ndef child(n: int) -> int:\n    return n + 1\n"
    )
    command = f"exec {sys.executable} -m turnout worker quiet <&- >&- 2>&-"
    worker = subprocess.Popen(["sh", "-c", command], cwd=tmp_path, env=cli.env)
    try:
        assert cli.json("job", "submit", "child", '{"n": 1}', "--wait", "--timeout", "60")["result"] == 2
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()


def test_a_terminal_that_goes_away_stops_it_in_order(cli: Cli) -> None:
    """SIGHUP is an ordered stop: what runs is given back, and the worker exits 0."""
    with cli.process("worker", "shop", "--grace", "0", "-o", "json") as worker:
        first_document(worker)
        job_id = running(cli, "slow")
        worker.send_signal(signal.SIGHUP)
        assert worker.wait(30) == 0
    info = cli.json("job", "show", job_id)
    assert (info["state"], info["aborts"], info["losses"]) == ("queued", 1, 0)


@pytest.mark.parametrize("grace", ["0", "0.2"])
def test_after_the_grace_jobs_are_aborted(cli: Cli, grace: str) -> None:
    """What still runs after the grace period is aborted: back in the queue, its checkpoint kept, at no cost."""
    with cli.process("worker", "shop", "--grace", grace, "-o", "json") as worker:
        first_document(worker)
        job_id = cli("job", "submit", "checkpointed").stdout.strip()
        cli.until(job_id, lambda info: info.checkpoint is not None)
        asked_at = time.monotonic()
        worker.send_signal(signal.SIGINT)
        assert worker.wait(30) == 0
        assert time.monotonic() - asked_at >= float(grace)
    info = cli.json("job", "show", job_id)
    assert (info["state"], info["aborts"], info["failures"]) == ("queued", 1, 0)
    assert info["checkpoint"] == {"page": 7}


@pytest.mark.parametrize("signals", [["TERM", "TERM"], ["INT", "TERM"], ["TERM", "QUIT"], ["QUIT"]], ids="+".join)
def test_a_second_signal_aborts_now(cli: Cli, signals: list[str]) -> None:
    """The second signal, or SIGQUIT at any time, does not wait for the grace period; the exit code is 0."""
    with cli.process("worker", "shop", "--grace", "50", "-o", "json") as worker:
        first_document(worker)
        job_id = running(cli, "slow")
        for name in signals:
            worker.send_signal(signal.Signals[f"SIG{name}"])
            heard(worker, f"SIG{name}")
        assert worker.wait(30) == 0
    info = cli.json("job", "show", job_id)
    assert (info["state"], info["attempts"][0]["outcome"]) == ("queued", "aborted")


def test_a_thread_that_does_not_stop_is_left_behind(cli: Cli) -> None:
    """Sync code that ignores the order to stop does not keep the process; its job goes on elsewhere. Exit code 0."""
    with cli.process("worker", "shop", "--grace", "0", "-o", "json") as worker:
        first_document(worker)
        job_id = running(cli, "stubborn")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    assert cli.json("job", "show", job_id)["aborts"] == 1


def test_a_drained_worker_is_replaced_at_once(cli: Cli) -> None:
    """What one node aborts another goes on with, within seconds."""
    with cli.process("worker", "shop", "--grace", "0", "-o", "json") as first:
        first_document(first)
        job_id = running(cli, "slow")
        with cli.process("worker", "shop", "-o", "json") as second:
            node = first_document(second)
            first.send_signal(signal.SIGTERM)
            info = cli.until(job_id, lambda info: info.attempt == 2 and info.state == "running")
            assert info.node == node["id"]


def test_it_exits_1_when_it_has_died(cli: Cli) -> None:
    """A worker one of whose loops has ended, here the one that keeps the leases, says so and does not exit 0."""
    with cli.process("worker", "shop", "--grace", "0", "-o", "json") as worker:
        first_document(worker)
        cli("job", "submit", "assassin")
        _, told = worker.communicate(timeout=30)
    assert worker.returncode == 1
    assert "turnout: a loop of the worker has ended" in told
    assert "Traceback" not in told


def test_a_signal_while_it_starts_ends_it() -> None:
    """An order to stop that comes before the worker is ready is carried out, too: exit code 0."""
    with NatsServer() as frozen:
        slow = Cli(frozen.url, "frozen")
        frozen.pause()
        with slow.process("worker", "shop") as worker:
            while "starting" not in worker.stderr.readline():
                pass
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("nosuchmodule", r"no module named 'nosuchmodule' here"),
        ("shop.nothing", r"no module named 'shop\.nothing'|'shop' is not a package"),
        (
            "fails",
            r"RuntimeError: the database is not configured\n.*fails\.py\", line 3, in <module>\n.*raise RuntimeError",
        ),
        ("shop:nothing", r"has no attribute nothing: the activities and workflows in it are add, assassin"),
        ("shop:number", r"shop:number is no activity and no workflow: the activities and workflows in it are add"),
        ("json", r"json has no activities and no workflows: decorate"),
        ("shop.py", r"shop\.py is a file: .* perhaps shop"),
        ("twins", r"two activities are called twin"),
    ],
)
def test_a_module_that_cannot_be_served_is_2(cli: Cli, target: str, told: str) -> None:
    """What is wrong with the module is told, with the user's own line, before anything is connected."""
    done = cli_error(cli, "worker", target)
    assert re.search(told, done, re.S), done


def test_import_errors_show_the_users_line(cli: Cli, tmp_path: Path) -> None:
    """A syntax error, a missing dependency and an exit at import are told with file and line."""
    cli.cwd = tmp_path
    (tmp_path / "syntax.py").write_text("def f(:\n    pass\n")
    (tmp_path / "missing.py").write_text("\n\nimport nosuchpackage\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "badoption.py").write_text(
        "from turnout import activity\n\n@activity(timeout=-1)\nasync def f() -> None: ...\n"
    )
    assert re.search(r'syntax\.py", line 1\n.*SyntaxError', cli_error(cli, "worker", "syntax"), re.S)
    told = cli_error(cli, "worker", "missing")
    assert "No module named 'nosuchpackage'" in told
    assert 'missing.py", line 3' in told
    assert 'leaves.py", line 2' in cli_error(cli, "worker", "leaves")
    told = cli_error(cli, "worker", "badoption")
    assert "timeout must be at least 0" in told
    assert 'badoption.py", line 3' in told


@pytest.mark.parametrize("arguments", [["-c", "0"], ["--grace", "soon"], ["--name", "a.b"]], ids=str)
def test_a_bad_option_is_2(cli: Cli, arguments: list[str]) -> None:
    """Bad options of a worker are usage errors."""
    cli_error(cli, "worker", "shop", *arguments)


def test_its_log_lines_name_the_job(cli: Cli, tmp_path: Path) -> None:
    """What an activity logs appears on stderr with its job; stdout stays empty."""
    cli.cwd = tmp_path
    (tmp_path / "talks.py").write_text(
        "from turnout import activity, current_job\n\n@activity\nasync def talk() -> None:\n"
        "    current_job().log.info('hello from here')\n"
    )
    with cli.process("worker", "talks") as worker:
        cli("job", "submit", "talk", "--id", "t1", "--wait")
        worker.send_signal(signal.SIGTERM)
        out, err = worker.communicate(timeout=30)
    assert out == ""
    assert re.search(r"hello from here \[job=t1 activity=talk attempt=1 node=\S+ trace=[0-9a-f]{32} span=\w+\]", err)
    assert not alive(worker.pid)


AROUND = """
from contextlib import asynccontextmanager
from turnout import activity

pool = None

@asynccontextmanager
async def lifespan():
    global pool
    pool = "a pool"
    yield
    print("left", flush=True)

async def on_startup():
    assert pool

async def on_shutdown():
    print("shutdown", flush=True)

@activity
async def use():
    return pool
"""


def test_functions_of_the_module_run_around_the_worker(cli: Cli, tmp_path: Path) -> None:
    """What a module calls `lifespan`, `on_startup` and `on_shutdown` runs around the worker's life."""
    cli.cwd = tmp_path
    (tmp_path / "around.py").write_text(AROUND)
    with cli.process("worker", "around:use", "-o", "json") as worker:
        first_document(worker)
        assert cli.json("job", "submit", "use", "--wait")["result"] == "a pool"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        assert worker.stdout.read().split() == ["shutdown", "left"]


def test_what_the_module_imports_is_not_its_own_start(cli: Cli, tmp_path: Path) -> None:
    """A `lifespan` of another program, a web application's, say, is not called with the worker."""
    cli.cwd = tmp_path
    (tmp_path / "web.py").write_text("def lifespan(app):\n    raise RuntimeError('this is no application')\n")
    (tmp_path / "jobs.py").write_text(
        "from turnout import activity\nfrom web import lifespan\n"
        "@activity\nasync def use():\n    return lifespan.__name__\n"
    )
    with cli.process("worker", "jobs", "-o", "json") as worker:
        first_document(worker)
        assert cli.json("job", "submit", "use", "--wait")["result"] == "lifespan"


def test_a_start_of_the_module_that_fails_is_told_in_a_sentence(cli: Cli, tmp_path: Path) -> None:
    """The worker exits 1 with one sentence, and its log has the traceback of the module's code."""
    cli.cwd = tmp_path
    (tmp_path / "around.py").write_text(AROUND.replace("assert pool", "raise ConnectionRefusedError('no database')"))
    with cli.process("worker", "around") as worker:
        assert worker.wait(30) == 1
        said = worker.stderr.read()
    assert "turnout: the code at the start of the worker has failed: ConnectionRefusedError: no database" in said
    assert "around.py" in said


def cli_error(cli: Cli, *arguments: str) -> str:
    return cli.error(*arguments, code=2)
