"""deploy/compose: no container runs here, but what the containers would run is tried with the real programs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import TURNOUT, first_document
from tests.support import compose, gobuild
from tests.support.command_lines import check_options
from turnout.testing import NatsServer

ROOT = gobuild.ROOT
FOLDER = ROOT / "deploy" / "compose"
FILE = FOLDER / "compose.yaml"
SOURCES = sorted((ROOT / "src").rglob("*.py"))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    gobuild.need_go("compose file's loader")
    found: dict[str, Any] = compose.load(FILE, {"NATS_PASSWORD": "s3same"})["services"]
    return found


def mounted(service: dict[str, Any], path: str) -> Path:
    """The file of this repository that a container sees under `path`."""
    for mount in service["volumes"]:
        if mount["type"] == "bind" and (path == mount["target"] or path.startswith(mount["target"] + "/")):
            return Path(mount["source"] + path.removeprefix(mount["target"]))
    raise AssertionError(f"nothing is mounted at {path}")


def test_compose_accepts_it(services: dict[str, Any]) -> None:
    """The real loader reads it; by default the engine, Jaeger and workers come up, the rest when asked for."""
    profiles = {name: service.get("profiles", []) for name, service in services.items()}
    assert {name for name, asked in profiles.items() if not asked} == {"nats", "jaeger", "worker"}
    assert profiles["prometheus"] == profiles["grafana"] == ["metrics"]
    assert services["worker"]["deploy"]["replicas"] == 2


def test_what_it_names_is_there(services: dict[str, Any]) -> None:
    """Every mounted file, build folder, Dockerfile and copied file is in the repository."""
    named = [
        mount["source"] for each in services.values() for mount in each.get("volumes") or [] if mount["type"] == "bind"
    ]
    for service in services.values():
        named += [file["path"] for file in service.get("env_file") or []]
        if "build" in service:
            named += [service["build"]["context"], str(ROOT / service["build"]["dockerfile"])]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.M)
    sources = [source for line in copied for source in line.split()]
    named += [str(ROOT / source) for source in sources]
    assert len(named) > 10
    assert [path for path in named if not Path(path).exists()] == []
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in sources} <= set(ignored), "what is copied must not be ignored"


def test_images_are_pinned_and_ports_are_of_this_machine(services: dict[str, Any]) -> None:
    """No image is `latest`, and nothing but this machine reaches the ports."""
    for name, service in services.items():
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports") or []), name


def test_the_image_installs_what_there_is() -> None:
    """The Dockerfile's extras are those of the package."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = re.findall(r"pip install .*'\.\[([\w,]+)\]'", (FOLDER / "Dockerfile").read_text())
    assert set(asked.split(",")) <= set(extras)
    assert "otel" in asked.split(",")


def test_its_environment_means_something(services: dict[str, Any]) -> None:
    """The program reads the variables that it is given; addresses name services and their ports."""
    texts = [path.read_text() for path in SOURCES]
    env = services["worker"]["environment"]
    for name in env:
        assert name.startswith("OTEL_") or any(f'"{name}"' in text for text in texts), name
    assert env["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger:4318"
    published = {(port["target"], port["published"]) for port in services["jaeger"]["ports"]}
    assert (4318, "4318") in published
    assert (int(env["TURNOUT_JAEGER_URL"].rpartition(":")[2]),) in {(target,) for target, _ in published}
    assert re.fullmatch(r"nats://turnout:s3same@nats:4222", env["NATS_URL"])
    assert services["nats"]["environment"]["NATS_PASSWORD"] == "s3same"
    (scraped,) = re.findall(r"names: \[(\w+)\]", (FOLDER / "prometheus.yml").read_text())
    (port,) = re.findall(r"port: (\d+)", (FOLDER / "prometheus.yml").read_text())
    command = services[scraped]["command"]
    assert command[command.index("--health-port") + 1] == f"0.0.0.0:{port}"


def test_the_metrics_profile_hangs_together(services: dict[str, Any]) -> None:
    """Prometheus finds its rules, Grafana its dashboards and its home page, at the paths that their settings name."""
    rules = re.findall(r"rule_files: \[(.+)\]", (FOLDER / "prometheus.yml").read_text())
    assert [mounted(services["prometheus"], path).name for path in rules] == ["alerts.yml"]
    grafana = services["grafana"]
    (dashboards,) = re.findall(r"path: (\S+)", (FOLDER / "grafana" / "dashboards.yml").read_text())
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(dashboards)
    assert json.loads(mounted(grafana, home).read_text())["title"]
    for name, port in re.findall(r"url: http://(\w+):(\d+)", (FOLDER / "grafana" / "datasources.yml").read_text()):
        assert int(port) in {each["target"] for each in services[name]["ports"]}


def test_its_server_and_its_worker_run(services: dict[str, Any], tmp_path: Path) -> None:
    """The server starts from the configuration as the container has it, and the worker's own command works with it."""
    nats, worker = services["nats"], services["worker"]
    assert nats["command"][0] == "-c"
    config = mounted(nats, nats["command"][1])
    health = shlex.join(nats["healthcheck"]["test"])
    assert nats["environment"]["NATS_MONITOR"] in health
    stored = [mount["target"] for mount in nats["volumes"] if mount["type"] == "volume"]
    assert stored == [nats["environment"]["NATS_STORE"]]
    settings = nats["environment"] | {"NATS_MONITOR": "127.0.0.1:-1", "NATS_STORE": str(tmp_path)}
    check_options(worker["command"])
    *command, address = worker["command"]
    port = address.rpartition(":")[2]
    assert command[-1] == "--health-port"
    with NatsServer(config=config, store_dir=tmp_path, environment=settings) as server:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "OTEL_", "TURNOUT_"))}
        env |= {"NATS_URL": worker["environment"]["NATS_URL"].replace("nats:4222", f"127.0.0.1:{server.port}")}
        started = [*TURNOUT, *command, "0", "-o", "json"]
        with subprocess.Popen(
            started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT / "examples", env=env
        ) as process:
            try:
                facts = first_document(process)
                assert facts["activities"] == ["render"]
                probe = worker["healthcheck"]["test"]
                assert probe[:3] == ["CMD", "python", "-c"]
                code = probe[3].replace(f":{port}/", f":{facts['health_port']}/")
                assert code != probe[3]
                subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
                with urllib.request.urlopen(f"http://127.0.0.1:{facts['health_port']}/metrics", timeout=5) as page:
                    assert b"turnout_" in page.read()
            finally:
                process.kill()
