"""`turnout schedule`: from adding one to removing it, without a worker."""

from __future__ import annotations

import asyncio
import json

import attrs

from tests.cli.conftest import Cli, first_document
from turnout import Client

NIGHTLY = ("schedule", "add", "nightly", "report", '{"of": "sales"}', "--cron", "0 3 * * *")


def test_a_schedule_from_its_addition_to_its_removal(cli: Cli) -> None:
    """Each verb shows what it did, as text and as JSON; what is gone is not found."""
    added = cli.json(*NIGHTLY, "--timezone", "Europe/Berlin", "--overlap", "queue", "--catch-up", "all")
    assert (added["name"], added["activity"], added["payload"]) == ("nightly", "report", {"of": "sales"})
    assert added["schedule"]["timezone"] == "Europe/Berlin"
    assert (added["schedule"]["overlap"], added["schedule"]["catch_up"]) == ("queue", "all")
    instants = json.loads(cli("schedule", "next", "nightly", "-o", "json").stdout)
    assert len(instants) == 5
    assert all(instant[10:] in ("T01:00:00Z", "T02:00:00Z") for instant in instants)
    assert len(cli("schedule", "next", "nightly").stdout.splitlines()) == 5
    assert "0 3 * * * Europe/Berlin" in cli("schedule", "ls").stdout
    triggered = cli("schedule", "run", "nightly").stdout.strip()
    assert cli.json("job", "show", triggered)["schedule"] == "nightly"
    assert [job["id"] for job in cli.json("job", "ls", "--schedule", "nightly")] == [triggered]
    assert cli.json("job", "ls", "--schedule", "another") == []
    span = ("--start", "2026-03-01T00:00:00Z", "--end", "2026-03-02T12:00:00Z")
    runs = cli("schedule", "backfill", "nightly", *span).stdout.split()
    assert runs == ["nightly-20260301T020000Z", "nightly-20260302T020000Z"]
    assert cli("schedule", "backfill", "nightly", *span).stdout.split() == runs
    cli("schedule", "pause", "nightly", "--note", "the disk is full")
    shown = cli("schedule", "show", "nightly").stdout
    assert "the disk is full" in shown
    assert "nightly-20260302T020000Z" in shown
    assert cli.json("schedule", "show", "nightly")["paused"] is True
    assert "goes on" in cli("schedule", "resume", "nightly").stdout
    cli("schedule", "rm", "nightly")
    assert "there is no schedule nightly in namespace" in cli.error("schedule", "show", "nightly", code=4)
    assert cli.json("schedule", "ls") == []


def test_a_schedule_says_what_its_runs_require(cli: Cli) -> None:
    """--require and --priority go along to each run, and are shown; of a workflow they are refused."""
    routed = ("--require", "region=east", "--require", "gpu=a100", "--priority", "1")
    required = {"region": "east", "gpu": "a100"}
    added = cli.json(*NIGHTLY, *routed)
    assert (added["requires"], added["priority"]) == (required, 1)
    run = cli.json("job", "show", cli("schedule", "run", "nightly").stdout.strip())
    assert (run["requires"], run["priority"], run["schedule"]) == (required, 1, "nightly")
    shown = cli("schedule", "show", "nightly").stdout
    assert "gpu=a100, region=east" in shown
    plain = cli.json(*NIGHTLY)
    assert (plain["requires"], plain["priority"]) == ({}, 3)
    assert "requires" not in cli("schedule", "show", "nightly").stdout
    assert "NAME=VALUE" in cli.error(*NIGHTLY, "--require", "region", code=2)
    assert "are for jobs" in cli.error(*NIGHTLY, "--workflow", "--priority", "1", code=2)


def test_the_workflows_of_a_schedule_are_found_by_it(cli: Cli) -> None:
    """`workflow ls --schedule` lists its runs and no others; they can be ended by it."""
    cli("schedule", "add", "books", "close", '{"month": 3}', "--cron", "@yearly", "--workflow")
    run = cli("schedule", "run", "books").stdout.strip()
    cli("workflow", "start", "close", '{"month": 4}', "--id", "by-hand")
    (found,) = cli.json("workflow", "ls", "--schedule", "books")
    assert (found["id"], found["schedule"]) == (run, "books")
    assert cli.json("workflow", "ls", "--schedule", "another") == []
    assert "must match" in cli.error("workflow", "ls", "--schedule", "no name", code=2)
    assert cli.json("workflow", "terminate", "--schedule", "books", "--yes") == {"terminated": 1}
    assert cli.json("workflow", "show", "by-hand")["state"] == "running"


