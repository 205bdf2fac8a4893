"""A run as a value and as a JSON file: the rows, the machine, and how much was measured.

`python -m bench.results --render FILE` prints the table of a run that was written as JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from bench.sizes import Sizes
from bench.table import Row, as_json, as_markdown, from_json
from turnout.testing.server import find_binary

FOLDER = Path(__file__).parent / "results"
PUBLISHED = {"jobs": FOLDER / "published.json", "workflows": FOLDER / "published-workflows.json"}
"""The runs that the documents quote, by suite; the only ones that are committed."""


@attrs.frozen(kw_only=True)
class Results:
    at: str
    machine: dict[str, Any]
    sizes: Sizes
    rows: tuple[Row, ...]
    failed: tuple[str, ...] = ()
    took_s: float = 0.0
    suite: str = "jobs"

    @classmethod
    def read(cls, path: Path) -> Results:
        raw = json.loads(path.read_text())
        rows = tuple(from_json(row) for row in raw["rows"])
        return cls(**{**raw, "sizes": Sizes(**raw["sizes"]), "rows": rows, "failed": tuple(raw["failed"])})

    def write(self, path: Path) -> None:
        raw = {**attrs.asdict(self, recurse=False), "sizes": attrs.asdict(self.sizes)}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**raw, "rows": [as_json(row) for row in self.rows]}, indent=1) + "\n")

    def as_markdown(self) -> str:
        """The table of what is aimed for, and under what circumstances it was measured."""
        table = as_markdown([row for row in self.rows if not row.detail])
        failed = "".join(f"\nCould not be measured: {part}." for part in self.failed)
        return f"{table}\n{failed}\n{self.circumstances}"

    @property
    def circumstances(self) -> str:
        machine, rounds = self.machine, self.sizes.rounds
        fewest = min((len(row.rounds) for row in self.rows), default=rounds)
        of = "one round" if rounds == 1 else f"medians of {rounds} rounds"
        if fewest < rounds:
            of += f" (of {fewest} for what takes long)"
        return (
            f"{of[0].upper()}{of[1:]}, {self.at[:10]}, {machine['cpus']} CPUs ({machine['model']}), "
            f"Python {machine['python']} with {machine['with']}, nats-server {machine['nats-server']}."
        )

    def row(self, key: str) -> Row:
        """The row of this key; KeyError when that was not measured."""
        for row in self.rows:
            if row.key == key:
                return row
        raise KeyError(key)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    extras = [name for name in ("uvloop", "orjson") if importlib.util.find_spec(name) is not None]
    return {
        "cpus": cpus,
        "model": _model(),
        "python": platform.python_version(),
        "with": " and ".join(extras) or "neither uvloop nor orjson",
        "nats-server": told.strip().rpartition("v")[2],
        "nats-py": importlib.metadata.version("nats-py"),
    }


def _model() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the table of a run.")
    parser.add_argument("--render", required=True, type=Path, metavar="FILE", help="a JSON file of `python -m bench`")
    print(Results.read(parser.parse_args().render).as_markdown())


if __name__ == "__main__":
    main()
