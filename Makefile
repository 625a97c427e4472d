# make quickstart   environment, then the whole workflow on text that is on this machine (or TEXT=my.txt)
# make test         environment, then every test
# make lint         format, lint and types
# make soak         the long proofs, of which `make test` runs a sample
# make bench        the benchmarks

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
TEXT ?=

.PHONY: env quickstart test lint soak bench

env: $(STAMP)

$(STAMP): Makefile requirements.txt pyproject.toml tools/install_bmtrain.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(f"Python 3.10 to 3.12 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.11 …") if not (3, 10) <= v <= (3, 12) else None'
	@echo "making the environment $(VENV) (once; a few minutes, most of it the download of PyTorch)"
	@echo "1/4 $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2/4 the packages of requirements.txt: PyTorch, transformers and more; 1 to 5 minutes"
	@$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -r requirements.txt \
		| sed -un '/\.metadata/d; s/^ *\(Downloading\|Using cached\|Processing\|Installing\) \(.\{1,80\}\).*/    \1 \2/p'; \
		test $${PIPESTATUS[0]} = 0
	@echo "3/4 BMTrain and OpenDelta; seconds"
	@$(BIN)/python tools/install_bmtrain.py
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps opendelta==0.3.2
	@echo "4/4 FM9G itself; seconds"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "the environment is ready"

quickstart: env
	$(BIN)/python tools/quickstart.py $(if $(TEXT),--text "$(TEXT)")

test: env
	$(BIN)/python -m pytest -m "not soak" -n 2 --dist loadfile

soak: env
	$(BIN)/python -m pytest -m soak -n 2 --dist worksteal
	$(BIN)/python -m pytest --hypothesis-profile=soak tests/data/stream/test_elastic.py

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: env
	$(BIN)/python benchmarks/train_cpu.py
	$(BIN)/python benchmarks/shares.py
	$(BIN)/python benchmarks/index.py
	$(BIN)/python benchmarks/loader.py $(if $(RIVALS),--rivals "$(RIVALS)")
