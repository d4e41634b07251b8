# Everything that people and CI run. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
LOCKS := requirements/bootstrap.txt requirements/dev.txt

export CLICOLOR ?= 1

##@ For users

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  \033[36mmake %-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) tools-bin ## See the main job at work; ONCE=1 tells the story once, checks each claim and exits
	@$(BIN)/python -m demo $(if $(ONCE),--once)

##@ For contributors

.PHONY: test
test: check tools-bin ## All that CI runs but the image: the quick part and every test
	@$(BIN)/pytest

.PHONY: check
check: $(READY) ## The quick part: style, types, layers, and the tests that need nothing
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo --cache-dir .venv/.import-linter > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	@$(BIN)/pytest -q -m "not cluster and not journey"

.PHONY: fix
fix: $(READY) ## Format, and mend what ruff can mend
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format --quiet
