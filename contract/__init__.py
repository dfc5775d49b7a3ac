"""Everything derived from the protos: RPCs, validation, masks, REST routes, JSON codecs, OpenAPI.

Contains no term of billing.
"""
