# Two commands for a fresh machine with Python >= 3.11: `make quickstart` and `make test`.
# Another interpreter: `make test PYTHON=python3.13`.
PYTHON ?= python3
WORKDIR ?= runs/quickstart
JOBS ?= 2

.PHONY: quickstart test test-all lint format clean
.DELETE_ON_ERROR:

quickstart: .venv/installed
	.venv/bin/python scripts/quickstart.py --workdir=$(WORKDIR) --virtual_devices=4

test: lint
	.venv-test/bin/python -m pytest -n $(JOBS) --dist=loadfile -q -m "not slow"

# With all combinations of encoders, decoders, mixers, border modes and meshes: some two hours on two cores.
test-all: lint
	.venv-test/bin/python -m pytest -n $(JOBS) --dist=loadfile -q

lint: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/lint-imports

format: .venv-test/installed
	.venv-test/bin/ruff check --fix .
	.venv-test/bin/ruff format .

# A venv is made anew when the dependencies may have changed.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("HoloJAX needs Python >= 3.11, found " + sys.version.split()[0] + "; say make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv-test/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("HoloJAX needs Python >= 3.11, found " + sys.version.split()[0] + "; say make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv-test
	.venv-test/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-test .pytest_cache .ruff_cache .import_linter_cache .hypothesis .jax_cache build dist *.egg-info
