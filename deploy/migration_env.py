"""Shared body of every `migrations/env.py`: runs the revisions of a schema on the connection of `deploy.database`."""

from alembic import context


def run() -> None:
    """Run the revisions, each in its own transaction, or print their SQL."""
    service: str = context.config.attributes["service"]
    if context.is_offline_mode():
        context.configure(
            dialect_name="postgresql",
            dialect_opts={"paramstyle": "named"},  # other styles double each "%"
            literal_binds=True,
            version_table_schema=service,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            for setting in ("lock_timeout = '300ms'", "statement_timeout = '5min'", f"search_path = {service}"):
                context.execute(f"SET {setting}")
            context.run_migrations()
        return
    context.configure(
        connection=context.config.attributes["connection"],
        version_table_schema=service,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
