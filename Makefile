# Every target sets up what it needs first; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# Looked up before the environment is put on PATH below.
PYTHON := $(or $(PYTHON),$(shell command -v python3),python3)
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin

# Spark needs the environment's own interpreter (a system python3 on the executors has no pyarrow), the Java that set-up
# found, and no other Spark's home. Loopback is right for local mode; a run on a cluster sets SPARK_LOCAL_IP.
export PATH := $(BIN):$(PATH)
export PYSPARK_PYTHON := $(BIN)/python
export PYSPARK_DRIVER_PYTHON := $(BIN)/python
export SPARK_LOCAL_IP ?= 127.0.0.1
export LEPTON_REAL_DATA ?= $(CURDIR)/../shared/data
unexport SPARK_HOME
# What one process has compiled the next one finds; each worker of `make test` would rewrite 250 files of tests again.
unexport PYTHONDONTWRITEBYTECODE
# A shell line, not `export :=`: on the first run the file appears only when the set-up is done.
JAVA = export JAVA_HOME="$$(cat $(VENV)/lepton-java-home)";
NIGHTLY := spark-submit --properties-file conf/spark-defaults.conf jobs/nightly.py
needs = @test -n "$($(1))" || { echo "make $@: say $(1)=..., for example: $$(sed -nE 's/^$@:.*: (.*)/make $@ \1/p' Makefile)" >&2; exit 2; }

DEMO := var/demo
DEMO_NIGHTS := 2025-06-03 2025-06-04 2025-06-05

.PHONY: help setup setup-dev demo test test-slow fault-test soak test-real cluster-test bench bench-ingest bench-coverage bench-ledger bench-scoring bench-models bench-shifts bench-forecast bench-anomalies bench-realism bench-savings bench-night lint check-lock sbom house nightly report lock clean

help: ## This list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## What runs need: virtual environment, locked packages, Java, Delta's jars (each target sets up what it needs)
	@$(PYTHON) scripts/set_up.py

setup-dev: ## The same with what tests, lint and benchmarks need
	@$(PYTHON) scripts/set_up.py --dev

