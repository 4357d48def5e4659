# Every target builds what it needs; `make help` lists them. Overridable on the command line:
#   PYTHON  the interpreter that .venv is built from     DATA  folder of raw downloads (else phantoms)
#   SIZE    of the phantoms: tiny, small, full
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.built
DATA   ?=
SIZE   ?= small
# What is of phantoms says so in its folder's name, and of which size where it is not the usual one.
SIZED  := $(if $(filter small,$(SIZE)),,-$(SIZE))
OF     := $(if $(DATA),,-phantom$(SIZED))
DRAWN  := data/phantom$(SIZED)
ROOT   := $(if $(DATA),$(DATA),$(DRAWN))
HUB    ?= data/hub$(OF)

.DEFAULT_GOAL := help
.PHONY: task3-transfer covid1920 compare-semi compare-semiseg hub-covid1920 hub-semiseg task2-generalize semiseg semiseg-pseudolabel task1-fewshot kshot help setup lint test test-fast phantom check hub clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## build .venv from the package index (a second call costs nothing)

$(STAMP): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

SEMISEG_HUB := data/hub-semiseg$(OF)
semiseg: $(STAMP) hub-semiseg ## COVID-SemiSeg: five folds inside the 50 slices, then a model of all (DATA= PROFILE=cpu|cpu-bf16|gpu)
	$(BIN)/python trainers/semiseg.py --profile $(PROFILE) --hub $(SEMISEG_HUB) \
		--out runs/semiseg$(OF)

semiseg-pseudolabel: semiseg ## COVID-SemiSeg: what the 1,600 unlabelled slices add (DATA= PROFILE=cpu|cpu-bf16|gpu)
	$(BIN)/python trainers/semiseg_pseudolabel.py --profile $(PROFILE) --hub $(SEMISEG_HUB) \
		--teachers runs/semiseg$(OF) --out runs/semiseg-pseudolabel$(OF)

compare-semiseg: $(STAMP) hub-semiseg ## every semi-supervised method on COVID-SemiSeg, equal steps (DATA= PROFILE= SEEDS=)
	$(BIN)/python trainers/compare_semiseg.py --profile $(PROFILE) --seeds $(SEEDS) --hub $(SEMISEG_HUB) \
		--out runs/compare-semiseg$(OF)

hub-semiseg: $(STAMP)
	$(if $(DATA),,$(BIN)/covidseg phantom --out $(DRAWN) --size $(SIZE) --datasets semiseg,covid-ct-seg)
	$(BIN)/covidseg build $(ROOT) --out $(SEMISEG_HUB) --datasets semiseg

semiseg semiseg-pseudolabel compare-semiseg: PROFILE = auto
compare-semiseg: SEEDS = 0

# COVID-19-20 has a repository of its own. POOL adds to the unlabelled scans: folders, or parts of the
# repository, as '["hub:mosmed/unlabelled"]'.
FOLDS ?= $(if $(DATA),0 1 2 3 4,0 1)
SEEDS ?= 0 1 2
POOL  ?= []
covid1920: $(STAMP) hub-covid1920 ## COVID-19-20: folds, pseudo-labels, students, seen and unseen test (DATA= PROFILE= FOLDS= POOL=)
	$(LAUNCH) trainers/covid1920.py --profile $(PROFILE) --folds $(FOLDS) --unlabelled.also '$(POOL)' \
		--hub $(COVID1920_HUB) --out runs/covid1920$(OF)

compare-semi: $(STAMP) hub-covid1920 ## every semi-supervised method, same labels, pool and steps (DATA= PROFILE= SEEDS= POOL=)
	$(BIN)/python trainers/compare_semi.py --profile $(PROFILE) --seeds $(SEEDS) --unlabelled.also '$(POOL)' \
		--hub $(COVID1920_HUB) --out runs/compare-semi$(OF)

COVID1920_HUB := data/hub-covid1920$(OF)
hub-covid1920: $(STAMP)
	$(if $(DATA),,$(BIN)/covidseg phantom --out $(DRAWN) --size $(SIZE) --datasets covid1920,mosmed)
	$(BIN)/covidseg build $(ROOT) --out $(COVID1920_HUB) --datasets covid1920,mosmed

