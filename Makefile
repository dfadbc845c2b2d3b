# The two commands of a fresh machine are `make demo` and `make test`. `make` alone lists all of them.
#
#   PYTHON            the interpreter to make .venv with; default: the first of python3, python3.13 .. python3.11 that is 3.11 to 3.13
#   TORCH_INDEX_URL   where torch comes from. On x86-64 Linux plain `torch` brings CUDA libraries (gigabytes);
#                     on a machine without GPU: make demo TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
#   PIP_ARGS          more options for pip, e.g. PIP_ARGS="--no-index --find-links wheels" without a network
#   INSTALL           locked (default): the versions of requirements/, checked against their hashes;
#                     newest: the newest of everything that pyproject.toml allows
#   ARGS              passed on to `gainshare up`, `gainshare demo` or pytest, e.g. make test ARGS="-k ledger -x"
#   WORKERS           processes of make test that share the cores; default: one for each
#   TMPDIR            where tests put their temporary files; default: in memory (/dev/shm) where there is room, else /tmp
#   BENCH             which figures `make bench` prints: python -m benchmarks.$(BENCH)

PYTHON ?=
TORCH_INDEX_URL ?=
PIP_ARGS ?=
INSTALL ?= locked
ARGS ?=
BENCH ?= loop

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto
LOCK := pyproject.toml requirements/install $(wildcard requirements/*.txt)
RUNTIME := $(VENV)/.installed
DEVELOPMENT := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick test-long test-newest up check lock bench clean
export TORCH_INDEX_URL PIP_ARGS
# Images for containers often set it. Each of the many processes of a run would then compile all of our modules again.
export PYTHONDONTWRITEBYTECODE :=

help:
	@echo "make demo       the main job end to end: six patches judged, one paid, the credits spent"
	@echo "make test       the whole test suite"
	@echo "make test-quick  under 90 s, no services: what to run between edits"
	@echo "make test-long  the same with soak, big kill runs and slow multi-process tests, then make test-newest"
	@echo "make test-newest  the suite with the newest of everything that pyproject.toml allows"
	@echo "make up         start the site on this machine; prints its address and a login"
	@echo "make check      ruff, mypy, import-linter, migrations"
	@echo "make lock       renew the locked versions in requirements/"
	@echo "make bench      print the figures of python -m benchmarks.$(BENCH)"
	@echo "make clean      stop a running site; remove .venv, .gainshare and caches"
	@echo "Variables are described on top of the Makefile."

demo: $(RUNTIME)
	$(BIN)/gainshare demo $(ARGS)

up: $(RUNTIME)
	$(BIN)/gainshare up $(ARGS)

# A test whose result rests on times has the machine for itself; the others share its cores. 5: nothing was selected.
test: $(DEVELOPMENT)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not long and not measures" $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/python -m pytest -m "not long and measures" $(ARGS) || [ $$? -eq 5 ]

# The stack's and the judge's tests that need neither services nor sandboxes nor long work.
QUICK := not (slow or long or database or sandbox or browser or stack)
test-quick: $(DEVELOPMENT)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "$(QUICK)" tests/model tests/benchmarks $(ARGS)

test-long: $(DEVELOPMENT)
	$(BIN)/python -m pytest -m "long or not long" $(ARGS)
	$(MAKE) test-newest

test-newest:
	.ci/newest

lock: $(DEVELOPMENT)
	requirements/lock $(BIN)/uv
	@echo "The next make installs the new versions. Commit them once make test passes"

# Model and migration checks need settings and a database: both come from a throwaway PostgreSQL.
check: $(DEVELOPMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m gainshare.local.throwaway $(BIN)/mypy
	$(BIN)/python -m gainshare.local.throwaway $(BIN)/python manage.py makemigrations --check --dry-run

bench: $(RUNTIME)
	$(BIN)/python -m benchmarks.$(BENCH) $(ARGS)

clean:
	@for home in $(CURDIR)/.gainshare/demo $(CURDIR)/.gainshare; do \
		if [ -e $$home/supervisor.lock ] && [ -x $(BIN)/gainshare ]; then \
			GAINSHARE_HOME=$$home $(BIN)/gainshare down --delete-data || exit 1; \
		fi; \
	done
	rm -rf $(VENV) .gainshare .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v g++ >/dev/null || command -v c++ >/dev/null || { \
		echo "error: no C++ compiler: install one (Debian: apt-get install g++), then run make again" >&2; exit 1; }
	@for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
		if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "error: no Python 3.11 to 3.13: install one (Debian: apt-get install python3), or name it: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if ! $$found -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "error: $$found lacks venv or ensurepip: install them (Debian: apt-get install python3-venv)" >&2; exit 1; \
	fi; \
	echo "$$found -m venv $(VENV)"; \
	$$found -m venv --clear $(VENV)

$(RUNTIME): $(LOCK) | $(BIN)/python
	@echo "Installing the platform into $(VENV): one to three minutes"
	@requirements/install $(BIN)/python runtime $(INSTALL)
	@echo "Compiling the stack's kernels for this processor: about 20 s"
	@$(BIN)/python -m model.native build >/dev/null || \
		echo "warning: no compiled kernels (see above), so the stack runs on torch alone, slower. To mend it: $(BIN)/python -m model.native build" >&2
	@touch $@

$(DEVELOPMENT): $(RUNTIME)
	@echo "Installing what tests and checks need"
	@requirements/install $(BIN)/python development $(INSTALL)
	@touch $@
