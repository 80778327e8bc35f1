"""ConvNeXt as the backbone of dense-prediction models in the OpenMMLab ecosystem.

Importing this package makes stock OpenMMLab run on today's torch: ``mmcv._ext`` is served where mmcv was not
compiled, the checkpoints that mmengine writes load with ``weights_only=True``, and thin images are resized to no less
than a pixel. It imports neither mmdet, mmsegmentation nor timm, and leaves a compiled mmcv alone.
"""

from convnext_dense.openmmlab import allow_mmengine_checkpoints, keep_a_pixel_on_resizing, serve_mmcv_ops

__version__ = "0.1.0"

serve_mmcv_ops()
keep_a_pixel_on_resizing()
allow_mmengine_checkpoints()
