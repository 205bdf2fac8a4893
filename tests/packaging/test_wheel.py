"""What is installed is what was tested: the wheel, and the names that users import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import turnout

ROOT = Path(__file__).parents[2]

PUBLIC = {
    "Activity",
    "ActivityInfo",
    "ActivityNotFound",
    "ActivityRef",
    "AmbiguousJob",
    "AttemptInfo",
    "Bounds",
    "Client",
    "CompleteLater",
    "DefinitionError",
    "ErrorInfo",
    "Fatal",
    "FaultInfo",
    "GroupExists",
    "GroupHandle",
    "GroupInfo",
    "GroupNotFound",
    "History",
    "HistoryEvent",
    "Hooks",
    "InvalidArguments",
    "InvalidState",
    "InvalidValue",
    "JobCancelled",
    "JobContext",
    "JobContextFilter",
    "JobExists",
    "JobFaulted",
    "JobHandle",
    "JobInfo",
    "JobNotFound",
    "JobState",
    "Limit",
    "LimitInfo",
    "LogLine",
    "NodeInfo",
    "NonDeterminism",
    "NotCompletable",
    "NotDurable",
    "NotInJob",
    "NotInWorkflow",
    "Outcome",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "PermissionDenied",
    "Progress",
    "QueryFailed",
    "Retention",
    "RetryLater",
    "RetryPolicy",
    "Schedule",
    "ScheduleHandle",
    "ScheduleInfo",
    "ScheduleNotFound",
    "ScheduleRun",
    "ServerUnavailable",
    "ServerUnsuitable",
    "Snooze",
    "StorageRefused",
    "TurnoutError",
    "UnreadableRecord",
    "UpdateFailed",
    "UpdateHandle",
    "UpdateRejected",
    "Waiting",
    "Worker",
    "WorkerDied",
    "Workflow",
    "WorkflowCancelled",
    "WorkflowContext",
    "WorkflowEnded",
    "WorkflowExists",
    "WorkflowFaulted",
    "WorkflowHandle",
    "WorkflowInfo",
    "WorkflowNotFound",
    "WorkflowRef",
    "WorkflowState",
    "WorkflowTerminated",
    "activity",
    "activity_ref",
    "current_job",
    "current_workflow",
    "update_ref",
    "workflow",
    "workflow_ref",
}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked by pip into a folder of its own; what it depends on is this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    [wheel] = (folder / "dist").glob("*.whl")
    target = folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    return target


def test_the_wheel_works_alone(installed: Path, tmp_path: Path) -> None:
    """Installed from the wheel, away from the checkout, the package imports and its command answers."""
    code = "import turnout, sys; print(turnout.__file__); [getattr(turnout, n) for n in turnout.__all__]"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(str(installed))
    told = subprocess.run(
        [sys.executable, "-m", "turnout", "--version"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert turnout.__version__ in told.stdout


def test_the_wheel_carries_the_package_and_its_types_and_nothing_else(installed: Path) -> None:
    """Tests, workers and examples stay at home; `py.typed` and the licence come along."""
    [wheel] = (installed.parent / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "turnout/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"turnout"}


def test_the_description_has_no_dead_links(installed: Path) -> None:
    """On a package index the README stands alone: what it links to is an address, or one of its own headings."""
    (metadata,) = installed.glob("turnout-*.dist-info/METADATA")
    description = metadata.read_text().partition("\n\n")[2]
    assert "# turnout" in description
    targets = re.findall(r"\]\(([^)]*)\)", description)
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_the_public_names_are_these() -> None:
    """A name that users may import comes and goes on purpose only."""
    assert set(turnout.__all__) == PUBLIC