demo: setup ## Three simulated nights of a two-cluster fleet; prints gold/cluster_day and the report's path
	rm -rf $(DEMO)
	lepton-etl simulate $(DEMO)/fleet --seed 42 --date $(firstword $(DEMO_NIGHTS)) --days $(words $(DEMO_NIGHTS)) \
	    --clusters 2 --nodes 4 --fault gaps --fault duplicates --fault bad_lines
	mkdir -p $(DEMO)/site && cp $(addprefix $(DEMO)/fleet/,config.yaml inventory.csv meters.csv) $(DEMO)/site
	# Each night finds the logs of its day in the landing folder, as a collector would leave them.
	$(JAVA) for night in $(DEMO_NIGHTS); do \
	    for kind in $$(ls $(DEMO)/fleet/landing); do \
	        mkdir -p $(DEMO)/site/landing/$$kind; \
	        find $(DEMO)/fleet/landing/$$kind -name "*-$$night.*" -exec cp -t $(DEMO)/site/landing/$$kind {} +; \
	    done; \
	    $(NIGHTLY) --config $(DEMO)/site/config.yaml --date $$night; \
	done
	lepton-etl models --config $(DEMO)/site/config.yaml
	lepton-etl tables show gold/cluster_day --config $(DEMO)/site/config.yaml
	@printf 'report of %s\n' $(DEMO)/site/report/*/index.html

nightly: setup ## One night: CONFIG=conf/examples/harvard.yaml DATE=2025-06-03 [UNTIL=2025-06-05] [STAGE=gold]
	$(call needs,CONFIG)
	$(call needs,DATE)
	$(JAVA) $(NIGHTLY) --config $(CONFIG) --date $(DATE) $(if $(UNTIL),--until $(UNTIL)) $(if $(STAGE),--stage $(STAGE))

report: setup ## The report alone, again: CONFIG=conf/examples/harvard.yaml DATE=2025-06-03 [UNTIL=2025-06-05]
	$(call needs,CONFIG)
	$(call needs,DATE)
	$(JAVA) lepton-etl report --config $(CONFIG) --date $(DATE) $(if $(UNTIL),--until $(UNTIL))

test: setup-dev ## Every test but the long ones; tests/real where LEPTON_REAL_DATA (default ../shared/data) exists
	# A file stays together, and goes in its turn: nights come before a thousand small tests, which fill the last minute.
	$(JAVA) python -m pytest tests -m "not slow and not cluster and not fault" --numprocesses $(or $(WORKERS),2) --dist loadfile --no-loadscope-reorder

test-slow: setup-dev ## The long ones: further nights against the truth, many more random examples
	$(JAVA) python -m pytest tests -m "slow and not cluster and not fault"
	EXAMPLES=200 python -m pytest tests/unit -m "hypothesis and not slow"

fault-test: setup-dev ## Forty faults: kills, full disks, torn logs, bad input, nights at once; N of 40 as expected [ROWS="6 37"]
	$(JAVA) python -m tests.faults.rows $(ROWS)

soak: setup-dev ## 100 random kills of simulated nights, then all tables as undisturbed [KILLS=100] [SPARK=30] [MINUTES=60] [SEED=n]
	$(JAVA) python -m tests.faults.soak --kills $(or $(KILLS),100) --spark $(or $(SPARK),30) --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))

test-real: setup-dev ## Only the tests on real data
	$(JAVA) python -m pytest tests/real

cluster-test: setup-dev ## The nightly on a real standalone master and worker on loopback
	$(JAVA) python -m pytest tests/cluster

bench: bench-ingest bench-coverage bench-ledger bench-scoring bench-models bench-shifts bench-forecast bench-anomalies bench-realism bench-savings bench-night ## Every benchmark, each against its peers

bench-ingest: setup-dev ## Bronze against DuckDB, polars, Spark's own functions and a floor, rows checked equal [ROUNDS=3]
	$(JAVA) python -m bench.ingest --rounds $(or $(ROUNDS),3) $(if $(KINDS),--kinds $(KINDS)) $(if $(MIB),--mib $(MIB))

bench-coverage: setup-dev ## Do the 90 % intervals hold the truth: a cluster-hour of each of 1,000 simulated fleets [FLEETS=1000]
	$(JAVA) python -m bench.coverage --fleets $(or $(FLEETS),1000)

bench-ledger: setup-dev ## Wrong meters: seen, named, false alarms; a simulated site against its truth [DAYS=30]
	$(JAVA) python -m bench.meter_faults
	$(JAVA) python -m bench.ledger --days $(or $(DAYS),30)

bench-scoring: setup-dev ## A million device-hours scored on Spark against plain predict on the same cores [ROUNDS=3]
	$(JAVA) python -m bench.scoring --rounds $(or $(ROUNDS),3)

bench-models: setup-dev ## The stages train and score on real servers by month and nightly, servers left out [DATA=] [INVENTORY=] [EVERY=1] [TRAIN_DAYS=]
	OMP_NUM_THREADS=1 python -m bench.models $(if $(DATA),--data $(DATA)) $(if $(INVENTORY),--inventory $(INVENTORY)) $(if $(EVERY),--every $(EVERY)) $(if $(TRAIN_DAYS),--train-days $(TRAIN_DAYS))

bench-shifts: setup-dev ## Three years of real servers night by night: errors, shifts found, what was done; draws docs/model_shifts.svg
	OMP_NUM_THREADS=1 python -m bench.model_shifts

bench-forecast: setup-dev ## Grid intensity forecasts on five real zones: errors, intervals, worth to jobs that may wait [ZONES="SG GB"]
	python -m bench.forecast $(if $(ZONES),--zones $(ZONES))

bench-anomalies: setup-dev ## Faults of stated size in real GPU servers and a simulated rack: AUC per class, false alarms [SEEDS=3, HELD=1: the newest months too]
	python -m bench.anomalies --seeds $(or $(SEEDS),3) $(if $(HELD),--held)

bench-realism: setup-dev ## The simulator's GPU power and temperature beside the real Kalos cluster's
	python -m bench.realism

bench-savings: setup-dev ## Caps, shifting, planning, a simulated site, and savings measured from logs [PARTS="caps placebo"] [SEEDS=20]
	OMP_NUM_THREADS=1 python -m bench.savings --seeds $(or $(SEEDS),20) $(if $(PARTS),--parts $(PARTS))

bench-night: setup-dev ## The night over a floor of Spark and over peers, by fleet, history, files known [ROUNDS=3] [SIZE=small|full] [PARTS="demo fleets"]
	$(JAVA) python -m bench.night --rounds $(or $(ROUNDS),3) --size $(or $(SIZE),default) $(if $(PARTS),--parts $(PARTS))

lint: setup-dev ## ruff, mypy --strict, and who may import whom
	ruff check .
	ruff format --check .
	mypy lepton_etl pipelines jobs scripts bench
	lint-imports

check-lock: setup-dev ## Can the lock files still be installed by someone who comes later
	python scripts/check_lock.py

sbom: setup-dev ## CycloneDX bill of materials of packages and jars: var/sbom.cdx.json, for a scanner
	python scripts/sbom.py

house: setup-dev ## Rooms, files, lines, what nothing reaches; draws docs/architecture.svg and fills docs/architecture.md
	python scripts/house.py

lock: ## Make the lock files again from setup.cfg; pins stay where they fit [UPGRADE=all, or a package]
	@$(PYTHON) scripts/lock.py $(if $(UPGRADE),--upgrade $(UPGRADE))

clean: ## Remove the environment, the jars and all that runs wrote into var/
	rm -rf .venv var build dist lepton_etl.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage htmlcov
