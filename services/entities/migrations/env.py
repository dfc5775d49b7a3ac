from deploy.migration_env import run

run()
