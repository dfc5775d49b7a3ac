"""The suite under faults: processes are killed under load; then every answer is checked against the ledger."""
