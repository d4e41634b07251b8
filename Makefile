# All commands that people and CI run. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
LOCKS := requirements/bootstrap.txt requirements/dev.txt requirements/newest-sdk.txt
LOCK := .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	$(if $(UPGRADE),--upgrade)

# The size of a soak, such as make soak KILLS=5 MINUTES=3 OUTAGE=40.
KILLS ?= 50
MINUTES ?= 240
OUTAGE ?= 1800
# Journey tests spend most of their time waiting, so many more of them run at once than there are cores. Each worker gets
# one test after the other, in the order of tests/conftest.py; those of a group share what the first of them started.
SIDE_BY_SIDE := --numprocesses 10 --dist loadgroup --no-loadscope-reorder
# One process compiles the tests; else each worker does, at the same time.
COLLECT := $(BIN)/pytest --collect-only --quiet > .venv/collected.log || { cat .venv/collected.log; exit 1; }

export CLICOLOR ?= 1
# Bytecode is kept, whatever the environment says: a hundred Python programs of one run share it.
unexport PYTHONDONTWRITEBYTECODE
# mypy knows each file by its content, so a new clone need not check again what another one has: 25 seconds.
export MYPY_CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/worklease/mypy
# The programs under tools/ and bench/ are not part of the package.
demo e2e image node test-node tools-bin: export PYTHONPATH := tools
bench: export PYTHONPATH := bench:tools

##@ For users

.PHONY: help
help: ## List the targets
	@[[ -t 1 ]] && colour=1 || colour=; awk -v colour="$$colour" ' \
		function paint(code, text) { return colour ? "\033[" code "m" text "\033[0m" : text } \
		BEGIN { FS = ":.*## " } \
		/^##@/ { print "\n" paint(1, substr($$0, 5)) } \
		/^[a-z-]+:.*## / { print "  " paint(36, sprintf("make %-10s", $$1)) "  " $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) ## See the operator at work; ONCE=1 runs the demo once, checks each claim and exits
	@$(BIN)/python -m demo $(if $(ONCE),--once)

.PHONY: e2e
e2e: $(READY) ## Run a user's whole journey on the cluster of KUBECONFIG, after asking; E2E_IMAGE names the image
	@$(BIN)/python -m e2e

.PHONY: node
node: $(READY) ## Start a real node on this machine, as root on Linux, and say how to use it; DOWN=1 ends it
ifdef DOWN
	@$(BIN)/python -m node down
else
	@compgen -G "dist/worklease-operator-*.oci.tar" > /dev/null || $(BIN)/python -m image
	@$(BIN)/python -m node up
endif

##@ For contributors

.PHONY: dashboard
dashboard: $(READY) ## Generate the chart's Grafana dashboard
	@PYTHONPATH=tools $(BIN)/python -m observability dashboard

.PHONY: docs
docs: $(READY) ## Generate the pages that come from the code, and build the documents as a site into site/
	@PYTHONPATH=tools $(BIN)/python -m docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "The site is in site/: open site/index.html"

.PHONY: pictures
pictures: tools-bin ## Draw the demo and the dashboard's main panels from real runs, into docs/pictures
	@PYTHONPATH=tools $(BIN)/python -m demo --picture docs/pictures/demo.svg
	@PYTHONPATH=tests:tools $(BIN)/python -m observability pictures

.PHONY: test
test: tools-bin ## All that CI runs except the image: style, types, layers, and every test
	@$(COLLECT)
	@$(BIN)/pytest $(SIDE_BY_SIDE) --durations 15

.PHONY: image
image: $(READY) ## Build the image, list what is in it, and check it, as root; PYTHON_IMAGE=... names another base
	@$(BIN)/python -m image
	@$(BIN)/pytest -m image tests/image

.PHONY: test-node
test-node: $(READY) ## Run the tests on a real node, as root on Linux; where there cannot be one, say why
	@$(BIN)/python -m node prepare
	@$(BIN)/pytest -m node --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 10 tests/node

.PHONY: check
check: $(READY) ## The quick part: style, types, layers, and the tests that need no other program
	@$(COLLECT)
	@$(BIN)/pytest $(SIDE_BY_SIDE) --quiet -m "not alerts and not chart and not cluster and not journey and not image and not node"

.PHONY: lint
lint: $(READY) ## Style, types and layers only
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo --cache-dir .venv/.import-linter > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }

