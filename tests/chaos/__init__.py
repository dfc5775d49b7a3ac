"""Services under faults: processes are killed under load; then every reply is checked against the ledger."""
