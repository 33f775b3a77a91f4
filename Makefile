# Andon Edge. `make demo` is all a newcomer needs; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := install
MAKEFLAGS += --no-print-directory

# How fast the simulated shift runs: 1 is real time.
SPEED ?= 5

# What the embedding model runs on: cpu or gpu. Left out: what is installed here already, otherwise cpu.
INSTALLED := $(or $(shell cat .venv/.provider 2>/dev/null),cpu)
PROVIDER ?= $(INSTALLED)

EDGE := .venv/bin/edge
RUNTIME := .venv/.runtime-installed
DEV := .venv/.dev-installed
BENCH := .venv-bench/.installed
FUZZ := .cache/fuzz-venv/.installed
TRAIN := .venv-train/.installed
EXPORT := .venv-export/.installed
EXPORT_DEV := .venv-export/.dev-installed

# What the benchmark of the search measures: its sizes, questions a size, where its data go (1m takes some 15 GB).
SIZES ?= 10k 100k 1m
QUERIES ?= 300
BENCH_DATA ?= $(or $(TMPDIR),/var/tmp)

.PHONY: help install demo evaluate test test-export export-env bench-intake faults fuzz train-starter lint types clean bench-search other-provider bench-encode bench-gpu bench-month

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

install: $(RUNTIME) ## Install everything into this folder; leaves the command at .venv/bin/edge (PROVIDER=gpu for an NVIDIA card)

demo: $(RUNTIME) ## Install if needed, then run the appliance with a sample plant and a simulated shift (SPEED=5)
	@EDGE__PLANT__SAMPLE="$${EDGE__PLANT__SAMPLE:-true}" EDGE__SIMULATOR__ENABLED="$${EDGE__SIMULATOR__ENABLED:-true}" \
	EDGE__SIMULATOR__SPEED="$${EDGE__SIMULATOR__SPEED:-$(SPEED)}" exec $(EDGE) run

test: $(DEV) lint types ## Check style, types, import order, and run every test against the real parts
	@scripts/browser
	@.venv/bin/pytest -n auto

faults: $(DEV) ## Kill, freeze, cut off and wipe every part of real appliances, and prove that nothing was lost (ONLY=words SEED=1)
	@.venv/bin/python tests/faults $(foreach words,$(ONLY),--only $(words)) --seed $(or $(SEED),1)

bench-intake: $(DEV) ## Events a second, receipts, search and a storm, beside what mosquitto and PostgreSQL do alone (15 min; QUICK=1)
	@.venv/bin/python bench/intake.py $(if $(QUICK),--quick,--write)

fuzz: $(FUZZ) ## Let a coverage-guided fuzzer look for inputs that break a parser (SECONDS=60 for each, ONLY=parser)
	@.cache/fuzz-venv/bin/python tests/fuzz --seconds $(or $(SECONDS),60) $(foreach name,$(ONLY),--only $(name))

train-starter: $(TRAIN) $(RUNTIME) ## Train the starter model's adapter anew, as it was trained (goes on where it was stopped), and score it (TORCH=another build of it)
	@nice .venv-train/bin/python models/starter/train.py
	@.venv/bin/python models/starter/evaluate.py

evaluate: $(RUNTIME) ## How well the search finds, per language direction and mode, on problems the model never read
	@$(EDGE) evaluate --mode dense --mode lexical --mode hybrid
	@$(EDGE) evaluate --own --mode dense --mode hybrid

bench-encode: $(RUNTIME) $(BENCH) ## Compare the encoder with sentence-transformers, fastembed and ONNX Runtime (12 min; QUICK=1, TORCH=another build of it)
	@.venv/bin/python bench/encode.py $(if $(QUICK),--quick)

bench-month: $(DEV) ## The labelled month through MQTT into all five collections, with kills and a power cut (30 min), into docs/analytics.md
	@.venv/bin/python bench/plant_month.py --write

bench-gpu: $(RUNTIME) $(BENCH) ## Compare the encoder with sentence-transformers on an NVIDIA card (2 min, after PROVIDER=gpu; QUICK=1)
	@.venv/bin/python bench/gpu.py $(if $(QUICK),--quick)

export-env: $(EXPORT) ## Install what `edge model export` needs, PyTorch above all, into .venv-export (TORCH=another build of it)

test-export: $(EXPORT_DEV) ## Export real models through PyTorch and optimum, and check every step against them
	@.venv-export/bin/python -m pytest tests/export

lint: $(DEV) ## Style, format and import order
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports

types: $(DEV) ## Strict types
	@.venv/bin/mypy

bench-search: $(DEV) ## Measure the search at 10k, 100k and 1m vectors (SIZES=, QUERIES=, BENCH_DATA=, KEEP=folder) into docs/search.md
	@.venv/bin/python bench/search.py --sizes $(SIZES) --queries $(QUERIES) --data "$(BENCH_DATA)" $(if $(KEEP),--keep "$(KEEP)") --docs docs/search.md

clean: ## Remove everything installed or built here; data are kept
	@rm -rf .venv .venv-train .venv-export .venv-bench .uv .cache dist models/*/built web/static/vendor \
	.mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

SOURCES := pyproject.toml lock/runtime.txt lock/gpu.txt lock/starter-base.txt \
	scripts/install scripts/mosquitto $(wildcard scripts/assets web/package-lock.json) \
	$(shell find models/starter -maxdepth 1 -type f)

$(RUNTIME): $(SOURCES) $(if $(filter $(PROVIDER),$(INSTALLED)),,other-provider)
	@PROVIDER="$(PROVIDER)" scripts/install runtime
	@touch $@

$(DEV): $(RUNTIME) lock/dev.txt
	@PROVIDER="$(PROVIDER)" scripts/install dev
	@touch $@

$(BENCH): lock/bench.txt
	@TORCH="$(TORCH)" scripts/install bench
	@touch $@

$(FUZZ): lock/runtime.txt lock/fuzz.txt scripts/install
	@scripts/install fuzz
	@touch $@

$(TRAIN): lock/train.txt lock/starter-base.txt scripts/install
	@TORCH="$(TORCH)" scripts/install train
	@touch $@

$(EXPORT): pyproject.toml lock/export.txt lock/starter-base.txt scripts/install
	@TORCH="$(TORCH)" scripts/install export
	@touch $@

$(EXPORT_DEV): $(EXPORT) lock/dev.txt
	@scripts/install export-dev
	@touch $@
