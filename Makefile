# Everything that a developer or an operator types. POSIX sh, GNU make 3.81 or newer, and Python 3.11 or newer are all it wants.

PYTHON ?= python3
ECHO_PORT := $(or $(PORT),9001)
PORT ?= 8000
VENV ?= .venv
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV_VERSION := 0.13.8

# A stamp says which lock the environment was made from, so that a second start need not ask pip.
RUN_STAMP := $(VENV)/.stamp-run
DEV_STAMP := $(VENV)/.stamp-dev
FUZZ_STAMP := $(VENV)/.stamp-fuzz
BENCH_STAMP := $(VENV)/.stamp-bench

# What looks at the dependencies stands apart from them: its own are many, and one of them is pip.
AUDIT := $(VENV)-audit
AUDIT_STAMP := $(AUDIT)/.stamp

.DEFAULT_GOAL := help
.PHONY: help run test lint types floors core suite policy cover chart cluster fuzz echo autobahn e2e image bench soak lock sbom audit clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---------------------------------------------------------------------------------------------- environment

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is older than 3.11 or missing: name another with 'make PYTHON=python3.12 …'" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "this python cannot make virtual environments: on Debian, apt-get install python3-venv" >&2; exit 1; }

# $(1): what to say, $(2): the lock to install from.
define install
	@test -x $(BIN)/python || $(MAKE) --no-print-directory $(BIN)/python
	@echo "installing $(1) into $(VENV) (once; again when $(2) changes)"
	@$(PIP) install --require-hashes -r requirements-build.lock
	@$(PIP) install --require-hashes -r $(2)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
endef

$(RUN_STAMP): requirements.lock requirements-build.lock pyproject.toml
	$(call install,the gateway,requirements.lock)

$(DEV_STAMP): requirements-dev.lock requirements-build.lock pyproject.toml
	$(call install,the gateway and its test tools,requirements-dev.lock)
	@touch $(RUN_STAMP)

$(FUZZ_STAMP): requirements-fuzz.lock $(DEV_STAMP)
	@$(PIP) install --require-hashes -r requirements-fuzz.lock
	@touch $@

$(BENCH_STAMP): requirements-bench.lock $(DEV_STAMP)
	@echo "installing what the gateway is measured against into $(VENV) (once; again when requirements-bench.lock changes)"
	@$(PIP) install --require-hashes -r requirements-bench.lock
	@touch $@

$(AUDIT_STAMP): requirements-audit.lock
	@$(PYTHON) -m venv --clear $(AUDIT)
	@$(AUDIT)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-audit.lock
	@touch $@

# ---------------------------------------------------------------------------------------------- run

run: $(RUN_STAMP) ## start the gateway in development mode on PORT (8000)
	@exec $(BIN)/gateway serve --dev --port $(PORT)

# ---------------------------------------------------------------------------------------------- prove

test: lint types floors core suite policy ## everything that must hold: lint, types, floors, tests, policies

lint: $(DEV_STAMP) ## ruff, all rules, and its formatter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_STAMP) ## mypy, strict
	$(BIN)/mypy

floors: $(DEV_STAMP) ## import-linter: inner floors know nothing of outer ones
	$(BIN)/lint-imports

# Only the core is traced: its tests are pure, and a tracer would slow the real servers that the others start.
core: $(DEV_STAMP) ## the core's tests, every branch of the core covered
	$(BIN)/pytest tests/core --numprocesses $(JOBS) --cov gateway.core --cov-branch --cov-report term-missing:skip-covered --cov-fail-under 100

suite: $(DEV_STAMP) ## every other test but those in a browser or a container
	$(BIN)/pytest tests --ignore tests/core --ignore tests/e2e -m "not container" --numprocesses $(JOBS)

policy: $(DEV_STAMP) ## lint the shipped policies and run their tests
	$(BIN)/gateway policy lint --dir policies
	$(BIN)/gateway policy test --dir policies

cover: $(DEV_STAMP) ## branch coverage of the whole package, as a page in htmlcov/
	$(BIN)/pytest tests --ignore tests/e2e -m "not container" --numprocesses $(JOBS) --cov gateway --cov-branch --cov-report html --cov-report term:skip-covered

chart: $(DEV_STAMP) ## the Helm chart alone, by the helm of the PATH where there is one
	HELM="$$(command -v helm)" $(BIN)/pytest tests/helm --numprocesses $(JOBS)

cluster: $(DEV_STAMP) ## the chart on a real Kubernetes API server, which Go builds (minutes, once)
	@programs=$$(sh .ci/cluster); status=$$?; \
	if [ $$status -eq 3 ]; then echo "cluster skipped: no go here to build an API server with"; exit 0; fi; \
	if [ $$status -ne 0 ]; then exit $$status; fi; \
	CLUSTER="$$programs" HELM="$$(command -v helm)" $(BIN)/pytest tests/helm/test_chart_cluster.py

