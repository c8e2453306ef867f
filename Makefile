# Two commands: `make demo` watches three nights, `make test` runs every check. Both build .venv themselves.
PYTHON ?= python3
# On a machine without a GPU set TORCH_INDEX_URL to PyTorch's CPU index; the default wheel of the index carries gigabytes of CUDA.
TORCH_INDEX_URL ?=
# Two workers, a file each: session fixtures (a trained model, a server) are made once a file.
PYTEST_ARGS ?= -n 2 --dist loadfile
# 0: do not install the other training backends (Unsloth, MLX), and skip their tests.
FLEETSSD_TEST_BACKENDS ?= 1
export FLEETSSD_TEST_BACKENDS

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BACKENDS := .venv-backends
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: venv venv-backends demo test check lint types imports units coverage fuzz sandbox clean

venv: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; set PYTHON=python3.11 or newer" >&2; exit 78; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0 $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL))
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[train,demo,dev]'
	@touch $(READY)

# Unsloth and MLX stand in a venv of their own, which reads .venv through a .pth file: neither can change a pin of .venv.
venv-backends: $(if $(filter 0,$(FLEETSSD_TEST_BACKENDS)),,$(BACKENDS)/.ready)

$(BACKENDS)/.ready: tests/e2e/backends.txt $(READY)
	$(BIN)/python -m venv --clear --without-pip $(BACKENDS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$($(BACKENDS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	$(BIN)/pip --quiet --disable-pip-version-check --python $(BACKENDS)/bin/python install --no-deps -r tests/e2e/backends.txt
	@touch $@

sandbox:
	@command -v git >/dev/null || { echo "error: git is missing; apt-get install git" >&2; exit 78; }
	@command -v bwrap >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && { apt-get update -qq; apt-get install -y -qq bubblewrap; } >/dev/null; } || true
	@command -v bwrap >/dev/null || { echo "error: bubblewrap is missing; as root: apt-get install bubblewrap" >&2; exit 78; }

demo: venv sandbox
	$(BIN)/fleetssd demo --dir demo

test: venv venv-backends sandbox check units

check: lint types imports

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

imports: venv
	$(BIN)/lint-imports

units: venv venv-backends sandbox
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Branch coverage of the domain by its unit tests alone; the services' tests and the contract suites cover the rest.
coverage: venv
	$(BIN)/python -m pytest --quiet tests/unit --cov=fleetssd --cov-branch --cov-report=
	$(BIN)/coverage report --include='fleetssd/*.py,fleetssd/config/*.py,fleetssd/audit/*.py,fleetssd/guards/*.py' --omit=fleetssd/files.py,fleetssd/cores.py,fleetssd/in_flight.py --fail-under=100

# 10,000 hostile webhook payloads instead of the 300 that every test run tries, and 2,000 calls instead of 150 through
# the gateway; a few minutes.
fuzz: venv
	FLEETSSD_FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest --quiet tests/services/test_webhook_hostile.py
	FLEETSSD_FUZZ_EXAMPLES=2000 $(BIN)/python -m pytest --quiet tests/services/test_gateway_fuzz.py

clean:
	rm -rf demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
