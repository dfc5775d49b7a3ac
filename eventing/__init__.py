"""Transactional outbox and relay, consumers with inbox and dead letters, timers, and NATS JetStream in between."""
