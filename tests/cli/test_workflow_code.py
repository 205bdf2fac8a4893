"""`turnout workflow check`, `replay` and `patches`: does new code fit what runs already?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.conftest import MODULES, Cli
from tests.cli.test_workflows import eventually


def test_check_finds_what_would_not_be_the_same_again(cli: Cli) -> None:
    """Each careless line is told with file, line and what to do instead, in helpers and methods too; others are not."""
    everything = cli.json("workflow", "check", "careless", code=1)
    found = [each for each in everything if each["file"].endswith("careless.py")]
    beside = [each for each in everything if each["file"].endswith("beside.py")]
    lines = (MODULES / "careless.py").read_text().splitlines()
    told = {(lines[each["line"] - 1].partition("  # noqa")[0].strip(), each["what"]) for each in found}
    assert told == {
        ("moment.now()", "datetime.datetime.now()"),
        ("time.time()", "time.time()"),
        ("seconds()", "time.time()"),
        ("random.random()", "random.random()"),
        ("uuid.uuid4()", "uuid.uuid4()"),
        ('os.environ.get("HOME")', "os.environ"),
        ("open(path)", "open()"),
        ("Thread(target=print).start()", "threading.Thread()"),
        ('for _ in {path, "b"}:', "iteration over a set"),
        ('", ".join(names)', "iteration over a set"),
        ("Path(path).read_text()", ".read_text()"),
        ('list(Path(path).glob("*"))', ".glob()"),
        ("await asyncio.to_thread(print)", "asyncio.to_thread()"),
        ('return os.environ["HOME"]', "os.environ"),
        ("self.began = moment.now()", "datetime.datetime.now()"),
        ("secrets.token_hex()", "secrets.token_hex()"),
        ('return hash("a")', "hash()"),
        ("global COUNT", "global COUNT"),
        ("SEEN[sys.argv[0]] = COUNT", "SEEN[...] of the module is changed"),
        ("SEEN[sys.argv[0]] = COUNT", "sys.argv"),
        ('os.remove("a")', "os.remove()"),
        ('os.path.exists(os.path.join("a", "b"))', "os.path.exists()"),
        ('glob.glob("*")', "glob.glob()"),
        ('await open_connection("localhost", 4222)', "asyncio.open_connection()"),
        ("for _ in words:", "iteration over a set"),
        ("both = [*words.union(SEEN)]", "iteration over a set"),
        ('for _ in SEEN.keys() | {"a"}:', "iteration over a set"),
        ("return [words.pop(), *both]", "pop() of a set"),
        ("for _ in self.names:", "iteration over a set"),
        ("plain(2)", "plain()"),
        ("plain.options(local=True)(3)", "plain()"),
    }
    assert [(each["line"], each["what"]) for each in beside] == [(9, "os.getenv()")]
    assert {each["workflow"] for each in found} == {"careless", "forgetful", "Careless"}
    text = cli("workflow", "check", "careless", code=1).stdout
    line = lines.index("    moment.now()  # noqa: DTZ005") + 1
    assert f"careless.py:{line}: datetime.datetime.now() in workflow careless: use current_workflow().now()" in text


def test_check_of_good_code(cli: Cli) -> None:
    """Nothing found is exit 0; a module without workflows is refused."""
    assert cli.json("workflow", "check", "flows") == []
    assert "no workflows" in cli.error("workflow", "check", "chatty", code=2)


def test_replay_of_histories(cli: Cli, tmp_path: Path) -> None:
    """Recorded histories fit the code that made them; other code is told, with both sides, and exits 1."""
    with cli.process("worker", "flows"):
        cli("workflow", "start", "doubled", '{"number": 21}', "--id", "d-1", "--wait")
        cli("workflow", "start", "approval", '{"amount": 7}', "--id", "a-1")
        eventually(lambda: cli.json("workflow", "show", "a-1"), lambda info: bool(info["waiting"]))
    assert cli.json("workflow", "replay", "flows", "--id", "d-1") == [
        {"id": "d-1", "name": "doubled", "difference": ""}
    ]
    (found,) = cli.json("workflow", "replay", "changed", "--id", "d-1", code=1)
    assert "- 0-0 activity double" in found["difference"]
    assert "+ 0-0 activity triple" in found["difference"]
    file = tmp_path / "history.jsonl"
    file.write_text(cli("workflow", "history", "d-1", "-o", "jsonl").stdout)
    assert "d-1  doubled  fits" in cli("workflow", "replay", "flows", "--file", str(file)).stdout
    assert "triple" in cli("workflow", "replay", "changed", "--file", "-", stdin=file.read_text(), code=1).stdout
    whole, torn = file.read_text().splitlines(), tmp_path / "torn.jsonl"
    for lines in (["garbage"], whole[1:], [whole[0], *whole[2:]], [*whole[:-1], whole[-1][:-9]]):
        torn.write_text("\n".join(lines))
        assert "holds no whole history" in cli.error("workflow", "replay", "flows", "--file", str(torn), code=2)
    opened = cli.json("workflow", "replay", "flows", "--open")
    assert [each["id"] for each in opened] == ["a-1"]
    assert cli.json("workflow", "replay", "changed", "--open") == [{"id": "a-1", "name": "approval", "difference": ""}]


def test_replay_says_what_is_wrong(cli: Cli, tmp_path: Path) -> None:
    """No history named, two of them, a file that has none, an unknown id: refused with what to do."""
    assert "--id ID, --file FILE or --open" in cli.error("workflow", "replay", "flows", code=2)
    assert "--id ID" in cli.error("workflow", "replay", "flows", "--open", "--id", "a", code=2)
    empty = tmp_path / "empty"
    empty.write_text("")
    assert "has no history" in cli.error("workflow", "replay", "flows", "--file", str(empty), code=2)
    assert "can't be read" in cli.error("workflow", "replay", "flows", "--file", str(tmp_path / "none"), code=2)
    cli("setup")
    assert "no workflow nobody" in cli.error("workflow", "replay", "flows", "--id", "nobody", code=4)


def test_patches_of_open_workflows(cli: Cli) -> None:
    """`patches` counts the open workflows that have asked for a patch, and those of that name that have not."""
    cli("setup")
    with cli.process("worker", "flows"):
        cli("workflow", "start", "approval", '{"amount": 1}', "--id", "old")
        eventually(lambda: cli.json("workflow", "show", "old"), lambda info: bool(info["waiting"]))
    assert cli.json("workflow", "patches") == []
    with cli.process("worker", "changed"):
        cli("workflow", "start", "approval", '{"amount": 1}', "--id", "new")
        waits = eventually(lambda: cli.json("workflow", "show", "new"), _waits_for_a_signal)
    assert waits["state"] == "running"
    (found,) = cli.json("workflow", "patches")
    assert found == {"workflow": "approval", "patch": "thrice", "new": 1, "without": 1}
    assert "thrice" in cli("workflow", "patches").stdout
    assert json.loads(cli("workflow", "history", "new", "-o", "jsonl").stdout.splitlines()[1])["patches"] == ["thrice"]


def _waits_for_a_signal(info: Any) -> bool:
    return any(each["kind"] == "signal" for each in info["waiting"])