# Type checkers do not read package_dir; these links show them the rooms as covidseg.<room>.
TYPES := build/types/covidseg
# The main job: phantoms (or DATA), repository, five folds, scores, the benchmark's table.
PROFILE    ?= $(if $(DATA),full,demo)
SUBTASKS   ?= lung infection
SUBTASK    ?= infection
DIMENSIONS ?= $(if $(filter demo,$(PROFILE)),2d,3d 2d)
RUNS       ?= runs/task1$(OF)
LAUNCH     ?= $(BIN)/python
task1-fewshot: $(STAMP) ## train, predict, score and print Task 1 (DATA= PROFILE=demo|full)
	$(if $(DATA),,$(BIN)/covidseg phantom --out $(DRAWN) --size $(SIZE) --datasets covid-ct-seg,mosmed)
	$(BIN)/covidseg build $(ROOT) --out $(HUB) --datasets covid-ct-seg,mosmed
	$(LAUNCH) trainers/task1.py --profile $(PROFILE) --subtasks $(SUBTASKS) \
		--dimensions $(DIMENSIONS) --hub $(HUB) --out $(RUNS)

kshot: $(STAMP) ## scores over 1, 2, 4, 8, 16 training scans (DATA= PROFILE=demo|full SUBTASK=)
	$(if $(DATA),,$(BIN)/covidseg phantom --out $(DRAWN) --size $(SIZE) --datasets covid-ct-seg,mosmed)
	$(BIN)/covidseg build $(ROOT) --out $(HUB) --datasets covid-ct-seg,mosmed
	$(BIN)/python trainers/kshot.py --profile $(PROFILE) --subtask $(SUBTASK) \
		--dimensions $(firstword $(DIMENSIONS)) --hub $(HUB) --out runs/kshot$(OF)

# Tasks 2 and 3 learn from other datasets too; a repository of all of them.
SOURCES_HUB ?= data/hub-sources$(OF)
SOURCES     := covid-ct-seg,mosmed,structseg,nsclc,msd
# With phantoms, what takes minutes: of everything there would be 14 trainings, of Task 3 130.
TASK2       ?= $(if $(DATA),,--sources structseg-lung msd-tumour)
task2-generalize: $(STAMP) ## Task 2: with DATA=, every source alone and all together (PROFILE=demo|full TASK2="--methods plain gin-ipa")
	$(if $(DATA),,$(BIN)/covidseg phantom --out $(DRAWN) --size $(SIZE) --datasets $(SOURCES))
	$(BIN)/covidseg build $(ROOT) --out $(SOURCES_HUB) --datasets $(SOURCES)
	$(LAUNCH) trainers/task2.py --profile $(PROFILE) --hub $(SOURCES_HUB) \
		--out runs/task2$(OF) $(TASK2)

TASK3       ?= $(if $(DATA),,--sources structseg-lung msd-tumour --folds 0 --methods alone joint finetune paint)
task3-transfer: $(STAMP) ## Task 3: a source and four COVID-19 scans; with DATA=, all sources and folds (PROFILE=demo|full TASK3="--folds 0")
	$(if $(DATA),,$(BIN)/covidseg phantom --out $(DRAWN) --size $(SIZE) --datasets $(SOURCES))
	$(BIN)/covidseg build $(ROOT) --out $(SOURCES_HUB) --datasets $(SOURCES)
	$(LAUNCH) trainers/task3.py --profile $(PROFILE) --hub $(SOURCES_HUB) \
		--out runs/task3$(OF) $(TASK3)

lint: $(STAMP) ## ruff and the type check
	@mkdir -p $(TYPES) && find $(TYPES) -type l -delete
	@for room in $$($(BIN)/python tests/house/rooms.py); do ln -s ../../../$$room $(TYPES)/$$room; done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet . || (echo "run: $(BIN)/ruff format ." && exit 1)
	$(BIN)/mypy

test: lint ## lint, then all tests (no network, no GPU)
	$(BIN)/python -m pytest -n auto --dist worksteal

test-fast: $(STAMP) ## the tests that take seconds
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

phantom: $(STAMP) ## draw the phantoms of every dataset (SIZE=tiny|small|full)
	$(BIN)/covidseg phantom --out $(DRAWN) --size $(SIZE)

check: $(STAMP) ## verify the raw data (DATA=folder, else the phantoms)
	$(BIN)/covidseg check $(ROOT)

hub: $(STAMP) ## write the repository that load_dataset reads (DATA=folder, else the phantoms)
	$(if $(DATA),,$(BIN)/covidseg phantom --out $(DRAWN) --size $(SIZE))
	$(BIN)/covidseg build $(ROOT) --out $(HUB)

clean: ## remove what was built here, but not data/ and runs/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
