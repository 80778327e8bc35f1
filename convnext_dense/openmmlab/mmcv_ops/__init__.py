"""mmcv's compiled operators, implemented with torchvision and plain torch for installations of mmcv without them.

``finder.py`` provides the module ``mmcv._ext``. One file per family holds the operators; ``unserved.py`` lists those
that are not implemented. The families are not imported here: they are loaded when mmcv imports the module.
"""

from convnext_dense.openmmlab.mmcv_ops.finder import serve_mmcv_ops

__all__ = ["serve_mmcv_ops"]
