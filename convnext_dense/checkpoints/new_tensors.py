"""Decide which tensors of a model may keep their initial values because a checkpoint cannot have them."""

import re
from collections.abc import Collection, Iterable

# Tensors that only a backbone for dense prediction has: output norms, and the levels of an isotropic ConvNeXt.
_DENSE_ONLY = re.compile(r"(norm|levels\.)\d(\.\d)?\.(weight|bias)")
_DENSE_ALONE = re.compile(r"(norm[0-2]|levels\.\d(\.\d)?)\.(weight|bias)")  # norm3 may be a classifier's final norm


def may_stay_new(absent: Iterable[str], in_file: Collection[str]) -> list[str]:
    """Return the absent tensors of a backbone that a classifier does not have; all others must be in the file.

    Args:
        absent: Tensors of the backbone that the file lacks.
        in_file: Tensors of the file, by the backbone's names. If it has any that only a backbone for dense prediction
            has, nothing may stay new.
    """
    if any(_DENSE_ALONE.fullmatch(name) for name in in_file):
        return []
    return [name for name in absent if _DENSE_ONLY.fullmatch(name)]
