# SPDX-License-Identifier: Apache-2.0
# `make` alone says what there is.

SHELL := /bin/bash
PYTHON := .venv/bin/python
BENCHES := $(sort $(wildcard bench/*.py))
TEMPLATE_BENCHES := $(wildcard $(addprefix bench/,templates.py batch.py families.py realtime.py))
BENCH_SECONDS ?= 220

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench mutation-score conformance bench-templates verification-doc observation-doc templates-doc planner-doc profile-schema clean require-venv
.NOTPARALLEL:

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## bring this machine to readiness (Debian 12 or 13); does nothing when nothing is missing
	@scripts/setup.sh

demo: setup  ## the whole story on a real sched_ext kernel, in some 5 minutes
	@$(PYTHON) scripts/demo.py

test: setup lint  ## lint, then every test: those that need no machine of their own side by side, then the others
	@$(PYTHON) scripts/run_tests.py

lint: require-venv  ## ruff, mypy --strict and the import contract
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --cache-dir .import_linter_cache

bench: setup  ## every benchmark of bench/, one after the other
	@set -e; for bench in $(BENCHES); do echo "== $$bench"; $(PYTHON) $$bench; done

bench-templates: setup  ## measure the templates for BENCH_SECONDS=220 each, going on where it stopped, and write docs/templates.md
	@set -e; for bench in $(TEMPLATE_BENCHES); do \
		echo "== $$bench"; $(PYTHON) $$bench --seconds $(BENCH_SECONDS) > /dev/null; done
	@$(PYTHON) scripts/templates_doc.py

mutation-score: setup  ## how many planted bugs the verifier catches, and good schedulers it refuses (goes on where it stopped)
	@$(PYTHON) scripts/mutation_score.py

conformance: setup  ## our verdicts against the kernel's own sched_ext selftests, from the linux-source package
	@$(PYTHON) scripts/conformance.py

verification-doc: require-venv  ## write docs/verification.md anew, from the rules and scenarios and bench/results
	@$(PYTHON) scripts/verification_doc.py

profile-schema: require-venv  ## write docs/profile.schema.json anew, from the model of a profile
	@$(PYTHON) -m controller.cli.main observe schema > docs/profile.schema.json.new
	@mv docs/profile.schema.json.new docs/profile.schema.json

observation-doc: require-venv  ## write docs/observation.md anew, from the code's definitions and bench/results
	@$(PYTHON) scripts/observation_doc.py

templates-doc: require-venv  ## write docs/templates.md anew, from templates/ and bench/results
	@$(PYTHON) scripts/templates_doc.py

planner-doc: require-venv  ## write docs/planner.md anew, from the roles, prices and checks and bench/results
	@$(PYTHON) scripts/planner_doc.py

clean:  ## remove what was built here: .venv, caches, build output (the cache of kernels stays)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info
	@find . -name .git -prune -o -name __pycache__ -type d -exec rm -rf {} +

require-venv:
	@[ -x $(PYTHON) ] || { echo "there is no .venv yet: run make setup" >&2; exit 1; }
