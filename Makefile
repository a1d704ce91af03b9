# Tocsin. `make run` sets everything up and serves; `make test` sets everything up and tests.
# Set-up is a virtual environment in .venv with the pinned requirements; it is done again only when they change.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes
JOBS   ?= 2
ARGS   ?=
ONLY   ?=

.DEFAULT_GOAL := help
.PHONY: help run test check bench campaign pins clean venv runtime dev peers chromium pgbouncer

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

run: runtime ## set up, then serve (ARGS="--config FILE" …)
	@exec $(PY) run.py serve $(ARGS)

test: dev chromium pgbouncer ## set up, then run every test (ARGS="tests/unit -k config" …)
	@$(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: dev ## style, types, layers, and the texts of both languages
	@$(PY) -m ruff check .
	@$(PY) -m mypy server notifiers run.py
	@$(PY) -m pytest -q tests/unit/test_i18n.py tests/unit/test_layers.py

bench: dev peers ## measure (ONLY=name: one part alone)
	@$(PY) -m tests.bench $(ONLY) $(ARGS)

campaign: dev ## break servers and clusters in every way, many times over (ARGS="--quick", ARGS=--help)
	@$(PY) -m tests.faults.campaign $(ARGS)

pins: dev ## write the requirements*.txt anew from the *.in
	@$(PY) -m pip install --quiet --disable-pip-version-check pip-tools
	@for name in requirements requirements-dev requirements-bench; do \
	  $(PY) -m piptools compile --quiet --upgrade --generate-hashes --allow-unsafe --no-strip-extras --no-header \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file $$name.txt $$name.in; done

clean: ## remove what was set up and what the tests left
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A copy of the requirements stands in the environment once they are installed: same text, nothing to do.
runtime: venv
	@cmp -s requirements.txt $(VENV)/runtime.txt || { echo "Installing the requirements…" && \
	  $(PIP) -r requirements.txt && cp requirements.txt $(VENV)/runtime.txt; }

dev: venv
	@cmp -s requirements-dev.txt $(VENV)/dev.txt || { echo "Installing the requirements of the tests…" && \
	  $(PIP) -r requirements-dev.txt && cp requirements-dev.txt $(VENV)/dev.txt && cp requirements.txt $(VENV)/runtime.txt; }

# What cannot be installed is named as missing in the table.
peers: dev
	@test ! -e requirements-bench.txt || cmp -s requirements-bench.txt $(VENV)/bench.txt || { echo "Installing the peers…" && \
	  $(PIP) -r requirements-bench.txt && cp requirements-bench.txt $(VENV)/bench.txt; } || echo "Some peers are missing." >&2

# Debian's python3 comes without ensurepip, which venv needs; root can mend that here and now.
venv:
	@$(PY) -c '' 2>/dev/null && test -e $(VENV)/made || { \
	  command -v $(PYTHON) >/dev/null || { echo "make: expected $(PYTHON) 3.11 or later; install it: apt-get install python3 python3-venv" >&2; exit 1; }; \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: expected Python 3.11 or later, got $$($(PYTHON) --version); name another with make PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -c 'import ensurepip' 2>/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; } || \
	    { echo "make: expected Python's ensurepip; install it: sudo apt-get install python3-venv" >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear $(VENV) && touch $(VENV)/made; }

chromium: dev
	@$(PY) tests/browser/chromium.py

pgbouncer: dev
	@$(PY) -m tests.cluster.pgbouncer
