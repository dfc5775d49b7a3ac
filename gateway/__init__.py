"""The REST API of all services, derived from the protos."""
