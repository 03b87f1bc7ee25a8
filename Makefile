# Everything from a clean clone: make demo | make test | make install | make docs | make wheel | make bench | make picture |
# make lock | make audit | make test-kernels | make clean
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.PHONY: install demo test test-kernels check tools docs wheel bench picture lock audit clean

VENV := .venv
BIN := $(VENV)/bin
# The newest interpreter that is named first wins; 3.11 is the oldest that will do.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
# Two makes in one checkout take turns.
LOCKED := mkdir -p $(VENV) && exec 9>$(VENV)/.lock && flock 9

# What the tests and benchmarks use beside Python: peers to compare with, readers to check with.
TOOLS := tcpdump tshark tcpreplay iproute2 iputils-ping iperf3 curl libcap2-bin ethtool lz4 xz-utils bzip2 zstd dpdk-dev netsniff-ng chromium \
	librte-net-af-xdp* nfdump netcat-openbsd suricata zsh fish mandoc man-db groff prometheus fio

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
	$(BIN)/ruff check --no-cache .  # a cached answer does not see that a module has come beside the file
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: tools check
	@.ci/tests

# The live tests on other kernels and NICs, in emulated machines, and the table of docs/kernels.md.  It takes an hour.
test-kernels: $(VENV)/.installed-test
	$(BIN)/python .ci/kernels/run.py $(KERNELS)

# The pages of docs/ as a website: build/docs/index.html
docs: $(VENV)/.installed-test
	$(BIN)/python -m sphinx -q -W --keep-going -n -b html docs build/docs

# A wheel in dist/ whose first run need not compile: with object code for each level of this machine's processors
wheel: $(VENV)/.installed-test
	rm -rf build/code
	$(BIN)/python .ci/object_code.py build/code
	WIRECAP_OBJECT_CODE=build/code $(BIN)/python -m hatchling build -t wheel

bench: tools $(VENV)/.installed-test
	for script in bench/*.py; do
	    echo "== $$script"
	    $(BIN)/python $$script
	done

# docs/losses.png, from a capture on a testbed
picture: tools $(VENV)/.installed-test
	$(BIN)/python .ci/picture.py

# requirements-test.lock: the versions that the tests were last run with, with the digests of their files
lock: $(VENV)/.installed-test
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-annotate --extra test --custom-compile-command "make lock" pyproject.toml -o requirements-test.lock

# Whether a weakness is known of one of them
audit: $(VENV)/.installed-test
	@$(BIN)/python .ci/audit.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +
