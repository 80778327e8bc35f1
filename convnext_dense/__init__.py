"""ConvNeXt as the backbone of dense-prediction models in the OpenMMLab ecosystem.

Importing this package makes stock OpenMMLab run on current torch: it provides ``mmcv._ext`` where mmcv is not compiled,
lets checkpoints written by mmengine load with ``weights_only=True``, and keeps both sides of a resized image at one
pixel or more. It imports neither mmdet, mmsegmentation nor timm, and does not touch a compiled mmcv.
"""

from convnext_dense.openmmlab import allow_mmengine_checkpoints, keep_a_pixel_on_resizing, serve_mmcv_ops

__version__ = "0.1.0"

serve_mmcv_ops()
keep_a_pixel_on_resizing()
allow_mmengine_checkpoints()
