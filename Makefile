# `make help` lists the targets. Each sets up what it needs first: once in 2-3 minutes, then in no time.

VENV ?= .venv
# Python 3.10 where one runs: it has FastDeploy. A python3.10 on PATH may be a shim of pyenv's that fails when run.
PYENV_3_10 = $(shell ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.10.*/bin/python 2>/dev/null | sort -V | tail -n 1)
PYTHON ?= $(if $(shell python3.10 --version 2>/dev/null),python3.10,$(or $(PYENV_3_10),python3))

RUN = $(VENV)/bin/python
# Which Python it is: the same line from an interpreter and from a virtual environment made by it.
WHICH = -c 'import pip, sys; print(sys.version, sys.base_prefix)'
# The stamp of a finished install is named after its interpreter and its requirements: when either changes, it is not
# there. Contents count, not dates, so a git checkout alone installs nothing.
KEY := $(shell { "$(PYTHON)" $(WHICH); cat requirements.txt requirements-dev.txt; } 2>&1 | cksum | cut -d ' ' -f 1)
STAMP = $(VENV)/.installed-$(KEY)

BENCHMARKS = train decode large large_train parallel merge serve precision jobs

.DEFAULT_GOAL := help
# Where the environment lost its interpreter, its stamp says nothing.
.PHONY: help setup demo test test-faults docs lint bench clean $(if $(realpath $(RUN)),,$(STAMP))

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo "PYTHON=python3.11 chooses the interpreter (now: $(PYTHON)), VENV=dir the environment (now: $(VENV))."

setup: $(STAMP)  ## install the requirements into .venv

$(STAMP):
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null || { echo \
	  "$(PYTHON) ($$("$(PYTHON)" --version 2>&1 | head -n 1)) is no Python 3.10 or 3.11, which paddlepaddle 2.6.2" \
	  "needs: name one, as in make PYTHON=/usr/bin/python3.10 setup" >&2; exit 2; }
	@rm -f "$(VENV)"/.installed-*
	@if [ "$$("$(RUN)" $(WHICH) 2>&1)" != "$$("$(PYTHON)" $(WHICH))" ]; then \
	  echo "making $(VENV) anew with $$("$(PYTHON)" --version)"; "$(PYTHON)" -m venv --clear "$(VENV)"; fi
	@echo "installing (about 2-3 minutes) ..."
	@"$(RUN)" -m pip install -qq --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch "$@"

demo: setup  ## fine-tune, export and run a tiny model on the CPU
	$(RUN) demo/run_demo.py

test: setup  ## run the tests
	$(RUN) -m pytest

test-faults: setup  ## kill runs at every write step, fuzz all readers, try all pairs of flags: over an hour
	$(RUN) -m pytest tests/faults tests/scripts/test_effects.py -m "faults or not faults" --hypothesis-profile faults

docs: setup  ## write the parameter tables of docs/ from the code
	$(RUN) docs/make_parameters.py

lint: setup  ## check style and formatting
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

bench: setup  ## measure everything in BENCHMARKS.md anew, an hour on an idle machine
	for part in $(BENCHMARKS); do $(RUN) benchmarks/bench_$$part.py --write || exit 1; done

clean:  ## remove .venv and the caches; checkpoints stay
	rm -rf "$(VENV)" .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