fuzz: $(FUZZ_STAMP) ## coverage-guided fuzzing of the frame parser for SECONDS (60)
	$(BIN)/python tests/fuzz/fuzz_frames.py -max_total_time=$(or $(SECONDS),60)

echo: $(RUN_STAMP) ## echo on the gateway's WebSocket, without credentials, on PORT (9001) of loopback (DEFLATE=on, MAX_BYTES=…)
	@PORT=$(ECHO_PORT) DEFLATE=$(or $(DEFLATE),off) MAX_BYTES=$(MAX_BYTES) exec $(BIN)/python tests/autobahn/echo_server.py

autobahn: $(RUN_STAMP) ## Autobahn's test suite against that echo, by a CPython 2.7 (minutes; CASES="1.* 12.1.*" for a part)
	@python=$$(sh .ci/autobahn $(VENV)/autobahn); status=$$?; \
	if [ $$status -eq 3 ]; then echo "autobahn skipped: no CPython 2.7 here to run it (name one in PYTHON27)"; exit 0; fi; \
	if [ $$status -ne 0 ]; then exit $$status; fi; \
	$(BIN)/python tests/autobahn/suite.py --python "$$python" --site $(VENV)/autobahn --cases "$(CASES)"

e2e: $(DEV_STAMP) ## the try page in a real Chromium
	@chromium=$$(sh .ci/chromium); status=$$?; \
	if [ $$status -eq 3 ]; then echo "e2e skipped: no chromium here, and no way to install one"; exit 0; fi; \
	if [ $$status -ne 0 ]; then exit $$status; fi; \
	CHROMIUM="$$chromium" $(BIN)/pytest tests/e2e

image: $(DEV_STAMP) ## the container image, built and run without an engine (Debian, as root)
	@sh .ci/builder; status=$$?; \
	if [ $$status -eq 3 ]; then echo "image skipped: nothing to build it with here, and no way to install it"; exit 0; fi; \
	if [ $$status -ne 0 ]; then exit $$status; fi; \
	$(BIN)/pytest tests/container -m container

# ---------------------------------------------------------------------------------------------- measure

# With ONLY or QUICK the report is printed and the page stays as it is; the runs are kept either way, in files of their own.
bench: $(BENCH_STAMP) ## the gateway against its peers, into docs/performance.md (RUNS=5, ONLY=text, QUICK=1)
	$(BIN)/python benchmarks/bench.py --json $(VENV)/bench/$(if $(ONLY)$(QUICK),part,runs).json $(if $(RUNS),--runs $(RUNS)) $(if $(ONLY),--only "$(ONLY)") $(if $(QUICK),--quick) $(if $(CHECK),--check)

soak: $(RUN_STAMP) ## clients come and go for SECONDS (600): is everything given back?
	$(BIN)/python benchmarks/soak.py --seconds $(or $(SECONDS),600)

# ---------------------------------------------------------------------------------------------- keep

# Universal locks: one file holds for every platform and Python that the project supports. uv is wanted by nobody else.
# Extras stay in: pip, asked for hashes, looks for `name[extra]` among all releases and stops at one newer than the pinned `name`.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-annotate \
  --custom-compile-command "make lock"

lock: $(BIN)/python ## resolve the dependencies anew into the locks (UPGRADE=1 takes newer ones)
	@$(PIP) install "uv==$(UV_VERSION)"
	$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml --output-file requirements.lock
	$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	printf "atheris>=3,<3.1; python_version < '3.12'\natheris>=3.1; python_version >= '3.12' and python_version < '3.14'\n" | $(COMPILE) $(if $(UPGRADE),--upgrade) - --constraint requirements-dev.lock --output-file requirements-fuzz.lock
	printf 'cyclonedx-bom>=7.5\npip-audit>=2.10\n' | $(COMPILE) $(if $(UPGRADE),--upgrade) - --constraint requirements-dev.lock --output-file requirements-audit.lock
	printf 'matplotlib>=3.11\nnats-server-bin>=2.15\npython-socketio>=5.18\n' | $(COMPILE) $(if $(UPGRADE),--upgrade) - --constraint requirements-dev.lock --output-file requirements-bench.lock
	printf 'hatchling>=1.27\neditables\n' | $(COMPILE) $(if $(UPGRADE),--upgrade) - --constraint requirements-dev.lock --output-file requirements-build.lock

sbom: $(AUDIT_STAMP) ## the bill of materials of what runs (CycloneDX), in dist/
	@mkdir -p dist
	$(AUDIT)/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --mc-type application --output-reproducible --spec-version 1.6 --output-format JSON --validate --output-file dist/portcullis-gateway.cdx.json

audit: $(AUDIT_STAMP) ## known vulnerabilities of what runs; asks an advisory service
	@$(AUDIT)/bin/python .ci/audit.py requirements.lock

clean: ## remove the environment and every cache, but not .gateway/
	rm -rf $(VENV) $(AUDIT) .autobahn .image .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
