# Everything from a fresh clone: only Python 3.11+ and a shell are needed. `make help` lists the targets.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BOOTSTRAP := .cache/bootstrap
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= drrho-clip:$(VERSION)
# Values reach the shell through the environment, so that folders with spaces in their names stay whole.
export STORE FOLDER DATA ARGS IMAGE BASE TORCH_INDEX EXTRAS
# No interpreter from elsewhere: the machine's own is the one that gets checked.
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help install demo clipart icons test test-cluster cluster cluster-down lint format docs bench constraints image clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name text; do printf '%-20s%s\n' "$$name" "$$text"; done

install: $(STAMP) ## Make .venv with the project and everything it needs, at the versions of constraints.txt
	@:

demo: $(STAMP) ## Train and compare three methods on real drawings (STORE=folder or s3://bucket/prefix, FOLDER=demo)
	@$(BIN)/drrho demo --folder "$${FOLDER:-demo}" $${STORE:+--store "$$STORE"}

clipart: $(STAMP) ## The same on 8,000 clip-art pictures of Debian's (DATA=folder of PNGs, FOLDER=demo)
	@data="$${DATA:-$$(examples/clipart/fetch.sh)}" && \
	$(BIN)/drrho demo --config examples/clipart/clipart.yaml --data "$$data" --folder "$${FOLDER:-demo}" $${STORE:+--store "$$STORE"}

icons: $(STAMP) ## The same on icons of 240 families, which npm brings (DATA=folder of the drawn tars, FOLDER=demo)
	@data="$${DATA:-$$(examples/icons/fetch.sh)}" && \
	$(BIN)/drrho demo --config examples/icons/icons.yaml --data "$$data" --folder "$${FOLDER:-demo}" $${STORE:+--store "$$STORE"}

test: $(STAMP) ## Run the test suite, file by file in two processes (ARGS="-k name" and the like go to pytest)
	@OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=2 --dist=loadfile $$ARGS

test-cluster: $(STAMP) ## Run the tests that need Kubernetes, on one made for them (root and Linux; ARGS="--kubeconfig FILE" takes another)
	@$(BIN)/pytest tests/cluster $$ARGS

cluster: $(STAMP) ## Start the tests' Kubernetes and leave it running, with the product's image in it
	@PYTHONPATH=tests/cluster $(BIN)/python -m testcluster up

cluster-down: $(STAMP) ## Remove what `make cluster` started
	@PYTHONPATH=tests/cluster $(BIN)/python -m testcluster down

lint: $(STAMP) ## Check style and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(STAMP) ## Put the code into the project's format
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(STAMP) ## Run the benchmarks: each prints one JSON line, then all as a table
	@$(BIN)/python -m benchmarks

docs: $(STAMP) ## Write docs/configuration.md and k8s/monitoring/ from the code
	@$(BIN)/python tools/configuration.py
	@$(BIN)/python tools/monitoring.py

constraints: $(STAMP) ## Add what is new in pyproject.toml to constraints.txt, keeping the versions that are there
	@UV_CUSTOM_COMPILE_COMMAND='make constraints' $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra test \
		--no-annotate --no-emit-index-url --output-file constraints.txt pyproject.toml

image: ## Build the container image (IMAGE=name:tag, BASE=..., TORCH_INDEX=..., EXTRAS=[demo])
	@engine=$$(command -v docker || command -v podman || command -v buildah) || \
		{ echo 'make image needs docker, podman or buildah, and none of them is installed.' >&2; exit 2; }; \
	"$$engine" build -f images/Dockerfile -t "$$IMAGE" --build-arg VERSION=$(VERSION) $${BASE:+--build-arg BASE="$$BASE"} \
		$${TORCH_INDEX:+--build-arg TORCH_INDEX="$$TORCH_INDEX"} $${EXTRAS:+--build-arg EXTRAS="$$EXTRAS"} .

clean: ## Remove the environment and every cache (what demo/ holds stays)
	@rm -rf $(VENV) .cache dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamp is written last, so an interrupted installation goes on where it was; a second call costs nothing.
$(STAMP): pyproject.toml constraints.txt
	@tools/install.sh $(VENV) $(BOOTSTRAP) && touch $(STAMP)
