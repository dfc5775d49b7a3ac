"""What a process is told from outside: environment variables that start with `BILLING_`."""

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of one process. Fields without a default must be given; a missing one is named at start."""

    model_config = SettingsConfigDict(env_prefix="BILLING_", frozen=True)

    service: str = ""
    """Name of the service, set by its main module."""

    database_url: SecretStr
    """`postgresql://<service>_app:…@host:port/database`: the role that serves, never the owner."""
    database_pool_size: int = 16
    """Most connections of one replica."""
    database_lock_timeout_ms: int = 2_000
    """Longest wait for a row lock; a call that meets it is refused as CONFLICT."""

    nats_url: str
    """`nats://[token@]host:port`, several separated by commas."""

    listen: str = "127.0.0.1:0"
    """Where gRPC (in the gateway: HTTP) is served. Port 0 takes a free one."""
    metrics_listen: str = ""
    """Where Prometheus metrics are served; empty serves none. The gateway has `/metrics` of its own."""
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
    """Private key (PEM, Ed25519) with which this service signs its own tokens."""

    page_key: SecretStr
    """Secret that signs page tokens; the same for all replicas."""

    deadline_default_s: float = 10.0
    """Given to a call that came without a deadline."""
    deadline_max_s: float = 30.0
    """No call may take longer; a later deadline is cut to this."""
    calls_max: int = 512
    """Most calls under way at once in one replica; more are refused as OVERLOADED."""
    message_bytes_max: int = 4 * 1024 * 1024
    """Largest gRPC message and largest REST body."""
    drain_s: float = 8.0
    """Longest time that calls under way get to end after SIGTERM."""

    rate_limit: int = 60_000
    """Calls that one tenant may make over REST per `rate_window_s`, over all replicas."""
    rate_window_s: int = 60

    log_level: str = "INFO"
    otlp_endpoint: str = ""
    """Where spans are sent over OTLP/gRPC; empty sends none."""
    trace_ratio: float = 0.05
    """Share of traces recorded where the caller did not decide."""
