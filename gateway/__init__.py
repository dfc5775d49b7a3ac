"""The REST side of all services, derived from the protos."""
