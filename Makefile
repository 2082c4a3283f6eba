# Everything a newcomer needs; `make help` lists it.
# Bytecode is written so that imports stay fast, whatever the caller's shell says.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
SOURCE ?= simulator
DATA ?=
PORT ?=
BIN := .venv/bin
export TESSERA_HOME ?= $(CURDIR)/.tessera

.DEFAULT_GOAL := help
.PHONY: help install manifest demo test test-slow test-faults ui serve rollback backfill erase withdraw restore results bench-data bench-tokenizers bench-training bench-throughput bench-decoding bench-index bench-serving bench-rollback leaderboard queue lint format lock clean bench-audit replay

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"error: Python 3.11 to 3.13 is needed, {sys.executable} is {v.major}.{v.minor}; try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

dbt_project/target/manifest.json: .venv/.installed orchestration/lineage.py $(shell find dbt_project -name target -prune -o -type f \( -name '*.sql' -o -name '*.yml' \) -print)
	@DO_NOT_TRACK=1 $(BIN)/dbt --quiet parse --project-dir dbt_project --profiles-dir dbt_project
	@$(BIN)/python -m orchestration.lineage
	@touch $@

install: .venv/.installed ## Make .venv with the pinned dependencies

manifest: dbt_project/target/manifest.json ## Parse the dbt project, whose manifest and column lineage Dagster loads

demo: manifest ## Run the whole chain: make demo [SOURCE=ml-100k DATA=folder]
	@$(BIN)/python -m orchestration demo --source $(SOURCE) $(if $(DATA),--data $(DATA))

test: manifest ## Run the test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-faults: manifest ## Kill nights and services, fill disks, run a night on Postgres; takes minutes
	$(BIN)/python -m pytest -m slow tests/orchestration/test_nights.py tests/orchestration/test_postgres.py tests/serving/test_killed_service.py

test-slow: manifest ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow

ui: manifest ## Open Dagster's web UI on the state of the last demo
	@$(BIN)/python -m orchestration ui $(if $(PORT),--port $(PORT))

serve: manifest ## Serve recommendations of the last demo over HTTP
	@$(BIN)/python -m orchestration serve $(if $(PORT),--port $(PORT))

rollback: manifest ## Make the champion before this one live again, or a publication: make rollback [TO=7]
	@$(BIN)/python -m orchestration rollback $(if $(TO),--to $(TO))

backfill: manifest ## Run a range of days again: make backfill FROM=2025-03-01 TO=2025-03-30
	@DAGSTER_HOME=$(TESSERA_HOME)/dagster $(BIN)/dagster job execute -m orchestration.definitions -j backfill \
		--tags '{"dagster/asset_partition_range_start": "$(FROM)", "dagster/asset_partition_range_end": "$(TO)"}'

withdraw: manifest ## Take items out of every answer at once: make withdraw ITEMS="ID ID"
	@$(BIN)/python -m orchestration withdraw $(ITEMS)

restore: manifest ## Serve withdrawn items again: make restore ITEMS="ID ID"
	@$(BIN)/python -m orchestration restore $(ITEMS)

erase: manifest ## Erase users from every file of the home: make erase USERS="ID ID"
	@$(BIN)/python -m orchestration erase $(USERS)

results: manifest ## Copy what the last demo measured into benchmarks/results
	@$(BIN)/python -m benchmarks.export_results

bench-data: manifest ## Measure ingestion, warehouse and features at ten million events; takes half an hour
	@$(BIN)/python -m benchmarks.ingest
	@$(BIN)/python -m benchmarks.data
	@$(BIN)/python -m benchmarks.features
	@$(BIN)/python -m benchmarks.record ingest data-1M data-10M features

bench-audit: .venv/.installed ## What datasets can show at all: make bench-audit DATASETS="folder ..."
	@$(BIN)/python -m benchmarks.audit $(DATASETS)

bench-tokenizers: .venv/.installed ## Score every tokenizer on real items: make bench-tokenizers DATASETS=folder
	@$(BIN)/python -m benchmarks.tokenizers $(if $(DATASETS),--datasets $(DATASETS)) --churn residual-kmeans

leaderboard: .venv/.installed ## Print a dataset's leaderboard from the committed runs, and write its page: make leaderboard DATASET=amazon-beauty-2014
	@$(BIN)/python -m benchmarks.leaderboard show $(DATASET)
	@$(BIN)/python -m benchmarks.leaderboard systems >/dev/null

bench-training: .venv/.installed ## Train SASRec beside RecTools and RecBole: make bench-training DATASETS=folder
	@$(BIN)/python -m benchmarks.training $(if $(DATASETS),--root $(DATASETS))

bench-throughput: .venv/.installed ## Share of the machine that training uses: make bench-throughput SNAPSHOT=folder DATASET=name
	@$(BIN)/python -m benchmarks.throughput $(SNAPSHOT) --dataset $(DATASET) --recipe sasrec --recipe bsarec-causal --recipe tiger --recipe tiger-paper:300

bench-decoding: .venv/.installed ## Constrained beam search beside Hugging Face's generate: make bench-decoding SNAPSHOT=folder
	@$(BIN)/python -m benchmarks.decoding $(SNAPSHOT)

replay: manifest ## Live through the last days of a log: make replay [SOURCE=deskdrop DATA=folder DAYS=14 UNTIL=2016-07-31]
	@$(BIN)/python -m benchmarks.replay --source $(SOURCE) --days $(or $(DAYS),14) $(if $(DATA),--data $(DATA)) $(if $(UNTIL),--until $(UNTIL))

bench-index: .venv/.installed ## The item index beside raw FAISS at 100,000 and a million vectors; takes half an hour
	@$(BIN)/python -m benchmarks.index $(foreach n,$(SIZES),--sizes $(n))

bench-serving: manifest ## The service under load, on a copy of the last demo: make bench-serving [OPTIONS="--quick --only swap"]
	@$(BIN)/python -m benchmarks.serving $(OPTIONS)

bench-rollback: manifest ## Roll back under load, on a copy of the last demo's home
	@$(BIN)/python -m benchmarks.rollback $(TESSERA_HOME)

queue: .venv/.installed ## Do the full-size runs that wait for a GPU
	@$(BIN)/python -m benchmarks.run_queue

lint: .venv/.installed ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed ## Mend what can be mended by machine
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## Renew constraints.txt from pyproject.toml
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet -e '.[dev]'
	{ sed -n '/^#/p' constraints.txt; .venv-lock/bin/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.new
	mv constraints.new constraints.txt && rm -rf .venv-lock

clean: ## Remove what was built and the state of the demo; landing files of yours are never inside it
	rm -rf .venv .venv-peers .tessera .tessera.* build *.egg-info dbt_project/target dbt_project/logs
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
