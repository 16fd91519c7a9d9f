# What a contributor needs on day one: demo, test, check, bench. Everything is installed into .venv.
FOLDERS = analysis cli compaction data models regularizers sweeps training
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test check bench picture clean

# Installed anew when the list of dependencies or the packaging changes.
.venv/installed: requirements.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "regx needs Python 3.11 or newer; set PYTHON=python3.12 or the like")'
	@echo "installing into .venv (PyTorch for CUDA takes 5 GB and a few minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	@PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: .venv/installed
	$(BIN)/regx rectangular --depth 50 --dataset moons --lambda 0.01

test: .venv/installed
	$(BIN)/pytest

# Links for type checkers, which cannot see through an editable install.
.types: ; mkdir -p .types/regx && ln -sfn $(patsubst %,../../%,$(wildcard regx/*.py) regx/py.typed $(FOLDERS)) .types/regx/

check: .venv/installed .types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/installed
	$(BIN)/python benchmarks/jumpstart_step.py
	$(BIN)/python benchmarks/penalties_step.py
	$(BIN)/python benchmarks/gates_step.py
	$(BIN)/python benchmarks/resnet_step.py
	$(BIN)/python benchmarks/sweep_step.py
	$(BIN)/python benchmarks/compaction.py
	$(BIN)/python benchmarks/compaction.py --peer

picture: .venv/installed
	$(BIN)/python docs/rescue.py

clean:
	rm -rf .venv .types build dist *.egg-info .pytest_cache .ruff_cache
