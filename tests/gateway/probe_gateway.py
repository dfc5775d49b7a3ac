"""A gateway process in front of the probe service, which has a stream."""

import uvloop

from gateway.server import serve
from kit.settings import Settings
from tests.gateway.backend import PROBED

if __name__ == "__main__":
    uvloop.run(serve(Settings(service="gateway"), PROBED))
