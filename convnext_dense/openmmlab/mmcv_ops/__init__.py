"""mmcv's compiled operators, served from torchvision and plain torch where mmcv was installed without them.

``finder.py`` puts the module ``mmcv._ext`` in place, one file per family holds the operators that it serves, and
``unserved.py`` names the others. The families are not imported here: they are loaded when mmcv asks for the module.
"""

from convnext_dense.openmmlab.mmcv_ops.finder import serve_mmcv_ops

__all__ = ["serve_mmcv_ops"]
