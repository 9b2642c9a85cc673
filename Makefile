# LANE= chooses the environment, a file of requirements/; VENV= names its folder and PYTHON= its
# interpreter. Without LANE= it is paper if its Python can be had, else modern.
VENV ?= .venv-$(LANE)
TASK ?= $(if $(filter torch-%,$(LANE)),module,whole)
PYTHON ?=
export PYTHON
# Threads that wait asleep: beside other processes, spinning ones made training up to 25 times slower.
# One training alone is a third faster where they spin for a while.
export OMP_WAIT_POLICY ?= PASSIVE
demo demo-compare: export GOMP_SPINCOUNT ?= 100000
# Where no compiled files may be kept, each start of Python compiles all it imports, for ten seconds.
unexport PYTHONDONTWRITEBYTECODE

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help download-note env env-full demo demo-compare compare figures test lock test-all test-matrix bench-cpu bench-gpu gpu-check gpu-wheels lint dev clean
MAKEFLAGS += --no-print-directory

RUN = $(VENV)/bin/python
DEV = .venv-dev
ENV = $(DEV)/bin/python tools/dev/env.py
BENCH_PYTHON ?=
BENCH = PYTHONPATH=. $(or $(BENCH_PYTHON),$(RUN)) tools/analysis/benchmark.py
NOX = $(DEV)/bin/python -m nox
WITHOUT_OPENMMLAB = SCSA_REGISTER=0 # whose import takes seconds
REPORT = $(WITHOUT_OPENMMLAB) $(RUN) tools/analysis/quickstart_report.py

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo '  variables: LANE=paper|modern|torch-oldest|torch-newest  VENV=.venv-LANE  PYTHON='
	@echo '             TASK=whole|no-ops|attention|kernels|backbones|classification  PYTEST_ARGS='
	@echo '             MMCV_WHEELS=(folder or page of mmcv wheels)'

ifndef LANE
CHOOSES = env env-full demo demo-compare compare figures test bench-cpu gpu-wheels data/digits data/hard_digits data/digit_scenes
.PHONY: $(CHOOSES)
$(CHOOSES): dev
	@lane=$$($(ENV) "" "$(filter-out .venv-,$(VENV))") && echo "LANE=$$lane" && $(MAKE) $@ LANE="$$lane" MADE=1
