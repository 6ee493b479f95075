# One definition of each check; CI and people run the same targets. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
DATA ?= ../shared/data/magnetic_tile
SEEDS ?= 0
METHODS ?= all
MODEL ?= maskline-demo/models/flange
N ?= 20000
MINUTES ?= 60
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help install demo test test-monitoring monitoring-pictures dashboards check audit format format-check lint types contracts bench bench-quality bench-serving gpu-check test-ui page-pictures ui-vendor fuzz soak openapi sbom clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.dev ## Make .venv with everything, development tools included

demo: $(VENV)/.runtime ## Draw parts, train, calibrate, evaluate, serve (ARGS=--no-serve stops before)
	$(BIN)/maskline demo $(ARGS)

test: $(VENV)/.dev postgresql prometheus chromium ## Run the whole test suite, in as many processes as cores (WORKERS=0: in one)
	$(BIN)/python -m pytest -n $(WORKERS)

check: format-check lint types contracts audit coverage ## Everything CI wants: format, lint, types, imports, known vulnerabilities, tests

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

format-check: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev ## Lint
	$(BIN)/ruff check .

types: $(VENV)/.dev ## Check types, strictly
	$(BIN)/mypy

contracts: $(VENV)/.dev ## Check which package may import which
	$(BIN)/lint-imports

audit: $(VENV)/.dev ## Look the pinned packages up among known vulnerabilities (AUDIT=required fails offline)
	$(BIN)/python .ci/audit.py

# The store's tests start a PostgreSQL of their own; where there is none and it cannot be installed, they are skipped.
.PHONY: postgresql
postgresql:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql >/dev/null; } || \
	  echo "no PostgreSQL here: its tests are skipped (apt install postgresql)"

.PHONY: coverage
coverage: $(VENV)/.dev postgresql prometheus chromium ## Run the tests and require 90 % branch coverage of anomaly/, record/, service/ and supervised/
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report= -p no:cacheprovider | tee $(VENV)/pytest.log; exit $${PIPESTATUS[0]}
	$(BIN)/coverage report --include 'anomaly/*,record/*,service/*,supervised/*' --fail-under 90
	$(BIN)/coverage report --include 'training/*' --fail-under 85
	@tail -n 1 $(VENV)/pytest.log

dashboards: $(VENV)/.dev ## Write the Grafana dashboards anew
	$(BIN)/python -m deploy.dashboards

# Prometheus, promtool and Alertmanager are Debian's; without them their tests are skipped.
.PHONY: prometheus
prometheus:
	@command -v promtool >/dev/null && command -v prometheus-alertmanager >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus prometheus-alertmanager >/dev/null; } || \
	  echo "no Prometheus here: its tests are skipped (apt install prometheus prometheus-alertmanager)"

# The page's tests drive Debian's Chromium; without it they are skipped.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-liberation >/dev/null; } || \
	  echo "no Chromium here: the page's tests are skipped (apt install chromium)"

test-ui: $(VENV)/.dev chromium ## The page in a real browser
	$(BIN)/python -m pytest tests/ui

page-pictures: $(VENV)/.dev chromium ## Draw docs/page.md's pictures from the demo's model (after make demo)
	MASKLINE_PICTURES=docs/images $(BIN)/python -m pytest tests/ui/test_pictures.py

# Needs Node and the npm registry; the result is committed, so that nothing else needs either.
ui-vendor: $(VENV)/.dev ## Bundle the page's libraries anew into service/ui/vendor.js
	cd .ci/ui && npm ci --no-fund --no-audit && npx esbuild vendor.js --bundle --format=esm --minify \
	  --target=es2022 --legal-comments=none --outfile=../../service/ui/vendor.js && rm -rf node_modules
	$(BIN)/python .ci/vendor.py

test-monitoring: $(VENV)/.dev prometheus ## A real Prometheus watches a real service: panels, rules, alerts
	$(BIN)/python -m pytest -m 'monitoring or not monitoring' tests/deploy

monitoring-pictures: $(VENV)/.dev prometheus ## Draw the dashboards in docs/images from the live test's Prometheus
	MASKLINE_PICTURES=docs/images $(BIN)/python -m pytest -m 'monitoring or not monitoring' tests/deploy/test_live.py

bench: bench-quality ## All benchmarks

bench-quality: $(VENV)/.bench ## Quality beside PatchCore, PaDiM and others on DATA="folder …", for SEEDS=0,1,2
	$(BIN)/python -m bench.quality $(DATA) --seeds $(SEEDS) --methods $(METHODS) $(ARGS)

bench-serving: $(VENV)/.runtime ## Throughput and latency beside LitServe, Ray Serve and BentoML, around MODEL
	$(PIP) -e '.[bench-serving]'
	$(BIN)/python -m bench.serving $(MODEL) --servers all --open 0.5,0.9,1.5 $(ARGS)

fuzz: $(VENV)/.dev ## Damaged and hostile images against the service: MODEL=folder N=20000
	$(BIN)/python -m bench.fuzz $(MODEL) --count $(N)

soak: $(VENV)/.dev ## An hour of mixed traffic and new versions: MODEL=folder MINUTES=60
	$(BIN)/python -m bench.soak $(MODEL) --minutes $(MINUTES)

gpu-check: $(VENV)/.dev ## What a GPU does with Maskline, in minutes: tables into gpu-check/ (ARGS="--data SET")
	$(PIP) 'aiohttp>=3.10'
	$(BIN)/python -m bench.gpu gpu-check $(ARGS)

openapi: $(VENV)/.dev ## Write docs/openapi.json anew, after a wanted change of the wire contract
	$(BIN)/python -m service.openapi docs/openapi.json

sbom: $(VENV)/.dev ## Write what the wheel and the image are made of (CycloneDX) to sbom/
	$(BIN)/python .ci/sbom.py sbom

clean: ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage

SHELL := /bin/bash

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Maskline needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing (torch is large: a few minutes on a first run)"
	$(PIP) -e '.[openvino]'
	@touch $@

$(VENV)/.bench: $(VENV)/.runtime
	$(PIP) -e '.[bench]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) -e '.[dev]'
	@touch $@
