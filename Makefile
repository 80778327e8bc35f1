PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

# A second thread makes the demo's small steps a fifth faster on idle cores, and several times slower on busy ones.
export OMP_NUM_THREADS ?= 1

DEMO := mask_rcnn_convnext_atto_shapes
DEMO_CONFIG := configs/demo/$(DEMO).py
DEMO_CHECKPOINT = $$(cat work_dirs/$(DEMO)/last_checkpoint)

.PHONY: setup demo test check

setup: $(INSTALLED)

# Everything comes from PyPI as wheels; nothing is compiled. Runs again only when the requirements change.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@echo "== Set-up: .venv with torch and OpenMMLab, about 6 GB; two to five minutes the first time"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Error: Python 3.10 or later is needed; name it with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[openmmlab,dev]'
	@touch $(INSTALLED)

# Goes on where it was interrupted; delete work_dirs/ to train again.
demo: $(INSTALLED)
	@echo "== 1/4 Data: drawing images with masks into data/shapes"
	$(BIN)/python tools/make_shapes.py data/shapes
	@echo "== 2/4 Training Mask R-CNN on ConvNeXt-atto from random weights, on two CPU cores about seven minutes"
	$(BIN)/python tools/train.py $(DEMO_CONFIG) --resume
	@echo "== 3/4 Testing on held-out images"
	$(BIN)/python tools/test.py $(DEMO_CONFIG) $(DEMO_CHECKPOINT)
	@echo "== 4/4 Pictures of predictions"
	$(BIN)/python tools/infer.py $(DEMO_CONFIG) $(DEMO_CHECKPOINT) $$(ls data/shapes/val2017/*.jpg | head -n 12) \
		--out-dir outputs/demo --score-thr 0.5
	@echo "== Done. Checkpoint: $(DEMO_CHECKPOINT)   Pictures: outputs/demo"

test: $(INSTALLED)
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(MAKE) test
