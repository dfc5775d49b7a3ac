"""Loopback ports: free ones, and what answers on the others."""

import http.client
import secrets
import socket
from typing import Final

_PORTS: Final = range(10_000, 32_768)  # below those that the system gives to outgoing connections


def free_port() -> int:
    """A port that nobody listens on now."""
    while not is_free(port := secrets.choice(_PORTS)):
        pass
    return port


def is_free(port: int) -> bool:
    """Whether nobody listens on this port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def answers(port: int) -> bool:
    """Whether somebody takes connections on this port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def http_status(port: int, path: str, timeout_s: float = 2) -> int:
    """The status with which a GET is answered; 0 if it is not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
