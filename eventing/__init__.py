"""Events out and in: outbox and relay, consumers with inbox and dead letters, NATS JetStream between them."""
