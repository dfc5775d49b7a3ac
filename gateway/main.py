"""Entry point of the gateway process."""

import uvloop

from gateway.server import serve
from kit import telemetry
from kit.settings import Settings


def main() -> None:
    """Serve REST until SIGTERM or SIGINT."""
    settings = Settings(service="gateway")
    telemetry.configure(settings)
    uvloop.run(serve(settings))
    telemetry.shut_down()


if __name__ == "__main__":
    main()
