# make demo and make test need only Python 3.11+, make and git: they set up .venv themselves, once.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ROOT_FLAG = $(if $(filter 0,$(shell id -u)),--allow-root)  # in a container the user is often root

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage test-matrix test-slow test-kills test-compile test-open-clip test-browser test-docs check-readme gallery lint lab bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## create .venv with the tested versions (constraints.txt); CPU=1 takes a CPU build of torch, if the package index has one

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; install one, or: make setup PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@if [ -n "$(CPU)" ]; then .ci/cpu-constraints $(BIN)/python > $(VENV)/constraints.txt; else cp constraints.txt $(VENV)/constraints.txt; fi
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## run the five notebooks on the demonstration -> results/demo/report.html
	$(BIN)/m2clip run demo

test: $(READY)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

MATRIX ?= python3.11 python3.12 python3.13
test-matrix:  ## run the tests with Python 3.11 to 3.13, each in .venv-matrix/; MATRIX="/path/to/python3.12 ..." names others
	@for python in $(MATRIX); do \
		command -v $$python >/dev/null || { echo "test-matrix: no $$python on this machine"; continue; }; \
		$(MAKE) test PYTHON=$$python VENV=.venv-matrix/$$(basename $$python) || exit 1; \
	done

test-slow: $(READY)  ## what takes too long for make test: torchrun and accelerate, full-size weights, memory over epochs, a full /dev/shm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

coverage: $(READY)  ## say which lines of m2clip_lib make test does not run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term-missing:skip-covered

test-compile: $(READY)  ## check that torch.compile changes no output and no gradient; needs a C++ compiler
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow_compile

test-open-clip: $(READY)  ## run what depends on open_clip with another copy of it: make test-open-clip OPEN_CLIP=/path/to/open_clip/src
	@test -d "$(OPEN_CLIP)/open_clip" || { echo "make: OPEN_CLIP=$(OPEN_CLIP) holds no open_clip; give the folder above the package" >&2; exit 2; }
	PYTHONPATH="$(OPEN_CLIP)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup tests/models tests/attention tests/train/test_pretrain.py tests/train/test_plan.py tests/evaluate/test_controls.py tests/test_presets.py tests/test_workbook_end_to_end.py

test-browser: $(READY)  ## drive the notebooks and the report in a headless Chromium
	@tests/browser/run.sh $(BIN)/python

test-kills: $(READY)  ## kill a training 20 times at random moments, and the driver of a study; the results must match uninterrupted runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow_kills

test-docs: $(READY)  ## run the commands of README, docs and notebooks on a small demonstration
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -s -m slow_docs tests/test_docs_run.py

check-readme: $(READY)  ## train the README's study again, about half an hour, and compare its table
	PYTHONPATH=tests $(BIN)/python tests/check_readme.py

gallery: $(READY)  ## make docs/gallery/ from the executed notebooks of results/demo
	$(BIN)/python docs/gallery.py demo

lint: $(READY)  ## run ruff (also on notebooks); check the order of imports between rooms, and that notebooks carry no outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/nbstripout --verify --extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution metadata.language_info.version" notebooks/*.ipynb

lab: $(READY)  ## open JupyterLab on the notebooks
	@[ -w "$$HOME" ] || export HOME="$$(mktemp -d)"; $(BIN)/jupyter lab notebooks $(ROOT_FLAG) --ServerApp.tornado_settings='{"websocket_max_message_size": 1073741824}'  # large enough to upload videos

bench: $(READY)  ## measure this machine
	$(BIN)/m2clip bench all

lock: $(READY)  ## write the installed versions to constraints.txt
	others=$$(sed -n '/^#/,$$p' constraints.txt); $(BIN)/python -m pip freeze --exclude-editable > constraints.txt; echo "$$others" >> constraints.txt

clean:  ## remove what the demo and the tests wrote; keep .venv, your data folders, runs and checkpoints
	rm -rf results/demo checkpoints/demo checkpoints/backbones data/demo .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
