# An existing environment is updated with its own Python.
PYTHON ?= $(firstword $(wildcard .venv/bin/python) python3)
BIN := .venv/bin
INSTALLED := .venv/installed
ONEDL := .venv-onedl
LOWEST := .venv-lowest
COMMA := ,

# A second thread makes the demo's small steps a fifth faster on idle cores and several times slower on busy ones.
export OMP_NUM_THREADS ?= 1

# Bytecode is kept: without it, every process takes 27 s in place of 10 to import torch and OpenMMLab. uv writes none.
unexport PYTHONDONTWRITEBYTECODE

# Two single-threaded processes, to fit a small machine.
PYTEST_OPTIONS ?= --numprocesses 2 --dist worksteal

.PHONY: setup demo demo-segmentation test test-slow test-onedl test-lowest docs check

setup: $(INSTALLED)

# $(call install,FOLDER,EXTRAS,CONSTRAINTS) installs from PyPI into an environment; nothing is compiled. uv takes a minute where
# pip takes five, but does not know the index of a pip.conf.
define install
	$(1)/bin/python -m pip install --disable-pip-version-check --quiet uv
	$(1)/bin/uv pip install --python $(1)/bin/python --constraint $(3) --editable '.[$(2)]' \
		|| { echo "== uv failed; pip goes on, which reads pip.conf" \
		&& $(1)/bin/python -m pip install --disable-pip-version-check --constraint $(3) --editable '.[$(2)]'; }
endef

# $(call set-up,FOLDER,EXTRAS,CONSTRAINTS) makes an environment.
define set-up
	@echo "== Set-up: installing torch and OpenMMLab into $(1), about 6 GB; one to five minutes the first time"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Error: Python 3.10 or later is needed; select it with make PYTHON=...")'
	$(PYTHON) -m venv $(1)
	$(call install,$(1),$(2),$(3))
	@touch $(1)/installed
endef

# Runs again only when the requirements change.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(call set-up,.venv,openmmlab$(COMMA)dev,constraints.txt)

$(ONEDL)/installed: setup.cfg pyproject.toml constraints.txt
	$(call set-up,$(ONEDL),onedl$(COMMA)dev,constraints.txt)

$(LOWEST)/installed: setup.cfg pyproject.toml constraints-lowest.txt
	$(call set-up,$(LOWEST),openmmlab$(COMMA)test,constraints-lowest.txt)

# Continues where it was interrupted; delete work_dirs/ to train again.
demo: $(INSTALLED)
	$(BIN)/convnext-dense demo

demo-segmentation: $(INSTALLED)
	$(BIN)/convnext-dense demo --segmentation

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST_OPTIONS) -m "not slow"

# The others: notebooks, the docs' commands, whole runs of many heads, and exports.
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST_OPTIONS) -m slow

# All tests with the forks, which are imported under the same names.
test-onedl: $(ONEDL)/installed
	$(ONEDL)/bin/python -m pytest $(PYTEST_OPTIONS)

# All tests with the lowest versions that setup.cfg takes; Python 3.10 to 3.12, for which numpy 1.26 has wheels.
test-lowest: $(LOWEST)/installed
	$(LOWEST)/bin/python -m pytest $(PYTEST_OPTIONS)

# The site, in site/, which opens from there and from a server; the tests of it need Chromium. What of it is written by the
# package is that of python tools/write_docs.py.
docs: $(INSTALLED)
	$(call install,.venv,docs,constraints.txt)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	$(BIN)/python -m pytest tests/test_site.py

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/hadolint Dockerfile
	$(MAKE) test
