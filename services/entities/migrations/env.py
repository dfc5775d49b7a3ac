"""Entry point of Alembic for the migrations of this schema."""

from deploy.migration_env import run

run()
