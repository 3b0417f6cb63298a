# `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEER := .venv-fidelity
PEERS := .venv-peers
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test test-browser test-fidelity soak bench bench-peers check format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/installed ## a virtual environment in .venv with ddpm in it

demo: $(VENV)/installed ## train on the embedded pictures for about three minutes, sample, and say what to open
	@rm -rf runs/demo samples/demo
	$(BIN)/ddpm train fashion --budget 3m --out runs/demo
	$(BIN)/ddpm sample runs/demo -n 100 --out samples/demo
	@echo
	@echo "Your model's pictures: samples/demo/grid.png, and how they came about: samples/demo/film.webp"
	@echo "How it was made, on one page:            runs/demo/report.html"
	@echo "The embedded model, trained for longer:  $(BIN)/ddpm sample fashion"
	@echo "Your own pictures:                       $(BIN)/ddpm train FOLDER"

test: $(VENV)/tested check ## every check and test
	$(BIN)/python -m pytest

test-browser: $(VENV)/tested ## open a report in headless Chromium, which is installed if there is none
	@bash scripts/chromium.sh
	$(BIN)/python -m pytest -m browser

test-fidelity: $(PEER)/installed ## compare scores with torch-fidelity's own, in an environment of its own of 6 GB
	$(PEER)/bin/python -m pytest -m fidelity tests/test_fidelity_peer.py

soak: $(VENV)/tested ## faults by the hundred: kills, hostile files, processes; half an hour at most
	$(BIN)/python -m pytest -m soak -rA

bench: $(VENV)/tested ## speed, ours and diffusers' in turn, into docs/performance.md; half an hour on a quiet machine
	$(BIN)/python benchmarks/bench

bench-peers: $(PEERS)/installed ## the same with peers that need torchvision, in an environment of its own of 6 GB
	$(PEERS)/bin/python benchmarks/bench --only peers

check: $(VENV)/tested ## style, types and the direction of imports
	$(BIN)/ruff format --check --quiet src tests benchmarks scripts examples
	$(BIN)/ruff check --quiet src tests benchmarks scripts examples
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; false; }

format: $(VENV)/tested ## bring the code into its format
	$(BIN)/ruff format src tests benchmarks scripts examples
	$(BIN)/ruff check --fix src tests benchmarks scripts examples

clean: ## remove the virtual environment, the demo's files and what tools left behind
	rm -rf $(VENV) $(PEER) $(PEERS) runs/demo samples/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python $(PEER)/bin/python $(PEERS)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "ddpm needs Python 3.10 or newer; name one with: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(@:/bin/python=) || { rm -rf $(@:/bin/python=); exit 1; }

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) ..."
	@# torch first: what depends on it must not choose another build
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/tested: $(VENV)/installed
	$(PIP) --editable '.[test]'
	@touch $@

$(PEER)/installed: pyproject.toml | $(PEER)/bin/python
	@echo "installing torch, torchvision and torch-fidelity into $(PEER): 6 GB ..."
	@# together, so that they fit each other, and without constraints.txt, whose torch need not have a torchvision
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check torch torchvision torch-fidelity torchmetrics
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[eval]' pytest hypothesis beartype
	@touch $@

$(PEERS)/installed: pyproject.toml | $(PEERS)/bin/python
	@echo "installing torch, torchvision, denoising-diffusion-pytorch and azula into $(PEERS): 6 GB ..."
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
		torch torchvision denoising-diffusion-pytorch azula diffusers
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@
