# An existing environment is updated with its own Python.
PYTHON ?= $(firstword $(wildcard .venv/bin/python) python3)
BIN := .venv/bin
INSTALLED := .venv/installed
ONEDL := .venv-onedl
COMMA := ,

# A second thread makes the demo's small steps a fifth faster on idle cores and several times slower on busy ones.
export OMP_NUM_THREADS ?= 1

# Two single-threaded processes, to fit a small machine.
PYTEST_OPTIONS ?= --numprocesses 2 --dist worksteal

PRETRAINING := pretrain_convnext_atto_shapes
PRETRAINING_CONFIG := configs/demo/$(PRETRAINING).py
PRETRAINING_CHECKPOINT = $$(cat work_dirs/$(PRETRAINING)/last_checkpoint)

DEMO := mask_rcnn_convnext_atto_shapes_pretrained
DEMO_CONFIG := configs/demo/$(DEMO).py
DEMO_CHECKPOINT = $$(cat work_dirs/$(DEMO)/last_checkpoint)

SEGMENTATION := upernet_convnext_atto_shapes
SEGMENTATION_CONFIG := configs/demo/$(SEGMENTATION).py
SEGMENTATION_CHECKPOINT = $$(cat work_dirs/$(SEGMENTATION)/last_checkpoint)

.PHONY: setup demo demo-segmentation test test-onedl check

setup: $(INSTALLED)

# $(call set-up,FOLDER,EXTRAS) installs everything from PyPI; nothing is compiled.
define set-up
	@echo "== Set-up: installing torch and OpenMMLab into $(1), about 6 GB; two to five minutes the first time"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Error: Python 3.10 or later is needed; select it with make PYTHON=...")'
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[$(2)]'
	@touch $(1)/installed
endef

# Runs again only when the requirements change.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(call set-up,.venv,openmmlab$(COMMA)dev)

$(ONEDL)/installed: setup.cfg pyproject.toml constraints.txt
	$(call set-up,$(ONEDL),onedl$(COMMA)dev)

# Continues where it was interrupted; delete work_dirs/ to train again.
demo: $(INSTALLED)
	@echo "== 1/6 Data: drawing images with masks into data/shapes and single shapes into data/shapes_crops"
	$(BIN)/python tools/make_shapes.py data/shapes
	$(BIN)/python tools/make_shapes.py data/shapes_crops --layout crops --num-train 3000 --num-val 600
	@echo "== 2/6 Pre-training ConvNeXt-atto as a classifier of single shapes, about two minutes on two CPU cores"
	$(BIN)/python tools/train.py $(PRETRAINING_CONFIG) --resume
	@echo "== 3/6 Top-1 accuracy on held-out crops"
	$(BIN)/python tools/test.py $(PRETRAINING_CONFIG) $(PRETRAINING_CHECKPOINT)
	@echo "== 4/6 Training Mask R-CNN on the pre-trained backbone, about seven minutes"
	$(BIN)/python tools/train.py $(DEMO_CONFIG) --resume
	@echo "== 5/6 Testing on held-out images"
	$(BIN)/python tools/test.py $(DEMO_CONFIG) $(DEMO_CHECKPOINT)
	@echo "== 6/6 Pictures of predictions"
	$(BIN)/python tools/infer.py $(DEMO_CONFIG) $(DEMO_CHECKPOINT) $$(ls data/shapes/val2017/*.jpg | head -n 12) \
		--out-dir outputs/demo --score-thr 0.5
	@echo "== Done. Checkpoint: $(DEMO_CHECKPOINT)   Pictures: outputs/demo"

demo-segmentation: $(INSTALLED)
	@echo "== 1/4 Data: drawing images with labels into data/shapes_ade"
	$(BIN)/python tools/make_shapes.py data/shapes_ade --layout ade
	@echo "== 2/4 Training UperNet on ConvNeXt-atto from random weights, about three minutes on two CPU cores"
	$(BIN)/python tools/train.py $(SEGMENTATION_CONFIG) --resume
	@echo "== 3/4 Testing on held-out images"
	$(BIN)/python tools/test.py $(SEGMENTATION_CONFIG) $(SEGMENTATION_CHECKPOINT)
	@echo "== 4/4 Pictures of predictions"
	$(BIN)/python tools/infer.py $(SEGMENTATION_CONFIG) $(SEGMENTATION_CHECKPOINT) \
		$$(ls data/shapes_ade/images/validation/*.jpg | head -n 12) --out-dir outputs/demo-segmentation
	@echo "== Done. Checkpoint: $(SEGMENTATION_CHECKPOINT)   Pictures: outputs/demo-segmentation"

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST_OPTIONS)

# The same tests with the forks, which are imported under the same names.
test-onedl: $(ONEDL)/installed
	$(ONEDL)/bin/python -m pytest $(PYTEST_OPTIONS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(MAKE) test
