# make demo   reconstruct the packaged series on the CPU, without a network
# make test   the fast tests
# Both create .venv and install what they need: Python >= 3.11 and make suffice.
#
#   make test PYTHON=python3.12     another interpreter (delete .venv first)
#   make test PYTEST_ARGS=tests/io  some of the tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PEERS := $(patsubst third_party/peers/%/requirements.txt,%,\
           $(wildcard third_party/peers/*/requirements.txt))
BENCHMARKS := $(patsubst launch/%.py,launch.%,$(wildcard launch/benchmark*.py))

.DELETE_ON_ERROR:
.PHONY: demo test slow lint format types bench tables peers clean

demo: $(VENV)/.installed
	$(BIN)/temdiff demo --out demo_output

# One worker a core: most of a test's time is single-threaded compilation.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope $(PYTEST_ARGS)

# The tests marked slow, which `make test` leaves out.
# pytest exits with 5 where PYTEST_ARGS select none of them.
slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses auto -m slow $(PYTEST_ARGS) || test $$? -eq 5

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

clean:
	rm -rf $(VENV) .venv-peers demo_output build *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache
