# Everything that is done with a checkout. `make help` lists it. Only Python 3.11 or later and make are needed.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
STACK := $(PYTHON) -m deploy.local
INSTALLED := .venv/.installed
GENERATED := gen/.generated
PROTOS := $(shell find protos -name '*.proto') protos/generate.py
TESTS := tests

# What squawk would have otherwise: a currency code is three letters, counts and basis points fit 32 bits, the version
# table and the transaction are Alembic's, and nobody asks which value of an enum is the greater.
SQUAWK_EXCEPTIONS := ban-char-field,prefer-bigint-over-int,prefer-text-field,transaction-nesting,require-enum-value-ordering

.PHONY: help
help:  ## List the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

# --- the local stack; its state is in .local/ or BILLING_HOME ---

.PHONY: up
up: $(GENERATED)  ## Install, start everything, wait until it is healthy, print URLs and a token (GATEWAY_PORT=8000)
	@$(STACK) up

.PHONY: down
down: $(INSTALLED)  ## End everything, keep the data
	@$(STACK) down

.PHONY: status
status: $(INSTALLED)  ## Show what runs
	@$(STACK) status

.PHONY: logs
logs: $(INSTALLED)  ## Follow the logs (NAME=gateway,budgets)
	@$(STACK) logs

.PHONY: events
events: $(INSTALLED)  ## Follow the events (FROM=start: from the first that is kept)
	@$(STACK) events

.PHONY: seed
seed: $(INSTALLED)  ## Load the sample data that is missing
	@$(STACK) seed

.PHONY: rates
rates: $(INSTALLED)  ## Load exchange rates of the ECB (FILE=eurofxref-hist.csv TENANT=acme SINCE=2026-01-01)
	@$(PYTHON) -m deploy.rates "$(FILE)" $(if $(TENANT),--tenant "$(TENANT)") $(if $(SINCE),--since "$(SINCE)")

.PHONY: usage
usage: $(INSTALLED)  ## Simulate usage (COUNT=100 RATE=50 DUPLICATES=5 BAD=2 TENANT=acme; RATE=0: as fast as it goes)
	@$(PYTHON) -m deploy.simulators.usage

.PHONY: leave
leave: $(INSTALLED)  ## Let a user of the simulated user management leave (WHO=erin TENANT=acme)
	@$(PYTHON) -m deploy.simulators.directory deactivate $(WHO)

.PHONY: token
token: $(INSTALLED)  ## Print a token (ROLE=finance TENANT=acme SUB=alice ENTITY_SCOPE=ent_…,ent_… DEPARTMENT_SCOPE=dep_…)
	@$(STACK) token

.PHONY: address
address: $(INSTALLED)  ## Print where a process serves (SERVICE=budgets)
	@$(STACK) address

.PHONY: psql
psql: $(INSTALLED)  ## Open the database (SERVICE=budgets: as the role with which it serves)
	@$(STACK) psql

.PHONY: migrate
migrate: $(INSTALLED)  ## Bring the database of the running stack to its newest form
	@$(STACK) migrate

.PHONY: reset
reset: $(INSTALLED)  ## End everything and delete its data, keys and logs
	@$(STACK) reset

# --- the code ---

.PHONY: protos
protos: $(GENERATED)  ## Generate gen/ from the protos

.PHONY: openapi
openapi: $(GENERATED)  ## Write docs/openapi.json from the protos
	@$(PYTHON) -m contract.openapi

.PHONY: format
format: $(INSTALLED)  ## Put the code in its form
	@.venv/bin/ruff check --quiet --fix .
	@.venv/bin/ruff format --quiet .

.PHONY: lint
lint: $(GENERATED)  ## Check style, types, protos (also against the last release) and the SQL of the migrations
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/buf lint gen/billing.binpb --config buf.yaml
	@$(MAKE) lint-breaking lint-migrations

# Against the last tag, or as long as there is none, the commit before.
.PHONY: lint-breaking
lint-breaking: $(GENERATED)
	@base=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || git rev-parse --verify --quiet HEAD~1); \
	if [ -z "$$base" ] || ! git cat-file -e "$$base:protos/generate.py" 2>/dev/null; then \
		echo "buf breaking: no earlier protos to compare with"; exit 0; \
	fi; \
	mkdir -p build && old=$$(mktemp -d build/breaking.XXXXXX) && trap 'rm -rf "$$old"' EXIT && \
	git archive "$$base" protos | tar -x -C "$$old" && \
	$(PYTHON) "$$old/protos/generate.py" "$$old/gen" "$$old/protos" && \
	.venv/bin/buf breaking gen/billing.binpb --against "$$old/gen/billing.binpb" --config buf.yaml

.PHONY: lint-migrations
lint-migrations: $(INSTALLED)
	@mkdir -p build
	@$(PYTHON) -m deploy.database sql > build/migrations.sql
	@.venv/bin/squawk --assume-in-transaction --exclude $(SQUAWK_EXCEPTIONS) build/migrations.sql

.PHONY: test
test: $(GENERATED)  ## Run all tests in parallel, on servers of their own (TESTS=tests/budgets)
	@$(PYTHON) -m pytest -n auto --dist worksteal -q $(TESTS)

.PHONY: bench
bench: $(GENERATED)  ## Measure against floors, write build/bench.json (CASES=budgets,charge_rest SLICES=10)
	@$(PYTHON) -m tests.bench $(if $(SLICES),--slices $(SLICES)) $(CASES)

.PHONY: chaos-budgets
chaos-budgets: $(GENERATED)  ## Charge budgets while processes are killed, then check every answer (OPERATIONS=100000 SEED=1)
	@$(PYTHON) -m tests.chaos.budgets --operations $(or $(OPERATIONS),100000) --seed $(or $(SEED),1)

.PHONY: chaos-approvals
chaos-approvals: $(GENERATED)  ## Let fifty people decide at once, 200 times, and everybody die at each place (RACES=50 for each mix)
	@APPROVALS_RACES=$(or $(RACES),50) SAGA_VICTIMS=all $(PYTHON) -m pytest tests/approvals/test_races.py tests/chaos/test_sagas.py -q

.PHONY: clean
clean:  ## Delete what was generated and installed, not the data
	@rm -rf gen build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the others need ---

# The path file puts the checkout and gen/ on the import path.
$(INSTALLED): requirements.lock
	@set -e; for python in python3.11 python3 none; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
	done; \
	if [ "$$python" = none ]; then echo "Python 3.11 or later is needed, as python3.11 or python3" >&2; exit 1; fi; \
	$(PYTHON) -c '' 2>/dev/null || "$$python" -m venv --clear .venv; \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock; \
	$(PYTHON) -c 'import os, sysconfig; print(os.getcwd(), os.path.join(os.getcwd(), "gen"), sep="\n", \
		file=open(os.path.join(sysconfig.get_path("purelib"), "enterprise_billing.pth"), "w"))'; \
	touch $@

# Generated aside and moved in whole, so that nobody finds half of it; of two at once the second finds it done.
$(GENERATED): $(INSTALLED) $(PROTOS)
	@set -e; mkdir -p build; aside=$$(mktemp -d build/gen.XXXXXX); trap 'rm -rf "$$aside"' EXIT; \
	$(PYTHON) protos/generate.py "$$aside/gen"; \
	touch "$$aside/gen/.generated"; \
	if [ -e gen ]; then mv gen "$$aside/old" 2>/dev/null || true; fi; \
	mv "$$aside/gen" . 2>/dev/null || [ -e $@ ]
