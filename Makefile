# Every target works from a bare checkout with Python >= 3.11 and a Rust toolchain.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find rust -name '*.rs' -not -path '*/target/*' -o -name Cargo.toml -not -path '*/target/*') Cargo.toml
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_QUIET := 1

# The fast MQTT client is a pre-release that ships as source only; cargo builds it (30 s).
AIOMQTT_FAST := aiomqtt==3.0.0a1
# The stable client, tested beside it from a directory of its own.
AIOMQTT_STABLE := aiomqtt==2.5.1

.PHONY: help
help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.python: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group dev
	$(BIN)/python -m pip install --quiet --upgrade --target $(VENV)/aiomqtt2 '$(AIOMQTT_STABLE)'
	touch $@

$(VENV)/.native: $(VENV)/.python $(RUST_SOURCES)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --quiet --extras embedded,arrow
	$(BIN)/python -m pip install --quiet --pre '$(AIOMQTT_FAST)'
	touch $@

.PHONY: dev
dev: $(VENV)/.native ## Build .venv with everything

.PHONY: run
run: dev ## Run the whole platform on this machine with a simulated fleet
	$(BIN)/iotistica up --simulate 20

.PHONY: test
test: test-rust test-py ## Run every test

.PHONY: test-rust
test-rust: ## Run the tests of the pure crates (needs no Python)
	cargo test --quiet --release --package iotistica-core --package iotistica-broker --package iotistica-door

.PHONY: test-py
test-py: dev ## Run the Python and integration tests against private servers
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: lint
lint: dev ## Run formatters (check only), linters and the type checker
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --release --quiet -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: format
format: dev ## Format all code
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: bench
bench: dev ## Run the benchmarks, each beside its baseline (ten minutes)
	for name in decode receive store broker door; do $(BIN)/python benches/$$name.py || exit 1; done
	cargo bench --package iotistica-core

# The same faults again: the same seed. make faults FAULTS_SECONDS=3600 FAULTS_KILLS=100
FAULTS_SECONDS := 600
FAULTS_SEED := 1
FAULTS_KILLS := 0
.PHONY: faults
faults: dev ## Inject faults at random under load and compare every reading (docs/faults.md)
	$(BIN)/python -m tests.faults.run --seed $(FAULTS_SEED) --duration $(FAULTS_SECONDS) --kills $(FAULTS_KILLS)

.PHONY: hostile
hostile: dev ## Feed a million hostile payloads to the decoder (one minute)
	$(BIN)/python -m tests.faults.hostile --count 1000000

# One target: make fuzz FUZZ_TARGETS=batch FUZZ_SECONDS=60
FUZZ_TARGETS := topic inflate decode expand batch door
FUZZ_SECONDS := 600
.PHONY: fuzz
fuzz: ## Run the fuzz targets (needs a nightly compiler and cargo-fuzz)
	for target in $(FUZZ_TARGETS); do \
	  cargo +nightly fuzz run --fuzz-dir rust/fuzz $$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -timeout=20 || exit 1; done

.PHONY: clean
clean: ## Remove everything that was built
	rm -rf target $(VENV) dist .cache
