"""Additions that stock OpenMMLab needs to work with current torch versions."""

from convnext_dense.openmmlab.mmcv_ops.finder import serve_mmcv_ops
from convnext_dense.openmmlab.resizing import keep_a_pixel_on_resizing
from convnext_dense.openmmlab.safe_loading import allow_mmengine_checkpoints
from convnext_dense.openmmlab.shipped_configs import name_shipped_configs

__all__ = ["allow_mmengine_checkpoints", "keep_a_pixel_on_resizing", "name_shipped_configs", "serve_mmcv_ops"]