.PHONY: soak
soak: tools-bin ## Run the long tests, for hours: 100,000 examples, fifty kills, outages of 30 minutes, lost answers; prints tables
	@HYPOTHESIS_PROFILE=soak $(BIN)/pytest --numprocesses 2 --timeout 0 tests/properties \
		tests/journey/test_a_crash_at_any_write.py
	@PYTHONPATH=tests:tools $(BIN)/python -m soak --kills $(KILLS) --minutes $(MINUTES) --outage $(OUTAGE)
	@PYTHONPATH=tests:tools $(BIN)/python -m soak.killed_pools --kills $(KILLS) --sessions $$((2 * $(KILLS)))
	@for profile in hosted o m; do PYTHONPATH=tests:tools $(BIN)/python -m soak.lost_answers --profile $$profile || exit 1; done
	@PYTHONPATH=tests:tools $(BIN)/python -m soak.replicas

# QUICK=1 is a smoke test; SIZES=1000/5,10000/30 chooses leases and seconds between beats; WAVES=1 checks the waves;
# REPLICAS=3 measures so many processes beside one, and the kill of one; PROXY=1 measures the proxy beside a worker,
# for ten minutes of a silent stream; with QUICK=1 in ten seconds;
# POOL=1 measures a pool, beside 5,000 kept leases or those of SIZES, in an hour or as WINDOW says; with QUICK=1 a few;
# DOCUMENT=1 writes the table into docs/performance.md, CHART=1 the picture beside it.
.PHONY: bench
bench: tools-bin ## Measure what a lease costs, beside a bare HTTP loop and the usual Kopf operator: an hour
	@BENCH_COMMAND="make bench$(if $(SIZES), SIZES=$(SIZES))$(if $(PAIRS), PAIRS=$(PAIRS))$(if $(WINDOW), WINDOW=$(WINDOW))$(if $(CHART), CHART=1)" \
		$(BIN)/python -m benchmark $(if $(QUICK),--quick) $(if $(SIZES),--sizes $(SIZES)) $(if $(WAVES),--waves) \
		$(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(PROXY),--proxy) $(if $(POOL),--pool) \
		$(if $(PAIRS),--pairs $(PAIRS)) $(if $(WINDOW),--window $(WINDOW)) $(if $(LINES),--lines $(LINES)) \
		$(if $(DOCUMENT),--document docs/performance.md) $(if $(CHART),--chart docs/performance.svg)

.PHONY: fix
fix: $(READY) ## Format the code, and fix what ruff can fix
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format --quiet

.PHONY: tools-bin
tools-bin: $(READY) ## Build the control plane and the other pinned tools, if they are missing
	@$(BIN)/python -m controlplane binaries

.PHONY: chart
chart: tools-bin ## Generate what comes from the chart: its README, and the rendered manifests for the tests
	@PYTHONPATH=tools $(BIN)/python -m chart

.PHONY: lock
lock: $(READY) ## Compile requirements/*.txt from pyproject.toml and *.in; UPGRADE=1 takes the newest versions
	@$(LOCK) requirements/bootstrap.in -o requirements/bootstrap.txt
	@$(LOCK) requirements/go.in -o requirements/go.txt
	@$(LOCK) pyproject.toml -o requirements/runtime.txt
	@$(LOCK) pyproject.toml --group dev -c requirements/runtime.txt -o requirements/dev.txt
	@$(LOCK) requirements/build.in -c requirements/dev.txt -o requirements/build.txt
	@$(LOCK) --no-deps requirements/newest-sdk.in -o requirements/newest-sdk.txt

.PHONY: clean
clean: ## Remove .venv and every cache in this folder; the built tools stay in the user's cache
	@rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist requirements/wheels
	@find operator tests tools -type d -name __pycache__ -prune -exec rm -rf {} +

# The environment, exactly as locked. pip is only there to install uv; `uv pip sync` removes it again.
$(READY): pyproject.toml $(LOCKS)
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) was not found: install Python 3.11 or newer, or name yours, \
	as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, but \
	$(PYTHON) is $$($(PYTHON) --version): name another, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo "$(PYTHON) lacks venv or ensurepip: install them \
	(Debian, Ubuntu: apt install python3-venv), or name another, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	exit 1; }
	@echo "Installing the locked packages into .venv: about a minute the first time, seconds after a change."
	@which='import sys; print(sys.base_prefix, sys.version)'; \
	[[ "$$($(BIN)/python -c "$$which" 2> /dev/null)" == "$$($(PYTHON) -c "$$which")" ]] || rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes -r requirements/bootstrap.txt
	@$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@rm -rf .venv/newest-sdk # a second version of one package: a test puts the folder before the others
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --target .venv/newest-sdk --no-deps --require-hashes \
		-r requirements/newest-sdk.txt
	@touch $@
