# Every target does its own set-up: Python 3.11 or newer, make and a package index are enough.
PYTHON ?= python3
ifeq ($(OS),Windows_NT)
  BIN := .venv/Scripts
else
  BIN := .venv/bin
endif
RUN := $(BIN)/coursekit
INSTALL := $(PYTHON) .ci/install.py

# The course runs on its own environment alone: nothing of another project, another Jupyter or another kernel leaks in.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP JUPYTER_PATH JUPYTER_DATA_DIR JUPYTER_CONFIG_DIR JUPYTER_CONFIG_PATH IPYTHONDIR MPLBACKEND VIRTUAL_ENV
export PYTHONUTF8 := 1
# glibc hands freed memory back to the system, and a training step asks for it again: a third of the time of a network on the CPU
export MALLOC_TRIM_THRESHOLD_ ?= 2000000000
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824

.DEFAULT_GOAL := help
.PHONY: help setup course lab test site readme export bench clean

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | awk -F'|' '{printf "  make %-8s %s\n", $$1, $$2}'

course: setup ## run every lesson in order, then show a table of results; pages to read in _course/
	@$(RUN) course $(ARGS)

lab: setup ## open your copies of the lessons in JupyterLab (ARGS=--edit: the lessons themselves)
	@$(RUN) lab $(ARGS)

test: setup ## prove that everything works: exports, README, ruff, every notebook, pytest
	@$(RUN) test $(ARGS)

site: setup ## write the lessons as HTML to _course/ from their committed outputs
	@$(RUN) site

readme: setup ## write README.md from nbs/index.ipynb
	@$(RUN) readme

export: setup ## write coursekit/ from the notebooks
	@$(RUN) export

bench: ## measure against fastai and a bare PyTorch loop
	@$(INSTALL) bench
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove .venv, _course and build leftovers
	rm -rf .venv _course build dist *.egg-info .pytest_cache .ruff_cache nbs/models
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

setup: # .venv with the tested versions, made once
	@$(INSTALL)
