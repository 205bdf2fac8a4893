"""Where the server is and how to log in: from options, contexts of the nats CLI, and the environment.

The first of these that says where the server is decides: `--server`, `--context`, `$NATS_URL`, `$NATS_CONTEXT`, and
else the port 4222 of this machine. The first that says who we are decides that, as a whole. A selected context that
nobody mentions is left alone: what it points to may well be production.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from turnout.cli.exits import BadInput
from turnout.nats.connection import ConnectOptions

DEFAULT_SERVER = "nats://127.0.0.1:4222"
SELECTED = "selected"
_ENVIRONMENT = {
    "server": "NATS_URL",
    "user": "NATS_USER",
    "password": "NATS_PASSWORD",
    "token": "NATS_TOKEN",
    "creds": "NATS_CREDS",
    "nkey": "NATS_NKEY",
    "tlsca": "NATS_CA",
    "tlscert": "NATS_CERT",
    "tlskey": "NATS_KEY",
    "inbox_prefix": "NATS_INBOX_PREFIX",
}
_OF_CONTEXT = {
    "server": "url",
    "user": "user",
    "password": "password",
    "token": "token",
    "creds": "creds",
    "nkey": "nkey",
    "tlsca": "ca",
    "tlscert": "cert",
    "tlskey": "key",
    "inbox_prefix": "inbox_prefix",
    "tlsfirst": "tls_first",
}
_UNSUPPORTED = ("nsc", "jetstream_domain", "jetstream_api_prefix", "socks_proxy", "user_jwt", "user_seed")
_LOGIN = ("user", "password", "token", "creds", "nkey")
_TLS = ("tlsca", "tlscert", "tlskey")

Layer = Mapping[str, str]


def namespace(options: Layer, environment: Mapping[str, str] = os.environ) -> str:
    return options.get("namespace") or environment.get("TURNOUT_NAMESPACE") or "turnout"


def connect_options(options: Layer, environment: Mapping[str, str] = os.environ) -> ConnectOptions:
    """How to connect. BadInput for a context that can't be used or does not exist."""
    layers = _layers(options, environment)
    where = next((layer["server"] for layer in layers if layer.get("server")), DEFAULT_SERVER)
    login = _first(layers, _LOGIN)
    if "user" in login and "password" not in login:
        login["password"] = environment.get("NATS_PASSWORD", "")
    nkey = login.get("nkey")
    prefix = next((layer["inbox_prefix"] for layer in layers if layer.get("inbox_prefix")), "_INBOX")
    first = next((layer["tlsfirst"] for layer in layers if layer.get("tlsfirst")), "")
    return ConnectOptions(
        servers=tuple(server.strip() for server in where.split(",") if server.strip()),
        user=login.get("user"),
        password=login.get("password"),
        token=login.get("token"),
        creds=login.get("creds"),
        nkeys_seed=_readable(nkey, "nkey") if nkey is not None else None,
        tls=_tls(_first(layers, _TLS)),
        tls_first=first == "True",
        inbox_prefix=prefix,
    )


def _layers(options: Layer, environment: Mapping[str, str]) -> list[Layer]:
    from_environment = {key: environment[name] for key, name in _ENVIRONMENT.items() if environment.get(name)}
    layers: list[Layer] = [options]
    if "context" in options:
        layers.append(_context(options["context"], environment))
    layers.append(from_environment)
    if "context" not in options and environment.get("NATS_CONTEXT"):
        layers.append(_context(environment["NATS_CONTEXT"], environment))
    return layers


def _first(layers: list[Layer], keys: tuple[str, ...]) -> dict[str, str]:
    """What the first layer that has any of these keys says of them."""
    for layer in layers:
        found = {key: layer[key] for key in keys if layer.get(key)}
        if found:
            return found
    return {}


def _context(name: str, environment: Mapping[str, str]) -> Layer:
    base = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME", "~")).expanduser() / ".config")
    folder = Path(base) / "nats"
    if name == SELECTED:
        name = _selected(folder / "context.txt")
    if "/" in name or name.startswith("."):
        raise BadInput(f"context {name!r} is no name of a context")
    file = folder / "context" / f"{name}.json"
    try:
        values: Any = json.loads(file.read_text())
    except FileNotFoundError:
        known = sorted(path.stem for path in file.parent.glob("*.json"))
        raise BadInput(f"there is no context {name} in {file.parent}: it has {', '.join(known) or 'none'}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"context {name}: cannot read {file} ({error})") from error
    if not isinstance(values, dict):
        raise BadInput(f"context {name}: {file} must hold a JSON object")
    unknown = [key for key in _UNSUPPORTED if values.get(key)]
    if unknown:
        raise BadInput(f"context {name} sets {', '.join(unknown)}, which turnout does not support: see {file}")
    return {ours: str(values[theirs]) for ours, theirs in _OF_CONTEXT.items() if values.get(theirs)}


def _selected(file: Path) -> str:
    try:
        name = file.read_text().strip()
    except OSError:
        name = ""
    if not name:
        raise BadInput("no context is selected: name one, or run `nats context select`")
    return name


def _readable(path: str, what: str) -> str:
    file = Path(os.path.expandvars(path)).expanduser()
    if not file.is_file():
        raise BadInput(f"{what}: there is no file {path}")
    return str(file)


def _tls(files: Mapping[str, str]) -> Callable[[], ssl.SSLContext] | None:
    """What reads the files at each connect. BadInput if they can't be used now."""
    if not files:
        return None
    if ("tlscert" in files) != ("tlskey" in files):
        raise BadInput("a client certificate needs both: --tlscert and --tlskey")
    found = {name: _readable(path, name) for name, path in files.items()}

    def load() -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=found.get("tlsca"))
        if "tlscert" in found:
            context.load_cert_chain(found["tlscert"], found["tlskey"])
        return context

    try:
        load()
    except (OSError, ValueError) as error:
        raise BadInput(f"the TLS files cannot be used: {error}") from error
    return load
