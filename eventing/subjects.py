"""Names in NATS: the stream, consumers, inboxes, and the source of events."""

from typing import Final

STREAM: Final = "BILLING"


def durable(consumer: str) -> str:
    """Return the name of a consumer in JetStream, which allows no dots."""
    return consumer.replace(".", "_")


def inbox_prefix(user: str) -> str:
    """Return the prefix of the inboxes of a NATS user. Each user has its own, and may subscribe to no other."""
    return f"_INBOX_{user}"


def source_of(package: str) -> str:
    """Return `ce-source` of the events of a proto package: `/billing/budgets` for billing.budgets.v1."""
    return "/" + "/".join(package.split(".")[:2])
