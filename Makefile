# Everything that a developer or CI runs. Each target first installs and builds what it needs; if
# that is up to date, it starts within seconds.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
NPM := ../scripts/with-node npm
FRONTEND_SOURCES := $(shell find frontend/src frontend/public -type f 2>/dev/null) \
	frontend/index.html frontend/vite.config.ts frontend/tsconfig.json
ARGS ?=

# Nothing here reads or writes the home folder.
export npm_config_cache ?= $(CURDIR)/build/npm-cache
export npm_config_update_notifier := false
# Without bytecode each of the many processes that tests start compiles its modules again.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo up wheel test test-fast test-faults faults check lint types contracts generated frontend-check \
	docker-check deploy-check bench bench-profile bench-sweeps bench-overhead bench-startup bench-allocator \
	setup setup-dev setup-bench setup-compat frontend format openapi lock audit clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# ------------------------------------------------------------------------------------ for users

demo: setup frontend ## Run the published experiment at demo scale, then keep serving (ARGS=--exit stops)
	$(VENV)/bin/halflayer demo $(ARGS)

up: setup frontend ## Start Halflayer on this machine
	$(VENV)/bin/halflayer up $(ARGS)

# Emptied first: setuptools would pack what an earlier build left there.
wheel: setup frontend ## Build the wheel into build/wheel; it includes the page and the migrations
	@rm -rf build/lib build/wheel
	@$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	@ls build/wheel/*.whl

# ------------------------------------------------------------------------------- for developers

PYTEST := $(PY) -m pytest --durations=25
# A file's tests run in one process, so that what they share is made once.
# Three processes on two cores: many tests wait, for a browser or a heartbeat.
BY_FILE := -n 3 --dist loadfile --no-loadscope-reorder

test: setup-dev setup-bench setup-compat frontend ## Run all tests except fault injection (ARGS='tests/app -k runs' for some)
	$(PYTEST) $(BY_FILE) -m "not faults" $(ARGS)

test-fast: setup-dev ## Run the unit tests: no servers, no processes, within a minute
	$(PYTEST) $(BY_FILE) -m unit $(ARGS)

test-faults: setup-dev frontend ## Run the quicker fault scenarios, reduced (--short)
	$(PYTEST) -n 2 --dist load --maxschedchunk 1 -m faults $(ARGS)

faults: setup-dev ## Inject faults into an installation, report data loss (ARGS='--short --only kills')
	@$(PY) -m faults $(ARGS)

check: lint types contracts generated frontend-check docker-check deploy-check test test-faults ## Everything that CI runs

lint: setup-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: setup-dev
	$(VENV)/bin/mypy

contracts: setup-dev
	$(VENV)/bin/lint-imports

generated: setup-dev frontend/node_modules/.stamp
	$(PY) -m app.openapi | diff -u frontend/openapi.json - \
		|| (echo "frontend/openapi.json is stale: run make openapi" >&2; exit 1)
	cd frontend && $(NPM) run --silent check

frontend-check: frontend/node_modules/.stamp
	cd frontend && $(NPM) run --silent lint
	cd frontend && $(NPM) run --silent typecheck
	cd frontend && $(NPM) run --silent test

docker-check: setup-dev
	$(VENV)/bin/hadolint docker/*.Dockerfile
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@scripts/check-compose

deploy-check: setup-dev
	@scripts/check-deploy

bench: setup setup-bench ## Compare kdcore with a plain implementation (ARGS='--shape demo --only distill')
	@$(PY) -m benchmarks.bench $(ARGS)

bench-profile: setup ## Profile a training step, with its upper bound
	@$(PY) -m benchmarks.breakdown $(ARGS)

bench-sweeps: setup ## Measure how a step's time grows; draws docs/performance-sweeps.svg
	@$(PY) -m benchmarks.sweeps --svg docs/performance-sweeps.svg $(ARGS)

bench-overhead: setup ## Measure the cost of logging, events and checkpoints
	@$(PY) -m benchmarks.overhead $(ARGS)

bench-startup: setup ## Measure the time to the first step, and to tokenise a corpus
	@$(PY) -m benchmarks.startup $(ARGS)

bench-allocator: setup ## Measure the effect of keeping freed memory
	@$(PY) -m benchmarks.allocator $(ARGS)

format: setup-dev frontend/node_modules/.stamp ## Format all code and sort imports
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	cd frontend && $(NPM) run format

openapi: setup-dev frontend/node_modules/.stamp ## Regenerate the OpenAPI document and the client types
	$(PY) -m app.openapi > frontend/openapi.json
	cd frontend && $(NPM) run generate

lock: setup-dev ## Resolve the dependencies of pyproject.toml (ARGS=--upgrade for newer versions)
	scripts/lock $(ARGS)

audit: setup-dev frontend/node_modules/.stamp ## Check the locked dependencies for known vulnerabilities
	$(VENV)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements-dev.lock
	$(VENV)/bin/pip-audit --strict --disable-pip --no-deps -r requirements-torch.lock
	cd frontend && $(NPM) audit

clean: ## Remove everything that make created, except data
	rm -rf $(VENV) build frontend/node_modules app/web/page *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# -------------------------------------------------------------------------------- prerequisites

setup: $(VENV)/.stamp-run
setup-dev: $(VENV)/.stamp-dev
setup-bench: build/bench/site/.stamp
setup-compat: build/compat/site/.stamp
frontend: app/web/page/index.html

$(PY): | scripts/make-venv
	scripts/make-venv $(VENV)

$(VENV)/.stamp-run: requirements.lock requirements-torch.lock pyproject.toml | $(PY)
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet -r requirements-torch.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.stamp-dev: requirements-dev.lock $(VENV)/.stamp-run
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

# Only the benchmarks' reference implementation uses this folder.
build/bench/site/.stamp: benchmarks/requirements.txt $(VENV)/.stamp-run
	$(PIP) install --quiet --upgrade --no-deps --target build/bench/site -r $<
	@touch $@

# Only the tests with older versions of transformers use this folder.
build/compat/site/.stamp: tests/compat-requirements.txt $(VENV)/.stamp-run
	$(PIP) install --quiet --upgrade --no-deps --require-hashes --target build/compat/site -r $<
	@touch $@

# The virtual environment comes first: if Node is missing, it is installed there.
frontend/node_modules/.stamp: frontend/package-lock.json frontend/package.json | $(PY)
	cd frontend && $(NPM) ci --no-audit --no-fund --loglevel=error
	@touch $@

app/web/page/index.html: frontend/node_modules/.stamp $(FRONTEND_SOURCES)
	cd frontend && $(NPM) run --silent build
	@touch $@
