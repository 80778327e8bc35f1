"""Allow-list for ``torch.load(weights_only=True)`` that lets mmengine's own checkpoints load safely.

mmengine stores its message hub in every checkpoint: scalars are kept in ``HistoryBuffer`` objects, which hold numpy
arrays and references to four of the buffer's own methods. torch >= 2.6 refuses all of them by default. Allow-listing
these names keeps ``weights_only`` on; none of them lets a file run code of its choice.

Source: https://github.com/open-mmlab/mmengine/blob/v0.10.7/mmengine/logging/history_buffer.py (what is pickled)
and https://docs.pytorch.org/docs/stable/notes/serialization.html (how the allow-list works).
"""

from importlib.util import find_spec
from pickle import UnpicklingError
from typing import Any

from convnext_dense.openmmlab.importing import change_on_import

_STATISTICS = ("min", "max", "current", "mean")


def _get_statistic(owner: Any, name: str) -> Any:
    """Stands in for ``builtins.getattr`` while a checkpoint is read.

    Raises:
        UnpicklingError: The attribute is not one of HistoryBuffer's four statistics; an unrestricted ``getattr`` would
            let a crafted file reach any function of any allow-listed class.
    """
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(HistoryBuffer, name)
    raise UnpicklingError(
        f"The checkpoint asks for attribute {name!r} of {owner!r}, which no checkpoint written by mmengine needs; "
        "the file is not loaded."
    )


def allow_mmengine_checkpoints() -> None:
    """Add the classes that mmengine pickles to torch's allow-list, see ``change_on_import``.

    Nothing is done if mmengine is not installed.
    """
    change_on_import("torch", _allow)


def _allow(torch: Any) -> None:
    if find_spec("mmengine") is None:
        return
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    # numpy 2 moved its pickling functions from `core` to `_core`, a name that 1.26 has too; files may contain either.
    from numpy._core import multiarray

    classes = [HistoryBuffer, np.ndarray, np.dtype]
    classes += [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    # Pairs, not bare classes: when torch's own `safe_globals`, which the fork onedl-mmengine enters for every file, is
    # left, it removes its classes from the list even if others had added them.
    allowed: list[Any] = [(kind, f"{kind.__module__}.{kind.__qualname__}") for kind in classes]
    allowed.append((_get_statistic, "builtins.getattr"))
    for package in ("numpy._core.multiarray", "numpy.core.multiarray"):
        allowed.append((multiarray._reconstruct, f"{package}._reconstruct"))
        allowed.append((multiarray.scalar, f"{package}.scalar"))
    torch.serialization.add_safe_globals(allowed)
