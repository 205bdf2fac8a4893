"""`fault replay` and `fault drop`, from a letter to the job's next life."""

from __future__ import annotations

from tests.cli.conftest import Cli


def dead(cli: Cli, *ids: str) -> None:
    for job_id in ids:
        cli("job", "submit", "broken", "--id", job_id, "--wait", code=1)
        cli.until_dead(job_id)


def test_replay_by_id_tells_the_new_state(busy: Cli) -> None:
    """`fault replay ID` returns when the next generation is stored; an id that nobody knows is not found."""
    dead(busy, "replay1")
    again = busy.json("fault", "replay", "replay1")
    assert (again["id"], again["generation"]) == ("replay1", 2)
    busy.until("replay1", lambda info: info.state == "faulted" and info.generation == 2)
    assert busy.error("fault", "replay", "nobody", code=4).count("\n") == 1


def test_replay_by_filter_counts(busy: Cli) -> None:
    """A filter takes all that match at once; without one, or with both, it is a wrong usage."""
    dead(busy, "filter1", "filter2")
    assert busy.json("fault", "replay", "--error-type", "NoSuchError", "--activity", "broken") == {"replayed": 0}
    assert busy.json("fault", "replay", "--error-type", "Fatal", "--since", "1h")["replayed"] >= 2
    for job_id in ("filter1", "filter2"):
        busy.until(job_id, lambda info: info.state == "faulted" and info.generation == 2)
    busy("fault", "replay", code=2)
    busy("fault", "replay", "filter1", "--all", code=2)


def test_ls_drops_what_was_mended(busy: Cli) -> None:
    """`fault ls` lists a letter until its job has gone on; `--all` lists it still, and `show` knows it."""
    busy("job", "submit", "moody", "--id", "mended", "--wait", code=1)
    busy.until_dead("mended")

    def listed(*more: str) -> list[str]:
        return [letter["id"] for letter in busy.json("fault", "ls", "--activity", "moody", *more)]

    assert listed() == ["mended"]
    busy("fault", "replay", "mended")
    busy("job", "follow", "mended")
    assert listed() == []
    assert listed("--all") == ["mended"]
    assert busy.json("fault", "show", "mended")["generation"] == 1


def test_drop_leaves_the_job(busy: Cli) -> None:
    """`fault drop` removes the letters and nothing else; what is not there is not found."""
    dead(busy, "drop1")
    assert busy.json("fault", "drop", "drop1") == {"id": "drop1", "dropped": 1}
    assert busy.json("job", "show", "drop1", code=0)["state"] == "faulted"
    busy.error("fault", "show", "drop1", code=4)
    busy.error("fault", "drop", "drop1", code=4)
