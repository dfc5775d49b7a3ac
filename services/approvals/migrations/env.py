"""Alembic's entry: every service's migrations run alike."""

from deploy.migration_env import run

run()
