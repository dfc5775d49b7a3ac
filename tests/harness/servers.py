"""The PostgreSQL and NATS servers of a test run: embedded by default, in containers, or external by URL.

TEST_BACKEND=containers                     testcontainers; images by TEST_POSTGRES_IMAGE and TEST_NATS_IMAGE
TEST_DATABASE_URL=postgresql://admin:…@…    superuser of a test server; one run at a time
TEST_NATS_URL=nats://…                      a test server with JetStream; one worker at most
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local import servers

_POSTGRES_IMAGE = "postgres:15"
_NATS_IMAGE = "nats:2.15"
_NATS_PORT = 4222


@contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL; yields the URL of its superuser."""
    url = os.environ.get("TEST_DATABASE_URL")
    if url:
        yield url
    elif _in_containers():
        with _postgres_container() as url:
            yield url
    else:
        with servers.postgres(durable=False) as running:
            yield running.url


@contextmanager
def nats(store: Path) -> Iterator[str]:
    """Run NATS with an empty JetStream for one worker; yields its URL."""
    url = os.environ.get("TEST_NATS_URL")
    if url and int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
        raise RuntimeError("TEST_NATS_URL is a single JetStream: run with one worker, or unset it")
    if url:
        yield url
    elif _in_containers():
        with _nats_container() as url:
            yield url
    else:
        with servers.nats(store, durable=False) as running:
            yield running.url


def _in_containers() -> bool:
    backend = os.environ.get("TEST_BACKEND", "embedded")
    if backend not in {"embedded", "containers"}:
        raise RuntimeError(f"TEST_BACKEND must be embedded or containers, not {backend!r}")
    return backend == "containers"


@contextmanager
def _postgres_container() -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    image = os.environ.get("TEST_POSTGRES_IMAGE", _POSTGRES_IMAGE)
    unsafe = ["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=300"]
    with PostgresContainer(image, driver=None).with_command(["postgres", *unsafe]) as container:
        yield container.get_connection_url()


@contextmanager
def _nats_container() -> Iterator[str]:
    # NatsContainer calls deprecated functions of its own package, and warnings are errors here.
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    image = os.environ.get("TEST_NATS_IMAGE", _NATS_IMAGE)
    ready = LogMessageWaitStrategy("Server is ready").with_poll_interval(0.1)
    with DockerContainer(image).with_command("-js").with_exposed_ports(_NATS_PORT).waiting_for(ready) as container:
        yield f"nats://{container.get_container_host_ip()}:{container.get_exposed_port(_NATS_PORT)}"
