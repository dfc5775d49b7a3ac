"""What several services ask of others: of the entities service, and of outside systems; never inside a transaction."""
