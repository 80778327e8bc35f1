"""ConvNeXt as the backbone of dense-prediction models in the OpenMMLab ecosystem.

Importing this package makes stock OpenMMLab run on today's torch: ``mmcv._ext`` is served where mmcv was not
compiled, and the checkpoints that mmengine writes load with ``weights_only=True``. It imports neither mmdet,
mmsegmentation nor timm, and leaves a compiled mmcv alone.
"""

from convnext_dense.openmmlab import allow_mmengine_checkpoints, serve_mmcv_ops

__version__ = "0.1.0"

serve_mmcv_ops()
allow_mmengine_checkpoints()
