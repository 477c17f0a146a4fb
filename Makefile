# make demo   reconstruct the packaged series on the CPU, without a network
# make test   the fast tests
# Both create .venv and install what they need: Python >= 3.11 and make suffice.
#
#   make test PYTHON=python3.12     another interpreter (delete .venv first)
#   make test PYTEST_ARGS=tests/io  some of the tests
#   make test-newest                the numeric core on the newest jax, in .venv-newest
#   make wheel                      the wheel, installed alone, runs the demo
#   make docs                       the documentation as pages, in site/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PEERS := $(patsubst third_party/peers/%/requirements.txt,%,\
           $(wildcard third_party/peers/*/requirements.txt))
# The newest Python found decides how new a jax can be had; empty where none is.
NEWEST ?= $(firstword \
            $(lastword $(sort $(wildcard $(HOME)/.pyenv/versions/3.1[2-9].*/bin/python3))) \
            $(foreach name,python3.14 python3.13 python3.12,$(shell command -v $(name))))
CORE_TESTS := tests/projector tests/inverse tests/diffusion tests/model tests/training
BENCHMARKS := $(patsubst launch/%.py,launch.%,$(wildcard launch/benchmark*.py))

.DELETE_ON_ERROR:
.PHONY: demo test slow test-newest newest-python wheel docs lint format types bench tables peers clean

demo: $(VENV)/.installed
	$(BIN)/temdiff demo --out demo_output

# One worker a core: most of a test's time is single-threaded compilation.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope $(PYTEST_ARGS)

# The tests marked slow, which `make test` leaves out.
# pytest exits with 5 where PYTEST_ARGS select none of them.
slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope -m slow $(PYTEST_ARGS) \
	  || test $$? -eq 5

newest-python:
	@echo $(NEWEST)

# What a user beside a current jax has: the newest of everything that setup.cfg asks for.
test-newest:
	@test -n "$(NEWEST)" || { echo "test-newest: expected Python 3.12 or newer, found" \
	  "none; run make with NEWEST=/path/to/python3.13" >&2; exit 1; }
	$(NEWEST) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip --disable-pip-version-check install -qq \
	  --upgrade --upgrade-strategy eager --editable '.[test,train]'
	.venv-newest/bin/temdiff --version
	.venv-newest/bin/python -m pytest --numprocesses auto --dist loadscope \
	  $(or $(PYTEST_ARGS),$(CORE_TESTS))

# Installed beside no checkout, and run from another folder.
wheel: $(VENV)/.created
	rm -rf build dist .venv-wheel
	$(PIP) wheel -qq --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip --disable-pip-version-check install -qq dist/*.whl
	cd .venv-wheel && bin/temdiff demo --out demo_output
	test -s .venv-wheel/demo_output/needle_demo_temdiff.mrc

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(VENV)/.installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

types: $(VENV)/.installed-test
	$(BIN)/python -m mypy

# Every program launch/benchmark*.py; `make bench BENCHMARKS=launch.benchmark` one.
bench: $(VENV)/.installed
	set -e; for program in $(BENCHMARKS); do \
	  $(BIN)/python -m $$program $(BENCH_ARGS); done

# The published tables from their rows, which are kept compressed; nothing is computed.
tables: $(VENV)/.installed
	xz --decompress --keep --force releases/tables/rows_*.jsonl.xz
	set -e; for table in $(notdir $(basename $(wildcard releases/tables/t*.md))); do \
	  $(BIN)/python -m launch.evaluate --config=configs/tables/$$table.py \
	    --out=releases/tables --rebuild; done

# Other projects' projectors, for comparison in the benchmark.  Each pins its own
# versions, so each has its own environment.
peers: $(PEERS:%=.venv-peers/%/.installed)

.venv-peers/%/.installed: third_party/peers/%/requirements.txt
	$(PYTHON) -m venv .venv-peers/$*
	.venv-peers/$*/bin/python -m pip --disable-pip-version-check \
	  install -qq --requirement $<
	touch $@

# pip -qq shows errors alone.  The stamps name what was installed; a newer setup.cfg
# installs again.  The test stamp follows the plain one, so that `make -j demo test`
# runs one pip at a time.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python: expected 3.11 or newer, got" \
	    "$$($(PYTHON) --version); run make with PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/.created
	$(PIP) install -qq --editable .
	touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml $(VENV)/.installed
	$(PIP) install -qq --editable '.[test]'
	touch $@

$(VENV)/.installed-docs: setup.cfg pyproject.toml $(VENV)/.installed-test
	$(PIP) install -qq --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .venv-newest .venv-wheel .venv-peers
	rm -rf demo_output site build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache
