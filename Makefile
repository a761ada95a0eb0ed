# The one entry to everything: `make help`.
.DEFAULT_GOAL := help
.PHONY: help serve test check format generate stale breaking lock gateway bench bench-check clean

BIN := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

serve: ## Install what is missing, fetch the default model, and serve it (CONFIG=file for your own)
	@scripts/install serve
	@exec $(BIN)/inferd serve $(if $(CONFIG),--config $(CONFIG)) $(ARGS)

test: ## Install what the tests need, and run all of them (ARGS for pytest)
	@scripts/install dev
	@scripts/postgres >/dev/null
	@scripts/interop >/dev/null
	@$(BIN)/python -m pytest $(ARGS)

check: ## All but the tests: format, lint, types, protos, generated code
	@scripts/install dev
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@scripts/generate .cache/stale
	@diff -r python/inferd .cache/stale/python/inferd -x __pycache__ -x __init__.py -x py.typed -x services -x rest_bridge && diff docs/parameters.md .cache/stale/docs/parameters.md || { echo "generated code is stale: make generate"; exit 1; }
	@$(BIN)/buf lint
	@$(BIN)/buf format -d --exit-code || { echo "run: make format"; exit 1; }
	@$(MAKE) --no-print-directory breaking

breaking: ## Whether the protos break the contract of main, or of AGAINST
	@if git rev-parse --verify --quiet $(or $(AGAINST),main) >/dev/null && \
	    git cat-file -e $(or $(AGAINST),main):buf.yaml 2>/dev/null; then \
	  scripts/breaking $(or $(AGAINST),main); \
	else echo "buf breaking: there is no branch $(or $(AGAINST),main) to compare with"; fi

format: ## Format Python and protos
	@scripts/install dev
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/buf format -w

generate: ## Generate Python from the protos
	@scripts/install dev
	@scripts/generate

lock: ## Resolve the dependencies anew
	@UV_CUSTOM_COMPILE_COMMAND="make lock"; export UV_CUSTOM_COMPILE_COMMAND; \
	$(BIN)/uv pip compile -q --upgrade pyproject.toml --extra sglang --group dev -o requirements/dev.txt && \
	$(BIN)/uv pip compile -q pyproject.toml --extra sglang -c requirements/dev.txt -o requirements/serve.txt && \
	$(BIN)/uv pip compile -q pyproject.toml -c requirements/dev.txt -o requirements/gateway.txt && \
	$(BIN)/uv pip compile -q --upgrade --group pyproject.toml:interop -o requirements/interop.txt

gateway: ## Install without SGLang, for a host in front of remote runtimes
	@scripts/install gateway

bench: ## Measure inferd beside its peers, which are installed at first (ARGS: --quick, --fronts …, --parts …)
	@scripts/install dev
	@$(BIN)/python -m benchmarks.suite $(ARGS)

bench-check: ## Count what a token and a request execute, against the baseline (ARGS=--accept for a new one)
	@scripts/install dev
	@$(BIN)/python -m benchmarks.guard $(ARGS)

clean: ## Remove what was installed and generated locally (not the model cache)
	@rm -rf .venv .cache .third_party .pytest_cache .mypy_cache .ruff_cache .hypothesis
