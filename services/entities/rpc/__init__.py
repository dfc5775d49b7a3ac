"""The gRPC side of entities: read the request, open a transaction, call the use case, return the message."""
