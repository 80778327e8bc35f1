"""Lets mmengine's runner read every file that ``read_checkpoint`` reads, and no other, as safely."""

from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader

from convnext_dense.checkpoints import read_checkpoint


def read_local_checkpoint(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a file for ``load_from``, ``resume`` and the ``Pretrained`` of others' modules.

    Args:
        filename: See ``sources.fetch``.
        map_location: Of no effect: everything is on the CPU, and is copied from there.

    Raises:
        UserError: See ``read_checkpoint``.
    """
    return read_checkpoint(filename, mapped=False)


CheckpointLoader.register_scheme(prefixes="", loader=read_local_checkpoint, force=True)
