"""Everything derived from the protos: RPCs, validation, masks, REST routes, JSON codecs, OpenAPI.

It has no billing terms.
"""
