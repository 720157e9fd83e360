# make run     the daemon on ./zstream.db; more options in ARGS="--keys type,user"
# make demo    a throwaway daemon, and what it does, in one terminal
# make test    the tests; make test ARGS="-k settings"
# make faults  kills daemons and cuts the power; make faults ARGS="--soak 20" for longer
# make frameworks   the recipes of docs/frameworks.md, run with Django, FastAPI, Celery, gunicorn
# make bench   all benchmarks, half an hour, and docs/benchmarks.md; make bench-quick tries them out
# make lint, make types, make clean
#
# All of it runs in .venv, which is made with the first Python 3.11 or newer that is found, or with
# PYTHON=/path/to/python3.12, and made anew when setup.cfg changes.

PYTHON ?=
VENV ?= .venv
ARGS ?=
BIN = $(VENV)/bin

# One stamp a named Python; without a name whatever is there will do.
ifeq ($(PYTHON),)
READY := $(or $(firstword $(wildcard $(VENV)/.ready-*)),$(VENV)/.ready-found)
else
READY := $(VENV)/.ready-$(subst /,_,$(PYTHON))
endif
BEFORE := $(shell sed -n 's/^executable = //p' $(VENV)/pyvenv.cfg 2>/dev/null)
CANDIDATES = $(or $(PYTHON),$(BEFORE) python3 python3.14 python3.13 python3.12 python3.11 python)

.PHONY: run demo test faults frameworks lint types bench bench-quick clean
.DEFAULT_GOAL := run

run: $(READY)
	@exec $(BIN)/zstreamd $(ARGS)

demo: $(READY)
	@exec $(BIN)/python examples/demo.py $(ARGS)

test: $(VENV)/.dev
	$(BIN)/pytest $(ARGS)

faults: $(VENV)/.dev
	$(BIN)/pytest tests/faults --dist=load -rA --show-capture=no $(ARGS)

frameworks: $(VENV)/.frameworks
	$(BIN)/pytest tests/frameworks $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python bench/run.py $(ARGS)

bench-quick: $(VENV)/.dev
	$(BIN)/python bench/run.py --quick $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): setup.cfg pyproject.toml
	@set -e; python=; tried=; \
	for each in $(CANDIDATES); do \
	  if version=$$($$each -c 'import sys; print("%d.%d.%d" % sys.version_info[:3]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null); \
	  then python=$$each; break; fi; \
	  tried="$$tried$${tried:+, }$$each ($${version:-not there})"; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "zstream needs Python 3.11 or newer. Tried: $$tried." >&2; \
	  echo "Name one: make $(firstword $(MAKECMDGOALS) run) PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	echo "Making $(VENV) with Python $$version and installing zstream into it …"; \
	rm -rf $(VENV); \
	$$python -m venv $(VENV) || { \
	  echo "This Python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(READY)
	@echo "Installing what tests and checks need …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.frameworks: $(VENV)/.dev
	@echo "Installing the frameworks …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[frameworks]'
	@touch $@

$(VENV)/.bench: $(READY)
	@echo "Installing the libraries of what zstream is compared with …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@
