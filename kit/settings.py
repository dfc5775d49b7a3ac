"""Settings of a process: environment variables that start with `BILLING_`."""

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of one process. Fields without a default are required; the process does not start without them."""

    model_config = SettingsConfigDict(env_prefix="BILLING_", frozen=True)

    service: str = ""
    """Name of the service, set by its main module."""

    database_url: SecretStr
    """`postgresql://<service>_app:…@host:port/database`, with the serving role of the service, not its owner."""
    database_pool_size: int = 16
    """Maximum number of connections of one replica."""
    database_lock_timeout_ms: int = 2_000
    """Maximum wait for a lock; the call then fails with CONFLICT."""

    nats_url: str
    """`nats://user:password@host:port` of the user of this service, several separated by commas. Not used by the
    gateway."""

    listen: str = "127.0.0.1:0"
    """Address of the gRPC server (in the gateway: HTTP). Port 0 picks a free port."""
    metrics_listen: str = ""
    """Address that serves Prometheus metrics at `/metrics`; empty for none."""
    addresses: dict[str, str] = {}
    """gRPC addresses of the other services, `{"entities": "host:port,host:port"}`."""

    issuer: str = "https://identity.local"
    """`iss` of the users' tokens."""
    audience: str = "enterprise-billing"
    """`aud` of all tokens."""
    jwks: str
    """Public keys of the users' tokens: a file or an https URL."""
    service_jwks: str
    """Public keys of our own services' tokens: a file or an https URL."""
    service_key: Path | None = None
    """Private key (PEM, Ed25519) with which this service signs its tokens; only services that call others need one."""
    service_kid: str = ""
    """Id of that key in `service_jwks`: `service-<name>` by default, `service-<name>.<suffix>` for its successors."""

    page_key: SecretStr
    """Secret that signs page tokens; the same in all replicas."""

    deadline_default_s: float = 10.0
    """Deadline of calls that come without one."""
    deadline_max_s: float = 30.0
    """Maximum deadline; a later one is reduced to this."""
    calls_max: int = 512
    """Maximum number of concurrent calls of one replica, and of streams; further ones fail with OVERLOADED."""
    tenant_reserve: float = 0.125
    """Part of calls, streams, memory, queues and database connections that one tenant can't use alone, for others.

    What exceeds this fails with CONCURRENCY_LIMITED. With 0 one tenant may use everything while it is alone.
    """
    message_bytes_max: int = 4 * 1024 * 1024
    """Maximum size of a gRPC message and of a REST body."""
    drain_s: float = 8.0
    """How long calls in progress may take to finish after SIGTERM."""

    rendering_workers_max: int = 2
    """Maximum number of documents that one replica renders at once; others wait."""
    rendering_timeout_s: float = 20.0
    """How long rendering a document may take, and how long a call waits for its turn."""
    rendering_memory_bytes_max: int = 2 * 1024 * 1024 * 1024
    """Maximum address space of a process that renders a document; it uses about half of that."""

    http_header_bytes_max: int = 32 * 1024
    """Maximum size of request line and headers of a REST call."""
    http_header_timeout_s: float = 10.0
    """How long a client may take to send request line and headers, from the first byte."""
    http_body_timeout_s: float = 30.0
    """How long a client may take to send the body."""
    http_idle_timeout_s: float = 75.0
    """How long a connection of a client is kept open before the first byte of a request."""
    http_write_timeout_s: float = 30.0
    """How long a client may leave a response unread; it must read some 50 KB of a large one in this time."""
    http_connections_max: int = 4096
    """Maximum number of connections of clients to one replica. A further one replaces one that waits for its client."""
    http_memory_bytes_max: int = 64 * 1024 * 1024
    """Maximum size of all bodies that one replica holds while they are received, handled or sent."""

    rate_limit: int = 60_000
    """Maximum number of REST calls of one tenant per `rate_window_s`, over all replicas."""
    rate_window_s: int = 60

    log_level: str = "INFO"
    otlp_endpoint: str = ""
    """Address to which spans are sent over OTLP/gRPC; empty for none."""
    trace_ratio: float = 0.01
    """Share of traces that are sampled if the caller did not decide."""
