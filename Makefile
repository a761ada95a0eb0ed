# Everything is run from here. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help serve test coverage check format generate breaking lock gateway bench bench-check clean

BIN := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

serve: ## Install missing packages, fetch the default model, and serve it (CONFIG=file: serve that configuration)
	@scripts/install serve
	@exec $(BIN)/inferd serve $(if $(CONFIG),--config $(CONFIG)) $(ARGS)

# A worker for each core, of which two at most start real engines (tests/support/side_by_side.py).
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4
# Many containers set this, so that each process that a test starts compiles all modules anew: a second or more.
test coverage: export PYTHONDONTWRITEBYTECODE :=

test: ## Install the packages of the tests, and run all tests side by side (ARGS: pytest's; ARGS=-n0: one by one)
	@scripts/install dev
	@scripts/postgres >/dev/null
	@scripts/interop >/dev/null
	@$(PYTEST) $(ARGS)

# Compiled modules run as Python, because coverage cannot see them else. Not in `test`: coverage doubles its work.
coverage: ## Measure what the quick tests execute, and show the ten least covered files
	@scripts/install dev
	@scripts/postgres >/dev/null
	@mkdir -p .cache
	@PYTEST_PLUGINS=benchmarks.interpreted $(PYTEST) --hypothesis-profile coverage --cov --cov-report= \
	  -m "not real" --ignore tests/interop $(ARGS)
	@$(SHOW_COVERAGE)

SHOW_COVERAGE := $(BIN)/coverage report --sort=cover | sed -n '1,12p;$$p'

check: ## Check format, lint, types, protos and generated code; no tests
	@scripts/install dev
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@scripts/generate .cache/stale
	@diff -r python/inferd .cache/stale/python/inferd -x __pycache__ -x __init__.py -x py.typed -x services -x rest_bridge && diff docs/parameters.md .cache/stale/docs/parameters.md && diff docs/errors.md .cache/stale/docs/errors.md || { echo "generated code is stale: make generate"; exit 1; }
	@$(BIN)/buf lint
	@$(BIN)/buf format -d --exit-code || { echo "run: make format"; exit 1; }
	@$(MAKE) --no-print-directory breaking
	@if [ -f .cache/coverage ]; then $(SHOW_COVERAGE); else echo "coverage: not measured here yet (make coverage)"; fi

breaking: ## Check that the protos break no clients: the first ones, and those of the branch main (AGAINST: a commit)
	@base=$(or $(AGAINST),main); \
	if git cat-file -e $$base:tests/contract/baseline/v1.binpb 2>/dev/null; then scripts/breaking $$base; \
	else scripts/breaking; echo "buf breaking: $$base is no commit of inferd.v1, so only the first clients count"; fi

format: ## Format Python and protos
	@scripts/install dev
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/buf format -w

generate: ## Generate Python and docs/parameters.md from the protos
	@scripts/install dev
	@scripts/generate

# Each lock holds for all supported Pythons. If possible, it has one version of a package for all of them.
COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --fork-strategy fewest

lock: ## Update the locks in requirements/ to the newest versions that pyproject.toml allows
	@[ -x $(BIN)/uv ] || { echo "there is no $(BIN)/uv: make gateway"; exit 1; }
	@UV_CUSTOM_COMPILE_COMMAND="make lock"; export UV_CUSTOM_COMPILE_COMMAND; \
	$(COMPILE) --upgrade pyproject.toml --extra sglang --group dev -o requirements/dev.txt && \
	$(COMPILE) pyproject.toml --extra sglang -c requirements/dev.txt -o requirements/serve.txt && \
	$(COMPILE) pyproject.toml -c requirements/dev.txt -o requirements/gateway.txt && \
	$(COMPILE) --upgrade --group pyproject.toml:interop -o requirements/interop.txt

gateway: ## Install without SGLang, for a host that serves remote runtimes
	@scripts/install gateway

bench: ## Measure inferd and its peers, which are installed first (ARGS: --quick, --fronts …, --parts …)
	@scripts/install dev
	@$(BIN)/python -m benchmarks.suite $(ARGS)

bench-check: ## Count the work of a token and of a request, and compare with the baseline (ARGS=--accept: replace it)
	@scripts/install dev
	@$(BIN)/python -m benchmarks.guard $(ARGS)

clean: ## Remove .venv and all caches of this folder, but not the fetched models
	@rm -rf .venv .cache .third_party .pytest_cache .mypy_cache .ruff_cache .hypothesis