else
ifeq ($(wildcard requirements/locks/$(LANE).txt),)
$(error there is no LANE=$(LANE); there are: $(basename $(notdir $(wildcard requirements/locks/*.txt))))
endif
env: dev ## the environment with mmcv-lite (minutes): enough for classification
	@$(if $(MADE),,$(ENV) "$(LANE)" "$(VENV)" >/dev/null)

env-full: dev ## the environment with mmcv's compiled ops, for detection and segmentation too
	@$(ENV) "$(LANE)" "$(VENV)" full >/dev/null

demo: download-note env data/digits ## trains ResNet-18 with SCSA on handwritten digits, tests it, prints top-1
	$(call train_and_test,resnet18_digits_scsa)
	@$(REPORT) work_dirs/resnet18_digits_scsa

demo-compare: demo ## the same without SCSA, both results side by side
	$(call train_and_test,resnet18_digits)
	@$(REPORT) work_dirs/resnet18_digits_scsa work_dirs/resnet18_digits

# FAST=1: plain and SCSA, two seeds, two epochs, which shows that it runs and nothing else.
compare: OUT := work_dirs/compare$(if $(FAST),_fast)
compare: NAMES := resnet18 $(addprefix resnet18_,$(if $(FAST),,se cbam eca coord smsa pcsa) scsa)
compare: env data/hard_digits ## eight attentions, three seeds each, on digits made hard; FAST=1 for CI
	@PYTHONPATH=. $(RUN) tools/analysis/compare.py $(NAMES:%=configs/hard_digits/%.py) --jobs 2 --out $(OUT) \
	  --speed-batch 40 $(if $(FAST),--seeds 0 1 --no-speed --cfg-options train_cfg.max_epochs=2 param_scheduler.total_steps=2)

figures: demo-compare data/digit_scenes ## draws the pictures of docs/gallery.md with the quick-start models
	@$(RUN) tools/dev/gallery.py

test: dev ## the test suite; TASK= names parts of it
	@VENV="$(VENV)" $(NOX) -s $(addprefix $(LANE)-,$(TASK)) -- $(PYTEST_ARGS)

bench-cpu: env data/digits ## the CPU figures of docs/benchmarks.md, the bars first; BENCH_PYTHON= another torch
	@$(BENCH) bars --device cpu --threads 2 --out work_dirs/bench_cpu/bars
	@$(BENCH) module --device cpu --threads 2 --sweep --paths reference eager --out work_dirs/bench_cpu/sweep

gpu-wheels: env ## collects the folder for gpu-check; PURE=1 leaves the compiled wheels out
	@$(RUN) tools/dev/gpu_wheels.py "$(or $(WHEELS),work_dirs/gpu_wheels)" $(if $(PURE),--pure)

download-note:
	@test -x $(RUN) || echo 'the first run downloads about 2.5 GB of packages into $(VENV); the next ones do not'

# In a new environment the first import of a package compiles it. The second core does so ahead
# of the script that makes the digits, and then for the training.
BYTE_CODE = { $(RUN) -c 'import sklearn.model_selection'; $(RUN) -m compileall -q \
  $(VENV)/lib/*/site-packages/{mm{engine,cv,pretrain},torchvision,torch/{_dynamo,distributed,fx,onnx}}; } &>/dev/null

data/digits: | env
	@rm -rf $@.part
	@$(BYTE_CODE) & $(WITHOUT_OPENMMLAB) $(RUN) tools/dataset_converters/digits.py --out $@.part; wait
	@mv $@.part $@ # so that a folder of that name is a whole one

data/hard_digits: | env
	@rm -rf $@.part
	@$(WITHOUT_OPENMMLAB) $(RUN) tools/dataset_converters/digits.py --hard --out $@.part
	@mv $@.part $@

data/digit_scenes: | env
	@rm -rf $@.part
	@$(WITHOUT_OPENMMLAB) $(RUN) tools/dataset_converters/digit_scenes.py --out $@.part
	@mv $@.part $@
endif

test-all: dev ## lint and the test suites of all environments
	@env -u VENV -u PYTHON $(NOX) -- $(PYTEST_ARGS)

test-matrix: dev ## writes what the sessions found into docs/versions.md
	@$(DEV)/bin/python tools/dev/run_record.py write

bench-gpu: BENCH_PYTHON := $(or $(BENCH_PYTHON),python3)
bench-gpu: ## the GPU figures of docs/benchmarks.md; BENCH_PYTHON= has torch and Triton, no more
	@$(BENCH) bars accuracy --device cuda --out work_dirs/bench_gpu/accuracy
	@$(BENCH) bars stages networks --device cuda --out work_dirs/bench_gpu/bars
	@$(BENCH) module --device cuda --batch 128 --dtypes float16 float32 --layouts contiguous channels_last \
	  --paths reference eager triton --out work_dirs/bench_gpu/stages
	@$(BENCH) module --device cuda --sweep --paths reference eager triton --out work_dirs/bench_gpu/sweep
	@$(BENCH) model resnet50 resnet50_scsa --device cuda --amp --batch 128 --train --until-full \
	  --out work_dirs/bench_gpu/full

gpu-check: ## tests, training and all figures on a GPU; WHEELS= is a folder of gpu-wheels
	@$(or $(BENCH_PYTHON),python3) tools/dev/gpu_check.py $(if $(WHEELS),--wheels "$(WHEELS)") $(GPU_CHECK_ARGS)

lint: dev ## ruff
	@$(NOX) -s lint

# Runs the sessions and ruff, and has uv, which pip brings from its lock; uv installs the rest.
# The pip of the Python that is here is at hand at once; to put one into a new environment takes
# seconds, and is for a Python that has none, or one too old for --python.
dev: $(DEV)/made-from.txt
$(shell test -x $(DEV)/bin/python || rm -f $(DEV)/made-from.txt) # its Python may be gone
$(DEV)/made-from.txt: requirements/locks/dev.txt
	@exec 9>$(DEV).lock; ! command -v flock >/dev/null || flock 9; \
	! cmp -s $< $@ || { touch $@; exit 0; }; \
	bring() { sed -n -e '/^pip==/,/[^\\]$$/p' -e '/^uv==/,/[^\\]$$/p' $< >$(DEV)/uv.txt; \
	  "$$@" install -q --no-compile --no-deps -r $(DEV)/uv.txt; }; \
	for python in $(PYTHON) python3 python python3.12 python3.11 python3.10 python3.13; do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null || continue; \
	  "$$python" -m venv --clear --without-pip $(DEV) && \
	  bring "$$python" -m pip --python $(DEV)/bin/python 2>/dev/null || { \
	    "$$python" -m venv --clear $(DEV) || uv venv -q --clear --seed --python "$$python" $(DEV); \
	    bring $(DEV)/bin/python -m pip; }; \
	  PYTHON= $(ENV) dev $(DEV) >/dev/null; cp $< $@; exit; \
	done; echo 'error: no Python 3.8 or newer that runs; install one, or name it with PYTHON=' >&2; exit 2

lock: dev ## the versions and hashes of requirements/locks, from the requirement files
	@tools/dev/lock.sh

clean: ## what builds and checks leave behind; not the environment, not data, not results
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	@find scsa tools tests configs docs -name __pycache__ -prune -exec rm -rf {} +

# The last checkpoint, not the best: the digits have no third part to choose it on.
define train_and_test
	@$(RUN) tools/train.py configs/quickstart/$(1).py --channels-last --work-dir work_dirs/$(1)
	@$(RUN) tools/test.py configs/quickstart/$(1).py "$$(< work_dirs/$(1)/last_checkpoint)" --work-dir work_dirs/$(1) \
		--out work_dirs/$(1)/predictions.pkl
endef
