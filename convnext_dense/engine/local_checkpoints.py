"""Make mmengine's runner read local checkpoints with ``read_checkpoint``, and thereby safely."""

from collections.abc import Mapping
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader

from convnext_dense.checkpoints import read_checkpoint


def read_local_checkpoint(filename: str, map_location: Any = None) -> Mapping[str, Any]:
    """Read a file for ``load_from``, ``resume`` and the ``Pretrained`` of other packages' modules.

    Args:
        filename: See ``sources.fetch``.
        map_location: Has no effect: everything is read onto the CPU and copied from there.
    """
    return read_checkpoint(filename, mapped=False)


CheckpointLoader.register_scheme(prefixes="", loader=read_local_checkpoint, force=True)
