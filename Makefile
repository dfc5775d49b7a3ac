# Commands for a checkout; `make help` lists them. They need only make and one of the Pythons below.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Every compiled dependency has wheels for these; `make lock` and a test read the list.
PYTHONS := 3.11 3.12 3.13 3.14
PYTHON := .venv/bin/python
STACK := $(PYTHON) -m deploy.local
INSTALLED := .venv/.installed
DEVELOPMENT := .venv/.installed-dev
GENERATED := gen/.generated
PROTOS := $(shell find protos -name '*.proto') protos/generate.py
TESTS := tests
LOCK = .venv/bin/uv pip compile pyproject.toml --quiet --universal --generate-hashes --no-annotate --no-header \
	$(if $(UPGRADE),--upgrade)
INSTALL := -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r

# Rules of squawk that do not fit: a currency code is char(3), counts and basis points fit 32 bits, the version table
# and the transaction are Alembic's, and no query compares values of an enum.
SQUAWK_EXCEPTIONS := ban-char-field,prefer-bigint-over-int,prefer-text-field,transaction-nesting,require-enum-value-ordering

.PHONY: help
help:  ## List the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 26

# --- the local stack; its state is in .local/ or BILLING_HOME ---

.PHONY: up
up: $(GENERATED)  ## Install, start all processes, wait until they are healthy, print URLs and a token (GATEWAY_PORT=8000)
	@$(STACK) up

.PHONY: down
down: $(INSTALLED)  ## Stop all processes, keep the data
	@$(STACK) down

.PHONY: status
status: $(INSTALLED)  ## Show which processes run
	@$(STACK) status

.PHONY: logs
logs: $(INSTALLED)  ## Follow the logs (NAME=gateway,budgets)
	@$(STACK) logs

.PHONY: events
events: $(INSTALLED)  ## Follow the published events (FROM=start: from the first stored one)
	@$(STACK) events

.PHONY: dead-letters
dead-letters: $(INSTALLED)  ## List events that a consumer failed to handle (TENANT=acme REDRIVE=<event id>|all DROP=<event id>|all)
	@$(STACK) dead-letters

.PHONY: seed
seed: $(INSTALLED)  ## Load missing sample data
	@$(STACK) seed

.PHONY: rates
rates: $(INSTALLED)  ## Load ECB exchange rates (FILE=eurofxref-hist.zip TENANT=acme SINCE=2026-01-01 CONFIRM_LARGE_CHANGE=1)
	@$(PYTHON) -m deploy.rates "$(FILE)" $(if $(TENANT),--tenant "$(TENANT)") $(if $(SINCE),--since "$(SINCE)") \
		$(if $(CONFIRM_LARGE_CHANGE),--confirm-large-change)

.PHONY: usage
usage: $(INSTALLED)  ## Publish simulated usage records (COUNT=100 RATE=50 DUPLICATES=5 BAD=2 TENANT=acme; RATE=0: unlimited)
	@$(PYTHON) -m deploy.simulators.usage

.PHONY: pay
pay: $(INSTALLED)  ## Publish a simulated payment of an invoice (INVOICE=inv_… AMOUNT=100.00 CURRENCY=EUR CONVERTED=90.00 PAYMENT=pay-1 TENANT=acme)
	@$(PYTHON) -m deploy.simulators.payments pay "$(INVOICE)" "$(AMOUNT)"

.PHONY: deactivate-user
deactivate-user: $(INSTALLED)  ## Deactivate a user in the simulated user management (WHO=erin TENANT=acme)
	@$(PYTHON) -m deploy.simulators.directory deactivate "$(WHO)"

.PHONY: token
token: $(INSTALLED)  ## Print a token (ROLE=finance TENANT=acme SUB=alice ENTITY_SCOPE=ent_…,ent_… DEPARTMENT_SCOPE=dep_…)
	@$(STACK) token

.PHONY: address
address: $(INSTALLED)  ## Print the address of a service (SERVICE=budgets)
	@$(STACK) address

.PHONY: psql
psql: $(INSTALLED)  ## Open the database (SERVICE=budgets: with the role of that service)
	@$(STACK) psql

.PHONY: migrate
migrate: $(INSTALLED)  ## Migrate the database of the running stack to the newest revision
	@$(STACK) migrate

.PHONY: reset
reset: $(INSTALLED)  ## Stop all processes and delete data, keys and logs
	@$(STACK) reset

# --- the code ---

.PHONY: protos
protos: $(GENERATED)  ## Generate gen/ from the protos

.PHONY: openapi
openapi: $(GENERATED)  ## Write docs/openapi.json from the protos
	@$(PYTHON) -m contract.openapi

.PHONY: format
format: $(DEVELOPMENT)  ## Format the code and fix what can be fixed automatically
	@.venv/bin/ruff check --quiet --fix .
	@.venv/bin/ruff format --quiet .

.PHONY: lint
lint: $(GENERATED) $(DEVELOPMENT)  ## Check style, types, protos (lint and breaking changes) and the SQL of the migrations
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/buf lint gen/billing.binpb --config buf.yaml
	@$(MAKE) lint-breaking lint-migrations

# Compares with the last release tag, or with the previous commit while there is none.
.PHONY: lint-breaking
lint-breaking: $(GENERATED) $(DEVELOPMENT)
	@base=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || git rev-parse --verify --quiet HEAD~1); \
	if [ -z "$$base" ] || ! git cat-file -e "$$base:protos/generate.py" 2>/dev/null; then \
		echo "buf breaking: no earlier protos to compare with"; exit 0; \
	fi; \
	mkdir -p build && old=$$(mktemp -d build/breaking.XXXXXX) && trap 'rm -rf "$$old"' EXIT && \
	git archive "$$base" protos | tar -x -C "$$old" && \
	$(PYTHON) "$$old/protos/generate.py" "$$old/gen" "$$old/protos" && \
	.venv/bin/buf breaking gen/billing.binpb --against "$$old/gen/billing.binpb" --config buf.yaml

