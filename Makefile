# Everything from a clean clone: make demo | make test | make install | make bench | make clean
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.PHONY: install demo test check tools bench clean

VENV := .venv
BIN := $(VENV)/bin
# The newest interpreter that is named first wins; 3.11 is the oldest that will do.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# Two makes in one checkout take turns.
LOCKED := mkdir -p $(VENV) && exec 9>$(VENV)/.lock && flock 9

# What the tests and benchmarks use beside Python: peers to compare with, readers to check with.
TOOLS := tcpdump tshark tcpreplay iproute2 iputils-ping iperf3 curl libcap2-bin ethtool dpdk-dev netsniff-ng chromium \
	librte-net-af-xdp*

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "wirecap needs Python 3.11 or newer: no such python3 on the PATH" >&2; exit 2; }
	@$(LOCKED)
	if [ ! -f $@ ] || [ pyproject.toml -nt $@ ]; then
	    $(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/debian-packages python3-venv
	    $(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv $(VENV)
	    $(BIN)/python -m pip install --quiet --no-input --editable '.[plot]'
	    $(BIN)/python -m compileall -q src
	    touch $@
	fi
$(VENV)/.installed-test: $(VENV)/.installed
	@$(LOCKED)
	if [ ! -f $@ ] || [ pyproject.toml -nt $@ ]; then
	    $(BIN)/python -m pip install --quiet --no-input --editable '.[test]'
	    touch $@
	fi

demo: install
	@$(BIN)/wirecap demo

tools:
	@.ci/debian-packages $(foreach t,$(TOOLS),'$t')

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The kernels three times: compiled, as plain Python, and compiled with bounds checks.
test: tools check
	$(BIN)/python -m pytest
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -m kernel
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest -m kernel

bench: tools $(VENV)/.installed-test
	for script in bench/*.py; do
	    echo "== $$script"
	    $(BIN)/python $$script
	done

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find src tests bench examples -name __pycache__ -prune -exec rm -rf {} +
