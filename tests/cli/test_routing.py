"""Routing on the command line: what nodes have, what jobs require, and how a job that nobody can take says so."""

from __future__ import annotations

from tests.cli.conftest import Cli, first_document


def test_a_job_gets_to_the_worker_that_has_the_property_or_says_what_it_waits_for(cli: Cli) -> None:
    """`--property` and `--require`; ls, show, node ls and doctor say of a job that waits why it does."""
    with cli.process("worker", "shop", "--name", "east", "--property", "region=east", "-o", "json") as worker:
        node = first_document(worker)["id"]
        add = ("job", "submit", "add", '{"a": 1, "b": 1}')
        info = cli.json(*add, "--require", "region=east", "--wait", "--timeout", "60")
        assert (info["result"], info["requires"]) == (2, {"region": "east"})
        waits = cli(*add, "--require", "region=north", "--require", "gpu=a100").stdout.strip()
        info = cli.until(waits, lambda info: info.waiting_for is not None)
        assert "queued (no node with gpu=a100, region=north)" in cli("job", "ls").stdout
        shown = cli("job", "show", waits).stdout
        assert "no node that works on add has gpu=a100, region=north" in shown
        assert "--property gpu=a100 --property region=north" in shown
        assert cli.json("node", "show", node)["properties"] == {"region": "east"}
        assert "region=east" in cli("node", "show", node).stdout
        assert "region=east" in cli("node", "ls").stdout
        assert "1 job of add waits for a node with gpu=a100, region=north" in until_said(cli)
        assert cli.json("job", "cancel", waits)["state"] == "cancelled"


def until_said(cli: Cli) -> str:
    """What doctor says, once the job was handed to the node that does not fit; it is wrong either way."""
    said = ""
    for _ in range(20):
        said = cli("doctor", code=1).stdout
        if "waits for a node" in said:
            break
    return said


def test_without_the_options_nothing_is_required(cli: Cli, busy: Cli) -> None:
    """Of a job nothing is, and a worker has nothing."""
    assert cli.json("job", "submit", "add", '{"a": 1}')["requires"] == {}
    assert [node["properties"] for node in busy.json("node", "ls")] == [{}]


def test_what_is_no_property_is_2(cli: Cli) -> None:
    """Before anything is stored, with what would be right."""
    assert "NAME=VALUE, such as region=east" in cli.error("job", "submit", "add", "--require", "region", code=2)
    assert "1 to 128 printable" in cli.error("job", "submit", "add", "--require", "region=", code=2)
    twice = ("--require", "region=east", "--require", "region=west")
    assert "given twice" in cli.error("job", "submit", "add", *twice, code=2)
    assert "a property's name must match" in cli.error("worker", "shop", "--property", "a b=c", code=2)
