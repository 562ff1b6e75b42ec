# `make help` lists the targets. Each sets up what it needs first: once in 2-3 minutes, then in no time.

VENV ?= .venv
# A python3.10 on PATH may be a shim of pyenv's that fails when run: then the one that pyenv has.
pyenv = $(shell ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(1).*/bin/python 2>/dev/null | sort -V | tail -n 1)
running = $(if $(shell $(1) --version 2>/dev/null),$(1),$(call pyenv,$(patsubst python%,%,$(1))))
# Python 3.10 first: it alone has FastDeploy.
PYTHON ?= $(or $(call running,python3.10),$(call running,python3.12),$(call running,python3.13),\
  $(call running,python3.11),python3)
INTERPRETER := $(or $(call running,$(PYTHON)),$(PYTHON))
VERSION := $(shell "$(INTERPRETER)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
STACK ?= $(if $(filter 3.10 3.11,$(VERSION)),reference,paddle3)

REQUIREMENTS_reference := requirements.txt
REQUIREMENTS_paddle3 := requirements-paddle3.txt
REQUIREMENTS = $(REQUIREMENTS_$(STACK))
# What is installed without its dependencies; each says why.
ALONE_reference_3.10 := requirements-fastdeploy.txt
ALONE_paddle3_3.13 := requirements-python313.txt
ALONE = $(ALONE_$(STACK)_$(VERSION))

RUN = $(VENV)/bin/python
# Which Python it is: the same line from an interpreter and from a virtual environment made by it.
WHICH = -c 'import pip, sys; print(sys.version, sys.base_prefix)'
# The stamp of a finished install is named after its interpreter and its requirements: when either changes, it is not
# there. Contents count, not dates, so a git checkout alone installs nothing.
KEY := $(shell { "$(INTERPRETER)" $(WHICH); cat $(REQUIREMENTS) $(ALONE) requirements-dev.txt; } 2>&1 | cksum | \
  cut -d ' ' -f 1)
STAMP = $(VENV)/.installed-$(KEY)

JOBS ?= 2
BENCHMARKS = train decode large large_train load bfloat16 parallel merge serve batches precision jobs windows stacks file pairs

.DEFAULT_GOAL := help
# Where the environment lost its interpreter, its stamp says nothing.
.PHONY: help setup demo demo-pairs test test-faults docs lint bench bench-peers bench-fresh clean $(if $(realpath $(RUN)),,$(STAMP))

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo "PYTHON=python3.12 chooses the interpreter (now: $(INTERPRETER)), STACK=paddle3 or reference the stack"
	@echo "(now: $(STACK)), VENV=dir the environment (now: $(VENV))."

setup: $(STAMP)  ## install the requirements into .venv

$(STAMP):
	@case "$(STACK) $(VERSION)" in \
	  "reference 3.10" | "reference 3.11" | "paddle3 3.10" | "paddle3 3.11" | "paddle3 3.12" | "paddle3 3.13") ;; \
	  "reference 3."* | "paddle3 "*) echo "$(INTERPRETER) ($$("$(INTERPRETER)" --version 2>&1 | head -n 1)) does not" \
	    "go with the $(STACK) stack: reference needs Python 3.10 or 3.11, paddle3 3.10 to 3.13; name one, as in" \
	    "make PYTHON=python3.12 setup" >&2; exit 2 ;; \
	  *) echo "STACK=$(STACK) is no stack: give STACK=reference or STACK=paddle3, or leave it out" >&2; exit 2 ;; \
	esac
	@rm -f "$(VENV)"/.installed-*
	@if [ "$$("$(RUN)" $(WHICH) 2>&1)" != "$$("$(INTERPRETER)" $(WHICH))" ] || \
	  [ "$$(cat "$(VENV)/.stack" 2>&1)" != "$(STACK)" ]; then \
	  echo "making $(VENV) anew with $$("$(INTERPRETER)" --version), for the $(STACK) stack"; \
	  "$(INTERPRETER)" -m venv --clear "$(VENV)"; echo "$(STACK)" > "$(VENV)/.stack"; fi
	@echo "installing (about 2-3 minutes) ..."
	@"$(RUN)" -m pip install -qq --disable-pip-version-check -r $(REQUIREMENTS) -r requirements-dev.txt
	$(if $(ALONE),@"$(RUN)" -m pip install -qq --disable-pip-version-check --no-deps -r $(ALONE))
	@touch "$@"

demo: setup  ## fine-tune, export and run a tiny model on the CPU
	$(RUN) demo/run_demo.py

demo-pairs: setup  ## make question–answer pairs of documents with a tiny model on the CPU
	$(RUN) demo/run_pairs.py

test: setup  ## run the tests, JOBS of them at once (2)
	$(RUN) -m pytest -n $(JOBS) --dist loadfile

test-faults: setup  ## kill runs at every write step, fuzz all readers, try all pairs of flags: over an hour
	$(RUN) -m pytest tests/faults tests/scripts/test_effects.py -m "faults or not faults" --hypothesis-profile faults

docs: setup  ## write the parameter tables of docs/ from the code
	$(RUN) docs/make_parameters.py

lint: setup  ## check style and formatting
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

bench: setup  ## measure everything in BENCHMARKS.md anew, an hour on an idle machine
	for part in $(BENCHMARKS); do $(RUN) benchmarks/bench_$$part.py --write || exit 1; done

# What others offer, for the comparison alone: in an environment of its own, of which a package may fail to install.
bench-peers: setup  ## measure CTranslate2, llama.cpp and PyTorch beside the ONNX programs; installs them, 10 minutes
	"$(INTERPRETER)" -m venv $(VENV)-peers
	for package in "numpy ctranslate2" "gguf llama-cpp-python" "torch transformers"; do \
	  $(VENV)-peers/bin/python -m pip install -qq --disable-pip-version-check $$package || echo "$$package: left out"; \
	done
	$(RUN) benchmarks/bench_peers.py --peers $(VENV)-peers/bin/python --write

bench-fresh: setup  ## run setup, demo and test in a fresh clone with each Python; installs, 50 minutes
	$(RUN) benchmarks/bench_fresh.py --write

clean:  ## remove .venv and the caches; checkpoints stay
	rm -rf "$(VENV)" .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
