"""A gateway in this process with the routes of the probe service, and a client of it."""

import asyncio
from dataclasses import dataclass

from gateway.app import App
from tests.gateway.wire import Events

WATCH = "/api/enterprise-billing/probes/watch"


@dataclass
class Client:
    """A client of a gateway."""

    port: int
    token: str
    opened: list[Events]

    async def watch(self, path: str = WATCH, *, body: str = "", **headers: str) -> Events:
        self.opened.append(await asyncio.wait_for(Events.open(self.port, path, self.token, body=body, **headers), 5))
        return self.opened[-1]


@dataclass
class Served(Client):
    """A gateway in this process, with a client of it."""

    app: App
