# `make demo` and `make test` set up .venv by themselves; nothing else has to be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHECK_PYTHON := import sys; sys.exit(sys.version_info < (3, 11) and f"winnow needs Python 3.11 or newer, this is {sys.version.split()[0]}; set PYTHON=/path/to/python3")

demo: $(VENV)/installed  ## search the documentation of Python's standard library
	$(BIN)/winnow demo

test: $(VENV)/installed  ## everything a change must pass, in the order that fails fastest
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bounds: $(VENV)/installed  ## the property tests of the kernels once more, with array bounds checked
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(VENV)/numba-boundscheck $(BIN)/python -m pytest tests/property tests/unit/test_inverted_index.py tests/unit/test_second_tier.py

STORM := PYTHONPATH=.:tests $(BIN)/python -m
storms: $(VENV)/installed  ## what docs/reliability.md reports, one after another: about two hours
	$(STORM) storms.kill_storm --kills 400
	$(STORM) storms.limits --rounds 300
	$(STORM) storms.failing_disk
	$(STORM) storms.two_threads --seconds 120
	$(STORM) storms.mixed_load --seconds 600
	$(STORM) storms.flips --flips 2000 --searched 50
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(VENV)/numba-boundscheck $(STORM) storms.flips --flips 20 --searched 20 --cuts 2

SECONDS ?= 60
fuzz: $(VENV)/installed $(VENV)-fuzz/installed  ## every parser under attack by atheris, for so many seconds each
	PYTHONPATH=.:tests:$(wildcard $(VENV)/lib/python3*/site-packages) $(VENV)-fuzz/bin/python tests/fuzz/run.py --seconds $(SECONDS)

wheel-check: $(VENV)/installed  ## build the wheel, install it in an empty environment, run the README's first block there
	$(BIN)/python tests/wheel_in_empty_environment.py

# torch stands on the same line as everything else, pinned: otherwise gigabytes of CUDA packages may follow
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c '$(CHECK_PYTHON)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 --constraint constraints.txt --editable '.[all,test]'
	touch $@

# atheris alone, of the same Python: all else comes from $(VENV)
$(VENV)-fuzz/installed:
	$(PYTHON) -m venv $(VENV)-fuzz
	$(VENV)-fuzz/bin/python -m pip install --quiet --disable-pip-version-check atheris==3.0.0
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-fuzz build dist *.egg-info

.PHONY: demo test bounds storms fuzz wheel-check clean
