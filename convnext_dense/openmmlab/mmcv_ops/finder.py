"""Import hook that provides ``mmcv._ext`` where mmcv was installed without its compiled module.

Source: the names in the module are those of mmcv's binding,
https://github.com/open-mmlab/mmcv/blob/v2.1.0/mmcv/ops/csrc/pytorch/pybind.cpp

Differs: an operator that is not implemented raises ``NotImplementedError`` when it is called.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULE_NAME = "mmcv._ext"

_FAMILIES = (
    "nms",
    "roi",
    "deform",
    "focal",
    "attention",
    "carafe",
    "psa_mask",
    "masked_conv",
    "border_align",
    "deform_roi_pool",
    "prroi_pool",
    "unserved",
)


class MmcvOpsLoader(Loader):
    """Fills the module ``mmcv._ext`` with every name that mmcv imports from it."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave the creation of the module to Python."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Set the operators, and a stand-in for each that is not implemented, as attributes of ``module``.

        They are attributes rather than results of a module-level ``__getattr__``, so a name that mmcv does not define
        still raises an ``AttributeError``.
        """
        for family in _FAMILIES:
            operators = importlib.import_module(f"{__package__}.{family}").OPERATORS
            for name, operator in operators.items():
                setattr(module, name, operator)


class MmcvOpsFinder(MetaPathFinder):
    """Finds ``mmcv._ext`` and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for ``mmcv._ext``, and ``None`` for any other name.

        mmengine concludes from this spec that mmcv's operators are available (``mmcv_full_available``).
        """
        if fullname != MODULE_NAME:
            return None
        return importlib.util.spec_from_loader(fullname, MmcvOpsLoader(), origin="convnext_dense")


def serve_mmcv_ops() -> None:
    """Provide ``mmcv._ext`` from torchvision and torch in this process, unless mmcv has a compiled module.

    The finder goes to the end of ``sys.meta_path``: Python's own finders come first, so a compiled module wins. This
    call imports nothing, so it also works without mmcv, and a second call changes nothing.
    """
    if not any(isinstance(finder, MmcvOpsFinder) for finder in sys.meta_path):
        sys.meta_path.append(MmcvOpsFinder())
