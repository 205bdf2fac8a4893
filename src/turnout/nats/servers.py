"""Where to connect: the servers that were given, and those that the cluster consists of by its last word. And whether
what answers there can be used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from turnout.errors import ServerUnavailable, ServerUnsuitable, TurnoutError
from turnout.nats.link import ConnectOptions, Link, LinkCallbacks, shown
from turnout.nats.messages import ApiError, NoResponders, RequestTimeout, version_of

MINIMUM_SERVER = (2, 12, 0)
_CHECK_TIMEOUT_S = 1.0
_TEMPORARILY_UNAVAILABLE = 503  # such as a cluster without a leader


class Servers:
    """The URLs in the order in which they are tried; the first is the one that was connected to last."""

    def __init__(self, given: Sequence[str]) -> None:
        self._given = [server if "://" in server else f"nats://{server}" for server in given]
        self._order = list(self._given)

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(self._order)

    def learn(self, servers: Sequence[str]) -> None:
        """The cluster consists of these: who has left it is not tried any more, who has come is.

        What was given stays, and so does the first, which is the one that tells.
        """
        wanted = {_place(server) for server in [*servers, *self._given, self._order[0]]}
        kept = {_place(server): server for server in self._order if _place(server) in wanted}
        self._order[:] = (kept | {_place(each): each for each in servers if _place(each) not in kept}).values()

    async def dial(self, options: ConnectOptions, *, name: str, hooks: LinkCallbacks, patience_s: float) -> Link:
        """Try every server once, and let the next dial begin after the ones that failed.

        If none works, the error raised is the one that says most: refused credentials before an address without a
        server.
        """
        errors: list[TurnoutError] = []
        for server in self.urls:
            try:
                return await Link.open(server, options, name=name, hooks=hooks, timeout_s=patience_s)
            except TurnoutError as error:
                errors.append(error)
                self._order.append(self._order.pop(0))
        telling = [error for error in errors if not isinstance(error, ServerUnavailable)]
        if len(errors) == 1 or telling:
            raise (telling or errors)[0]
        servers = ", ".join(map(shown, self._order))
        text = f"no NATS server answers at {servers}: check the addresses and that they run"
        raise ServerUnavailable(text) from errors[0]


def _place(server: str) -> tuple[str | None, int]:
    """What two URLs of one server have in common, with and without a login in them."""
    url = urlsplit(server)
    return url.hostname, url.port or 4222


async def check_server(link: Link, api: Callable[..., Awaitable[Any]], patience_s: float) -> None:
    """Raise what is wrong with a server that answers but cannot be used. `api` asks its JetStream."""
    if version_of(link.server_version) < MINIMUM_SERVER:
        raise ServerUnsuitable(
            f"the NATS server at {link.server} has version {link.server_version}: turnout needs 2.12 or newer"
        )
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + patience_s
    while True:
        try:
            await api("INFO", timeout_s=_CHECK_TIMEOUT_S)
            return
        except NoResponders:
            # It may still be starting JetStream; one without may be a leaf node of one that has it, and answer.
            if not link.has_jetstream:
                text = f"JetStream is off on the NATS server at {link.server}: start it with -js"
                raise ServerUnsuitable(text) from None
        except RequestTimeout:
            pass  # a cluster without a leader says nothing
        except ApiError as error:
            if error.code != _TEMPORARILY_UNAVAILABLE:
                raise
        if loop.time() >= give_up_at:
            raise ServerUnavailable(f"JetStream on {link.server} is not ready: see the log of the server")
        await asyncio.sleep(0.05)
