"""Ports on the loopback interface: find free ones, check whether a server listens."""

import http.client
import json
import secrets
import socket
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

_PORTS: Final = range(10_000, 32_768)  # below the ephemeral ports of outgoing connections


def free_port() -> int:
    """Return a random port on which no process listens."""
    while not is_free(port := secrets.choice(_PORTS)):
        pass
    return port


def is_free(port: int) -> bool:
    """True if no process listens on this port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def is_listening(port: int) -> bool:
    """True if a server accepts connections on this port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def http_status(port: int, path: str, timeout_s: float = 2) -> int:
    """Return the HTTP status of a GET; 0 if there is no response."""
    return _get(port, path, timeout_s)[0]


def http_json(port: int, path: str, timeout_s: float = 2) -> Mapping[str, Any]:
    """Return the JSON object with which a GET replies; empty unless the status is 200."""
    status, body = _get(port, path, timeout_s)
    return json.loads(body) if status == HTTPStatus.OK else {}


def _get(port: int, path: str, timeout_s: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
