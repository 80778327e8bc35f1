"""mmengine's local file backend with atomic writes."""

from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from convnext_dense.files import written_whole

ATOMIC = "convnext_dense.atomic"  # the backend's name in `backend_args`


@register_backend(ATOMIC, force=True)
class AtomicBackend(LocalBackend):
    """Local files that are written whole or not at all; a checkpoint hook selects this backend by ``backend_args``."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write bytes."""
        with written_whole(filepath) as partial:
            partial.write_bytes(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write text."""
        self.put(obj.encode(encoding), filepath)
