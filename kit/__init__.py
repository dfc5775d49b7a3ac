"""What everything stands on: values, errors, identity, the database, telemetry. Imports nothing else of ours."""
