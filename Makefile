# Three commands: `make run` shows it, `make test` checks it, `make bench` measures it. All set
# themselves up.
#
#   make run                    http://127.0.0.1:8000/ with simulated agents
#   make run PORT=9000          on another port
#   make run DATA_DIR=/tmp/x    with another database
#   make run BROKER=nats        with a worker, and a broker of the demo's own: nats or redis
#   make test                   lint, types, migrations, every test
#   make test TESTS=tests/test_embedded.py WORKERS=0
#   make bench                  every benchmark, into docs/benchmarks.md (leave the machine alone)
#   make bench ROWS=commits,bulk  some of them, into build/benchmarks
#   make screenshots            the pictures of the README, into docs/screenshots

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests
# Each worker has a PostgreSQL of its own; a file's tests stay together, for what they share.
WORKERS ?= 2
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# What `make run` installs: a broker, ours or the user's, takes more. (An address may hold a $.)
DEMO := $(if $(filter nats redis,$(BROKER))$(value AGENT_EVENTS_BROKER_URL),demo-brokers,demo)

export PORT DATA_DIR BROKER

.PHONY: run test bench screenshots lint format types migrations clean

run: $(VENV)/$(DEMO).stamp
	@$(BIN)/python -m project.demo --end-with-parent

test: lint types migrations
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(TESTS)

bench: $(VENV)/test.stamp
	$(BIN)/python -m benchmarks --rows '$(ROWS)'

screenshots: $(VENV)/test.stamp
	$(BIN)/python -m project.screenshots

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	$(BIN)/mypy

# Without a database Django cannot compare with what is applied, and warns; the models it can.
migrations: $(VENV)/test.stamp
	DJANGO_DEBUG=1 $(BIN)/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Stops nothing: end `make run` first.
clean:
	if [ -f .data/postgres.location ]; then rm -rf "$$(cat .data/postgres.location)"; fi
	rm -rf .data $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=/path/to/python3.12")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; } # half a .venv would be taken for a whole one

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/demo-brokers.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[demo,demo-brokers]'
	@touch $@ $(VENV)/demo.stamp

$(VENV)/test.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[demo,test]'
	@touch $@ $(VENV)/demo.stamp $(VENV)/demo-brokers.stamp
