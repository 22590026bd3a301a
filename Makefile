# Everything a newcomer needs. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
export ORT_DISABLE_TELEMETRY := 1

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

# One environment, grown on demand: `lab` needs no torch, `dev` adds torch and the test tools.
$(VENV)/.lab: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[lab]'
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.lab
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

lab: $(VENV)/.lab ## run the main job: two regions, six uneven devices, on this machine
	$(VENV)/bin/skerry-lab run quickstart

check: $(VENV)/.dev ## format, lint, strict types, layers
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -q tests/test_layout.py

test: $(VENV)/.dev ## all tests, real processes included
	$(VENV)/bin/python -m compileall -q benchmarks coordinator edge_agent profiles skerry testbed # not in each of hundreds of processes
	$(VENV)/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

deb: $(VENV)/.lab ## build the Debian packages into build/deb: ARCH=amd64 or arm64, VERSION= if not pyproject.toml's
	$(VENV)/bin/python packaging/build.py --arch $(or $(ARCH),amd64) $(if $(VERSION),--version $(VERSION))

test-systemd: $(VENV)/.dev ## the packages in containers with a real systemd, as root: install, join, kill, hang, power cut, upgrade, purge
	$(VENV)/bin/python -m pytest -q -rs -s tests/systemd

test-netns: $(VENV)/.dev ## two regions and three devices in network namespaces, over shaped links, with CPU quotas, as root
	$(VENV)/bin/python -m pytest -q -rs -s tests/netns

test-arm64: $(VENV)/.dev ## the device's tests on an emulated 64-bit ARM; INSTALL=1 installs the emulator first
	$(if $(INSTALL),apt-get install --yes --no-install-recommends mmdebstrap qemu-user-static)
	$(VENV)/bin/python -m pytest -q -rs -s tests/arm64

fuzz: $(VENV)/.dev ## have strangers' input read, mutated, for MINUTES=60: frames, vectors, bundles, tokens, certificates, ...
	$(VENV)/bin/python -m tests.fuzz --minutes $(or $(MINUTES),60)

simulate: $(VENV)/.dev ## small worlds through random faults: SEEDS=1000 of them, FIRST=0; a failure says how to replay it
	$(VENV)/bin/python -m tests.simulation.fault_runs --first $(or $(FIRST),0) --seeds $(or $(SEEDS),100)

simulate-mutants: $(VENV)/.dev ## plant known defects, or the one named MUTANT=, and see which of SEEDS=50 runs notice them
	$(VENV)/bin/python -m tests.simulation.fault_runs $(if $(MUTANT),--mutant '$(MUTANT)',--mutants) --seeds $(or $(SEEDS),50)

failover: $(VENV)/.dev ## kill a coordinator KILLS=50 times: how long its devices take elsewhere, and whether each update counts once
	$(VENV)/bin/python -m benchmarks.failover --kills $(or $(KILLS),50) --json docs/results/failover.json --markdown docs/results/failover.md

format: $(VENV)/.dev ## rewrite the sources in the project's format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(VENV)/.dev ## run every benchmark and keep its JSON in docs/results; needs SKERRY_DATA, the data sets' folder
	@test -n "$$SKERRY_DATA" || { echo 'SKERRY_DATA must name the folder of the data sets: see docs/data.md' >&2; exit 2; }
	$(VENV)/bin/python -m benchmarks.codec --json docs/results/codec.json
	$(VENV)/bin/python -m benchmarks.ingest --json docs/results/ingest.json
	$(VENV)/bin/python -m benchmarks.ingest --tls --json docs/results/ingest_tls.json
	$(VENV)/bin/python -m benchmarks.joins --json docs/results/joins.json
	$(VENV)/bin/python -m benchmarks.optimizers --json docs/results/optimizers.json
	$(VENV)/bin/python -m benchmarks.agent_footprint --json docs/results/agent_footprint.json
	$(VENV)/bin/python -m benchmarks.predictions --json docs/results/predictions.json
	$(VENV)/bin/python -m benchmarks.predictions --task mnist-cnn --json docs/results/predictions_mnist-cnn.json
	$(VENV)/bin/python -m benchmarks.agent_start --json docs/results/agent_start.json
	$(VENV)/bin/python -m benchmarks.simulation --json docs/results/simulation.json
	$(VENV)/bin/python -m benchmarks.simulated_services --json docs/results/simulated_services.json
	$(VENV)/bin/python -m benchmarks.tasks --json docs/results/tasks.json --markdown docs/results/tasks.md
	$(VENV)/bin/python -m benchmarks.accuracy --json docs/results/accuracy.json --markdown docs/results/accuracy.md

compare-smoke: $(VENV)/.dev ## run every comparison in its small form, into build/smoke; needs SKERRY_DATA, as bench does
	@test -n "$$SKERRY_DATA" || { echo 'SKERRY_DATA must name the folder of the data sets: see docs/data.md' >&2; exit 2; }
	set -e; for name in spyker-mnist spyker-skewed guards spyker-ablations spyker-scaling spyker-geo spyker-cifar10 spyker-wikitext2; do \
		$(VENV)/bin/skerry-lab run $$name --smoke --output build/smoke/$$name; done

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist lab-results *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help lab check test deb test-systemd test-netns test-arm64 fuzz simulate simulate-mutants failover format bench compare-smoke clean