def let_lapse(cli: Cli, name: str) -> None:
    """Have it look as if nobody had dealt with the schedule for an hour."""

    async def lapse() -> None:
        async with Client.connect(cli.url, namespace=cli.namespace) as client:
            kept = await client.store.schedules.load(name)
            assert kept.record is not None
            before = kept.record.cursor - 3600
            await client.store.schedules.save(
                attrs.evolve(kept.record, cursor=before, created_at=before), kept.revision
            )

    asyncio.run(lapse())


def test_doctor_says_what_is_wrong_with_schedules(cli: Cli) -> None:
    """Nothing of one that is as it should be; of others what nobody runs, what is overdue, what is paused."""

    def said(code: int) -> dict[str, tuple[str, str]]:
        checks = [check for check in cli.json("doctor", code=code)["checks"] if check["check"] == "schedules"]
        return {check["found"].partition(" ")[0]: (check["verdict"], check["found"]) for check in checks}

    with cli.process("worker", "shop", "-o", "json") as worker:
        first_document(worker)
        assert said(0) == {}
        assert not cli("schedule", "add", "yearly", "add", '{"a": 1}', "--cron", "0 3 1 1 *").stderr
        assert said(0) == {"1": ("ok", "1 schedule, no tick overdue")}
        assert "no node has ever worked on report (those known are add, " in cli(*NIGHTLY).stderr
        cli("schedule", "pause", "yearly", "--note", "the disk is full")
        found = said(1)
    assert found["yearly"] == ("note", "yearly is paused: the disk is full")
    assert found["nightly"] == ("wrong", "nightly runs activity report, and no node works on it")
    cli("schedule", "add", "often", "add", '{"a": 1}', "--every", "10m")
    let_lapse(cli, "often")
    verdict, text = said(1)["the"]
    assert (verdict, text.split(" that was due ")[0]) == ("wrong", "the tick of often")


def test_a_workflow_that_is_scheduled_as_an_activity_is_told(cli: Cli) -> None:
    """Its runs would wait for ever; with `--workflow` there is nothing to tell."""
    add = ("schedule", "add", "monthly", "doubled", '{"number": 1}', "--cron", "0 3 1 * *")
    with cli.process("worker", "flows", "-o", "json") as worker:
        first_document(worker)
        assert "doubled is a workflow, and no activity: add --workflow" in cli(*add).stderr
        assert not cli(*add, "--workflow").stderr


def test_intervals_and_workflows(cli: Cli) -> None:
    """`--every` takes durations, `--workflow` makes a workflow of the name, and a schedule may have an end."""
    options = ("--every", "1h30m", "--workflow", "--start", "2026-01-01T00:00:00Z", "--end", "2026-01-01T03:00:00Z")
    added = cli.json("schedule", "add", "old", "order", *options)
    assert (added["kind"], added["schedule"]["every"], added["next"]) == ("workflow", 5400.0, [])
    assert "never" in cli("schedule", "show", "old").stdout
    cli("schedule", "rm", "old")


def test_bad_input_says_what_would_be_right(cli: Cli) -> None:
    """Before anything is connected, with exit code 2."""
    add = ("schedule", "add", "s", "report")
    for options, says in (
        (("--cron", "0 0 30 2 *"), "never fires"),
        (("--cron", "0 3 * *"), "has 4 fields"),
        ((), "cron or every"),
        (("--every", "5", "--timezone", "Europe/Berln"), "did you mean 'Europe/Berlin'?"),
        (("--every", "0.5"), "at least 1 s"),
        (("--every", "soon"), "no duration"),
        (("--every", "5", "--start", "2026-01-01"), "does not say of which place"),
    ):
        assert says in cli.error(*add, *options, code=2)
    assert "a schedule's name must match" in cli.error("schedule", "add", "a.b", "report", "--every", "5", code=2)
    assert cli.json("schedule", "ls") == []