.PHONY: lint-migrations
lint-migrations: $(DEVELOPMENT)
	@mkdir -p build
	@$(PYTHON) -m deploy.database sql > build/migrations.sql
	@.venv/bin/squawk --assume-in-transaction --exclude $(SQUAWK_EXCEPTIONS) build/migrations.sql

.PHONY: test
test: $(GENERATED) $(DEVELOPMENT)  ## Run all tests in parallel on their own servers (TESTS=tests/budgets)
	@$(PYTHON) -m pytest -n auto --dist worksteal -q $(TESTS)

.PHONY: fuzz
fuzz: $(GENERATED) $(DEVELOPMENT)  ## Send random, mutated and generated input to every RPC and route (FUZZ_CASES=100 FUZZ_SEED=1)
	@FUZZ_CASES=$(or $(FUZZ_CASES),100) FUZZ_SEED=$(or $(FUZZ_SEED),1) $(PYTHON) -m pytest -q \
		tests/access/test_fuzz.py tests/flows/test_generated_requests.py

.PHONY: bench
bench: $(GENERATED) $(DEVELOPMENT)  ## Measure throughput against minimums, write build/bench.json (CASES=budgets,charge_rest SLICES=10)
	@$(PYTHON) -m tests.bench $(if $(SLICES),--slices $(SLICES)) $(CASES)

.PHONY: chaos-budgets
chaos-budgets: $(GENERATED) $(DEVELOPMENT)  ## Charge budgets while processes are killed, then check every reply (OPERATIONS=100000 SEED=1)
	@$(PYTHON) -m tests.chaos.budgets --operations $(or $(OPERATIONS),100000) --seed $(or $(SEED),1)

.PHONY: chaos-approvals
chaos-approvals: $(GENERATED) $(DEVELOPMENT)  ## Race 50 concurrent decisions, 200 times; crash every process at every step (RACES=50 per mix)
	@APPROVALS_RACES=$(or $(RACES),50) SAGA_VICTIMS=all $(PYTHON) -m pytest tests/approvals/test_concurrency.py tests/chaos/test_sagas.py -q

.PHONY: lock
lock: $(DEVELOPMENT)  ## Update the locks after a change of pyproject.toml (UPGRADE=1: to the newest versions)
	@$(LOCK) --extra local -o requirements.lock
	@$(LOCK) --extra local --extra dev -c requirements.lock -o requirements-dev.lock \
		$$(sed -n 's/^\([a-z0-9.-]*\)==.*/--no-emit-package \1/p' requirements.lock)
	@mkdir -p build && sed -n 's/^\([a-z0-9.-]*==[^ ;]*\).*/\1/p' requirements.lock requirements-dev.lock > build/locked.txt
	@.venv/bin/uv pip compile build/locked.txt --no-deps --quiet --universal --no-header --format pylock.toml \
		-o build/pylock.toml > /dev/null
	@$(PYTHON) -m deploy.locks build/pylock.toml

.PHONY: clean
clean:  ## Delete generated and installed files, keep the data
	@rm -rf gen build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- prerequisites ---

# requirements.lock has what runs: the services and the local stack. The path file puts the checkout and gen/ on the
# import path.
$(INSTALLED): requirements.lock
	@set -e; supported='import sys; sys.exit("%d.%d" % sys.version_info[:2] not in "$(PYTHONS)".split())'; \
	for python in $(PYTHON) $(addprefix python,$(PYTHONS)) python3 none; do \
		if "$$python" -c "$$supported" 2>/dev/null; then break; fi; \
	done; \
	if [ "$$python" = none ]; then \
		echo "One of these Pythons is needed: $(PYTHONS), as $(addprefix python,$(firstword $(PYTHONS)))," \
			"…, or as python3. $$(python3 --version 2>/dev/null || echo No Python) was found." >&2; exit 1; \
	fi; \
	[ "$$python" = $(PYTHON) ] || "$$python" -m venv --clear .venv; \
	$(PYTHON) $(INSTALL) requirements.lock; \
	$(PYTHON) -c 'import os, sysconfig; print(os.getcwd(), os.path.join(os.getcwd(), "gen"), sep="\n", \
		file=open(os.path.join(sysconfig.get_path("purelib"), "enterprise_billing.pth"), "w"))'; \
	touch $@

# requirements-dev.lock has what tests and linters need in addition.
$(DEVELOPMENT): requirements-dev.lock $(INSTALLED)
	@$(PYTHON) $(INSTALL) requirements-dev.lock
	@touch $@

# Generated in a temporary folder and moved in whole, so that no process reads half of it; if two run at once, the second
# keeps the result of the first.
$(GENERATED): $(INSTALLED) $(PROTOS)
	@set -e; mkdir -p build; temporary=$$(mktemp -d build/gen.XXXXXX); trap 'rm -rf "$$temporary"' EXIT; \
	$(PYTHON) protos/generate.py "$$temporary/gen"; \
	touch "$$temporary/gen/.generated"; \
	if [ -e gen ]; then mv gen "$$temporary/old" 2>/dev/null || true; fi; \
	mv "$$temporary/gen" . 2>/dev/null || [ -e $@ ]
