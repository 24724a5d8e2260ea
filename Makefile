# Each target works in a virtual environment of its own, made from $(PYTHON), where
# cypar is installed as a user would install it. Only python3 (with venv), a C
# compiler and make are needed.

PYTHON ?= python3

# Python runs inside the environment's folder: here, the source folder cypar/, which
# has no compiled modules, would be imported instead of the installed package.
RUN_ENV := .venv
TEST_ENV := .venv-test
TOOLS_ENV := .venv-tools
TOOLS_EXTRAS := [lint,docs]

SOURCES := $(shell find cypar -name "*.py" -o -name "*.py[ix]" -o -name "*.pxd" -o -name "*.h")
PIP := bin/python -m pip --disable-pip-version-check --quiet

# build/lib* keeps modules that no longer exist, and they would be installed.
define install
rm -rf build/lib*
cd $(1) && $(PIP) install "..$(2)"
endef

# What `make faults`, `make mutants` and `make soak` run, and with which seed.
N ?= 2000
SEED ?= 1
MINUTES ?= 60
PROGRAMS ?= 400

.PHONY: help run test bench faults mutants soak lint sanitize docs clean

help:
	@echo "make run     build cypar and run the demo"
	@echo "make test    build cypar in a fresh environment and run all tests"
	@echo "make bench   run the benchmarks"
	@echo "make faults  run N=2000 random programs with random faults"
	@echo "make mutants see that the fault suite notices known bugs"
	@echo "make soak    make mixed calls for MINUTES=60 and watch memory"
	@echo "make lint    check style, types and Cython's hints"
	@echo "make sanitize  run the native core under sanitizers and valgrind"
	@echo "make docs    build the documentation in build/docs"
	@echo "make clean   remove everything that was built"

run: $(RUN_ENV)/installed
	cd $(RUN_ENV) && bin/python -m cypar demo

$(RUN_ENV)/installed: setup.py pyproject.toml $(SOURCES)
	test -x $(RUN_ENV)/bin/python || $(PYTHON) -m venv $(RUN_ENV)
	$(call install,$(RUN_ENV))
	touch $@

test:
	rm -rf $(TEST_ENV)
	$(PYTHON) -m venv $(TEST_ENV)
	$(call install,$(TEST_ENV),[test])
	CYPAR_TEST_INSTALLED=1 $(TEST_ENV)/bin/pytest

bench: $(RUN_ENV)/installed
	cd $(RUN_ENV) && $(PIP) install "..[bench]"
	$(RUN_ENV)/bin/pytest benchmarks -o timeout=0

faults: $(RUN_ENV)/installed
	cd $(RUN_ENV) && $(PIP) install "..[test]"
	$(RUN_ENV)/bin/python tests/faults -n $(N) --seed $(SEED)

mutants: $(RUN_ENV)/installed
	cd $(RUN_ENV) && $(PIP) install "..[test]"
	$(RUN_ENV)/bin/python tests/faults/mutate.py -n $(PROGRAMS) --seed $(SEED)

soak: $(RUN_ENV)/installed
	cd $(RUN_ENV) && $(PIP) install "..[test]"
	$(RUN_ENV)/bin/python tests/faults/soak.py $(MINUTES) --seed $(SEED)

lint: $(TOOLS_ENV)/installed
	$(TOOLS_ENV)/bin/ruff check .
	$(TOOLS_ENV)/bin/ruff format --check .
	PATH="$(CURDIR)/$(TOOLS_ENV)/bin:$$PATH" cython-lint cypar
	$(TOOLS_ENV)/bin/mypy
	$(TOOLS_ENV)/bin/python tools/cython_hints.py

sanitize: $(TOOLS_ENV)/installed
	for kind in thread address undefined valgrind; do \
		$(TOOLS_ENV)/bin/python tests/sanitizers/run.py $$kind || exit 1; \
	done

docs: $(TOOLS_ENV)/installed
	$(TOOLS_ENV)/bin/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"

$(TOOLS_ENV)/installed: setup.py pyproject.toml $(SOURCES)
	test -x $(TOOLS_ENV)/bin/python || $(PYTHON) -m venv $(TOOLS_ENV)
	$(call install,$(TOOLS_ENV),$(TOOLS_EXTRAS))
	touch $@

clean:
	rm -rf $(RUN_ENV) $(TEST_ENV) $(TOOLS_ENV) build dist *.egg-info
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks
	find cypar -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
