"""Events over NATS JetStream (transactional outbox and relay, consumers with inbox and dead letters), and timers."""
