"""Runs a gateway process for the routes of the probe service, which has a streaming RPC."""

import uvloop

from gateway.server import serve
from kit.settings import Settings
from tests.gateway.backend import PROBE_ROUTES

if __name__ == "__main__":
    uvloop.run(serve(Settings(service="gateway"), PROBE_ROUTES))
