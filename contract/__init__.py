"""What the protos say, for Python: RPCs, rules for input, REST routes, JSON codecs, OpenAPI. Names no billing noun."""
