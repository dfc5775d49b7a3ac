"""Lowest shared layer: values, errors, authentication, transactions, telemetry. Imports no other package of ours."""
